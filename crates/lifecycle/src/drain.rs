//! One way to stop: refuse new work, finish what runs, then cut at a deadline.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// The stopping side, held by a program.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    refuse: CancellationToken,
    cut: CancellationToken,
}

/// The watching side, handed to every part.
#[derive(Debug, Clone)]
pub struct Signal {
    refuse: CancellationToken,
    cut: CancellationToken,
}

impl Drain {
    /// Nothing is stopping yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A signal for one part.
    #[must_use]
    pub fn signal(&self) -> Signal {
        Signal { refuse: self.refuse.clone(), cut: self.cut.clone() }
    }

    /// Stop at once.
    pub fn immediate(&self) {
        self.refuse.cancel();
        self.cut.cancel();
    }

    /// Refuse new work now; whatever still runs after `grace` is cut.
    pub async fn graceful(&self, grace: Duration) {
        self.refuse.cancel();
        tokio::select! {
            () = self.cut.cancelled() => {}
            () = tokio::time::sleep(grace) => self.cut.cancel(),
        }
    }

    /// Refuse new work now, without waiting; cut later with [`Drain::immediate`].
    pub fn refuse(&self) {
        self.refuse.cancel();
    }
}

impl Signal {
    /// Completes when new work must be refused.
    pub async fn stopping(&self) {
        self.refuse.cancelled().await;
    }

    /// Completes when running work must end.
    pub async fn cut(&self) {
        self.cut.cancelled().await;
    }

    /// Whether new work must be refused.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.refuse.is_cancelled()
    }

    /// A signal that never comes, for tests and one-shot commands.
    #[must_use]
    pub fn never() -> Self {
        Drain::new().signal()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_graceful_stop_refuses_at_once_and_cuts_after_the_grace() {
        let drain = Drain::new();
        let signal = drain.signal();
        let started = tokio::time::Instant::now();
        let cut = async {
            signal.cut().await;
            started.elapsed()
        };
        let ((), waited) = tokio::join!(drain.graceful(Duration::from_secs(5)), cut);
        assert!(signal.is_stopping());
        assert_eq!(waited, Duration::from_secs(5));
    }
}
