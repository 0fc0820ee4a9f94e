//! What all connections of a proxy share.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use isthmus_lifecycle::{Signal, TaskGroup};
use parking_lot::{Mutex, RwLock};

use crate::balance::outlier::Outliers;
use crate::cluster::Cluster;
use crate::config::Config;
use crate::connect::Connector;
use crate::metrics::Metrics;
use crate::resource::assignment::Assignment;
use crate::resource::listener::Listener;
use crate::resource::tls::Configurations;

pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) tls: Configurations,
    pub(crate) tables: Tables,
    pub(crate) connector: Arc<Connector>,
    pub(crate) outliers: Outliers,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) tasks: TaskGroup,
    /// The tasks' signal.
    pub(crate) stop: Signal,
    pub(crate) door: Door,
}

/// What is in force.
#[derive(Default)]
pub(crate) struct Tables {
    pub(crate) listeners: RwLock<Listeners>,
    pub(crate) clusters: RwLock<HashMap<Arc<str>, Arc<Cluster>>>,
    /// By EDS name; clusters may come later than their endpoints.
    pub(crate) assignments: RwLock<HashMap<Arc<str>, Arc<Assignment>>>,
}

/// Listeners by name, and those without a socket by address.
#[derive(Default)]
pub(crate) struct Listeners {
    pub(crate) by_name: HashMap<Arc<str>, Arc<Listener>>,
    pub(crate) by_address: HashMap<SocketAddr, Arc<Listener>>,
}

impl Tables {
    pub(crate) fn cluster(&self, name: &str) -> Option<Arc<Cluster>> {
        self.clusters.read().get(name).cloned()
    }

    /// The listener that stands for a destination: its address and port, else its port on any address.
    pub(crate) fn listener_for(&self, destination: SocketAddr) -> Option<Arc<Listener>> {
        let any: IpAddr = match destination {
            SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let listeners = self.listeners.read();
        let exact = listeners.by_address.get(&destination);
        exact.or_else(|| listeners.by_address.get(&SocketAddr::new(any, destination.port()))).cloned()
    }
}

/// Counts who is in.
#[derive(Debug, Default)]
pub(crate) struct Door {
    inside: AtomicUsize,
    sources: Mutex<HashMap<IpAddr, usize>>,
}

/// A downstream connection that was let in; counted until it is dropped.
pub(crate) struct Admitted {
    shared: Arc<Shared>,
    source: Option<IpAddr>,
}

impl Admitted {
    /// None when there are too many, in all or (where `by_source`) from this address; the reason is counted.
    pub(crate) fn ask(shared: &Arc<Shared>, source: IpAddr, by_source: bool) -> Option<Self> {
        let limits = &shared.config.limits;
        if shared.door.inside.fetch_add(1, Ordering::Relaxed) >= limits.connections {
            shared.door.inside.fetch_sub(1, Ordering::Relaxed);
            shared.metrics.refused("too_many_connections");
            return None;
        }
        // From here on dropping it takes the count back.
        let mut admitted = Self { shared: Arc::clone(shared), source: None };
        shared.metrics.open().inc();
        if by_source {
            let mut sources = shared.door.sources.lock();
            let count = sources.entry(source).or_default();
            if *count >= limits.connections_per_source {
                drop(sources);
                shared.metrics.refused("too_many_from_one_source");
                return None;
            }
            *count += 1;
            admitted.source = Some(source);
        }
        Some(admitted)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.shared.door.inside.fetch_sub(1, Ordering::Relaxed);
        self.shared.metrics.open().dec();
        let Some(source) = self.source else { return };
        let mut sources = self.shared.door.sources.lock();
        if let Some(count) = sources.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&source);
            }
        }
    }
}
