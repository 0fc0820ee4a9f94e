//! How late changes are seen: what was written when, and a histogram over all proxies.

use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

/// Buckets of 0.1 ms: 30 s.
const BUCKETS: usize = 300_000;

/// All writes and all receipts of one measurement.
pub struct Late {
    /// By service, the times of its writes in order.
    writes: RwLock<Vec<Vec<u32>>>,
    buckets: Vec<AtomicU32>,
}

/// Milliseconds from a write to its receipt, over all proxies.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Quantiles {
    /// Receipts counted.
    pub count: u64,
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// The last.
    pub max: f64,
}

impl Late {
    /// Nothing written yet.
    #[must_use]
    pub fn new(services: usize) -> Self {
        Self {
            writes: RwLock::new(vec![Vec::new(); services]),
            buckets: std::iter::repeat_with(AtomicU32::default).take(BUCKETS).collect(),
        }
    }

    /// Something is about to be written.
    pub fn written(&self, service: usize, at: u32) {
        if let Some(writes) = self.writes.write().get_mut(service)
            && writes.last() != Some(&at)
        {
            writes.push(at);
        }
    }

    /// A proxy, whose state of a service was that of mark `before`, has received that of `mark`. All writes up to it have arrived
    /// now: those in between were replaced before they were sent.
    pub fn received(&self, service: usize, before: u32, mark: u32, now: u32) {
        let writes = self.writes.read();
        let Some(writes) = writes.get(service) else { return };
        let from = writes.partition_point(|at| *at <= before);
        let upto = writes.partition_point(|at| *at <= mark);
        for at in writes.get(from..upto).unwrap_or_default() {
            let late = now.saturating_sub(*at) as usize;
            self.buckets[late.min(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The quantiles since the last call; what was written is forgotten.
    pub fn take(&self) -> Quantiles {
        self.writes.write().iter_mut().for_each(Vec::clear);
        let counts: Vec<u64> =
            self.buckets.iter().map(|bucket| u64::from(bucket.swap(0, Ordering::Relaxed))).collect();
        let count: u64 = counts.iter().sum();
        let at = |share: u64| {
            let mut below = 0;
            let wanted = (count * share).div_ceil(1000).max(1);
            let found = counts.iter().position(|n| {
                below += n;
                below >= wanted
            });
            milliseconds(found.unwrap_or(0))
        };
        if count == 0 {
            return Quantiles::default();
        }
        Quantiles { count, p50: at(500), p99: at(990), max: at(1000) }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a bucket's number is small")]
fn milliseconds(bucket: usize) -> f64 {
    bucket as f64 / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_was_replaced_before_it_was_sent_is_late_too() {
        let late = Late::new(2);
        late.written(1, 100);
        late.written(1, 200);
        late.received(1, 0, 200, 210);
        late.received(1, 200, 200, 999);
        let found = late.take();
        assert_eq!((found.count, found.p50, found.p99, found.max), (2, 1.0, 11.0, 11.0));
        assert_eq!(late.take().count, 0);
    }
}
