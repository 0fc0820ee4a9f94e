//! Readiness as a set of guards: while one is held, the program is not ready, and its name says what is awaited.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

/// All guards of a program. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Readiness {
    held: Arc<Mutex<BTreeMap<u64, &'static str>>>,
    pending: Arc<watch::Sender<usize>>,
}

/// Held while something is awaited; dropping it unblocks.
#[derive(Debug)]
pub struct Guard {
    id: u64,
    of: Readiness,
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Readiness {
    /// Nothing is awaited.
    #[must_use]
    pub fn new() -> Self {
        Self { held: Arc::default(), pending: Arc::new(watch::Sender::new(0)) }
    }

    /// Blocks readiness until the guard is dropped.
    #[must_use]
    pub fn hold(&self, what: &'static str) -> Guard {
        let mut held = self.held.lock();
        let id = held.last_key_value().map_or(0, |(last, _)| last + 1);
        held.insert(id, what);
        self.pending.send_replace(held.len());
        Guard { id, of: self.clone() }
    }

    /// What is still awaited; empty when ready.
    #[must_use]
    pub fn awaited(&self) -> Vec<&'static str> {
        self.held.lock().values().copied().collect()
    }

    /// Completes when nothing is awaited.
    pub async fn ready(&self) {
        let mut pending = self.pending.subscribe();
        // The sender lives in self, so waiting cannot fail.
        let _ = pending.wait_for(|count| *count == 0).await;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut held = self.of.held.lock();
        if let Some(what) = held.remove(&self.id) {
            tracing::debug!(what, awaited = held.len(), "no longer awaited");
        }
        self.of.pending.send_replace(held.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_once_the_last_guard_is_dropped() {
        let readiness = Readiness::new();
        let (xds, dns) = (readiness.hold("xds"), readiness.hold("dns"));
        assert_eq!(readiness.awaited(), ["xds", "dns"]);
        drop(xds);
        assert_eq!(readiness.awaited(), ["dns"]);
        drop(dns);
        readiness.ready().await;
    }
}
