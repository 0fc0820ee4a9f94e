//! One endpoint of a cluster, and what the proxy remembers of its address.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::metrics::Passed;
use crate::resource::assignment::Workload;
use crate::resource::cluster::Outlier;
use crate::resource::tls::Upstream;

/// An endpoint in one state of its cluster.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) host: Arc<Host>,
    pub(crate) weight: u32,
    /// What EDS says.
    pub(crate) healthy: bool,
    pub(crate) transport: Upstream,
    pub(crate) workload: Option<Arc<Workload>>,
    pub(crate) locality: Arc<str>,
    pub(crate) priority: u32,
    /// Where connections through a gateway to it are counted.
    pub(crate) passed: ArcSwapOption<Passed>,
}

impl Endpoint {
    pub(crate) fn address(&self) -> SocketAddr {
        self.host.address
    }
}

/// What is remembered of an address while its cluster lists it, over all updates.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) address: SocketAddr,
    active: AtomicU32,
    connected: AtomicU64,
    failed: AtomicU64,
    /// Failures in a row.
    streak: AtomicU32,
    ejection: Mutex<Ejection>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Ejection {
    until: Option<Instant>,
    /// Ejections that were not forgiven yet.
    times: u32,
    readmitted: Option<Instant>,
}

/// Counts a connection to a host while it lives.
#[derive(Debug)]
pub(crate) struct Active(Arc<Host>);

impl Host {
    pub(crate) fn new(address: SocketAddr) -> Arc<Self> {
        Arc::new(Self {
            address,
            active: AtomicU32::new(0),
            connected: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            streak: AtomicU32::new(0),
            ejection: Mutex::default(),
        })
    }

    pub(crate) fn begin(self: &Arc<Self>) -> Active {
        self.active.fetch_add(1, Ordering::Relaxed);
        Active(Arc::clone(self))
    }

    pub(crate) fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// A connection stands; whether the endpoint is sound shows with its first byte.
    pub(crate) fn connected(&self) {
        self.connected.fetch_add(1, Ordering::Relaxed);
    }

    /// The endpoint answered.
    pub(crate) fn answered(&self) {
        if self.streak.load(Ordering::Relaxed) != 0 {
            self.streak.store(0, Ordering::Relaxed);
        }
    }

    /// The endpoint failed; the number of failures in a row.
    pub(crate) fn failed(&self) -> u32 {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.streak.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// Ejects it, for longer each time. False when it already is.
    pub(crate) fn eject(&self, outlier: &Outlier, now: Instant) -> bool {
        let mut ejection = self.ejection.lock();
        if ejection.until.is_some() {
            return false;
        }
        let quiet = ejection.readmitted.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let forgiven =
            u32::try_from(quiet.as_nanos() / outlier.interval.as_nanos().max(1)).unwrap_or(u32::MAX);
        let times = ejection.times.saturating_sub(forgiven).saturating_add(1);
        let lasts = outlier.base.saturating_mul(times).min(outlier.longest);
        *ejection = Ejection { until: Some(now + lasts), times, readmitted: None };
        true
    }

    /// It did not answer after its time: it stays out for the base time once more.
    pub(crate) fn extend(&self, outlier: &Outlier, now: Instant) {
        self.ejection.lock().until = Some(now + outlier.base);
    }

    pub(crate) fn readmit(&self, now: Instant) {
        let mut ejection = self.ejection.lock();
        ejection.until = None;
        ejection.readmitted = Some(now);
        self.streak.store(0, Ordering::Relaxed);
    }

    pub(crate) fn ejected_until(&self) -> Option<Instant> {
        self.ejection.lock().until
    }

    pub(crate) fn totals(&self) -> (u64, u64) {
        (self.connected.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}
