//! How often snapshots are made while changes keep coming.
//!
//! A snapshot costs each stream that sees it a message, an acknowledgement and their system calls, about 40 µs of a core. A change after
//! a quiet time is told at once, and a few more are; when they keep coming, as many are told together as keep the streams' share at a
//! fifth of a core.

use std::time::Duration;

use tokio::time::Instant;

/// Time between snapshots for each open stream.
const EACH: Duration = Duration::from_micros(200);
/// Nobody waits longer than this because others do.
const LONGEST: Duration = Duration::from_millis(250);
/// Snapshots that may be made at once after a quiet time.
const BURST: u32 = 4;

/// Spaces snapshots.
#[derive(Debug)]
pub(super) struct Pace {
    /// When the next one would be due if all of them were evenly spaced.
    due: Instant,
    space: Duration,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { due: Instant::now(), space: Duration::ZERO }
    }

    /// The earliest moment for the next snapshot.
    pub(super) fn earliest(&self) -> Instant {
        self.due.checked_sub(self.space * (BURST - 1)).unwrap_or(self.due)
    }

    /// A snapshot was made now, which so many streams may have to be told.
    pub(super) fn made(&mut self, streams: usize) {
        let streams = u32::try_from(streams).unwrap_or(u32::MAX);
        self.space = EACH.saturating_mul(streams).min(LONGEST);
        self.due = self.due.max(Instant::now()) + self.space;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_after_a_quiet_time_come_at_once_and_many_are_spaced_by_what_they_cost() {
        let mut pace = Pace::new();
        for _ in 0..BURST {
            assert!(pace.earliest() <= Instant::now());
            pace.made(1000);
        }
        let wait = pace.earliest() - Instant::now();
        assert_eq!(wait, Duration::from_millis(200));
        tokio::time::advance(wait).await;
        pace.made(1000);
        assert_eq!(pace.earliest() - Instant::now(), Duration::from_millis(200));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(pace.earliest() <= Instant::now());
        pace.made(1_000_000);
        assert!(pace.earliest() <= Instant::now() + LONGEST);
    }

    #[tokio::test(start_paused = true)]
    async fn without_streams_nothing_waits() {
        let mut pace = Pace::new();
        for _ in 0..100 {
            pace.made(0);
            assert!(pace.earliest() <= Instant::now());
        }
    }
}
