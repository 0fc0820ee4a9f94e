//! Exponential backoff with jitter, for reconnects.

use std::time::Duration;

/// Doubling delays with ±20 % jitter, up to a cap.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts at `first`, doubles up to `cap`.
    #[must_use]
    pub fn new(first: Duration, cap: Duration) -> Self {
        Self { first, cap, next: first }
    }

    /// The next delay.
    pub fn next_delay(&mut self) -> Duration {
        let base = self.next;
        self.next = (base * 2).min(self.cap);
        base.mul_f64(rand::random_range(0.8..=1.2))
    }

    /// Back to the first delay, after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }

    /// Waits for the next delay.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next_delay()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap_and_reset() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(300));
        let within = |delay: Duration, ms: u64| {
            let (low, high) = (Duration::from_millis(ms * 8 / 10), Duration::from_millis(ms * 12 / 10));
            assert!(delay >= low && delay <= high, "{delay:?} is not about {ms} ms");
        };
        for ms in [100, 200, 300, 300] {
            within(backoff.next_delay(), ms);
        }
        backoff.reset();
        within(backoff.next_delay(), 100);
    }
}
