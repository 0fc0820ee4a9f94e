//! What all connections of a proxy share.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use isthmus_lifecycle::TaskGroup;
use parking_lot::{Mutex, RwLock};

use crate::access::Record;
use crate::balance::outlier::Outliers;
use crate::cluster::Cluster;
use crate::clusters::Clusters;
use crate::config::Config;
use crate::connect::Connector;
use crate::flows::{Flow, Flows, Networks};
use crate::metrics::Metrics;
use crate::on_demand::OnDemand;
use crate::on_demand::names::Names;
use crate::relay::clock::Clock;
use crate::resource::listener::Listener;
use crate::resource::tls::Configurations;

pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) tls: Configurations,
    pub(crate) tables: Tables,
    /// Server names that may pass.
    pub(crate) names: Names,
    /// Set where clusters are fetched as connections name them.
    pub(crate) on_demand: OnceLock<OnDemand>,
    pub(crate) connector: Arc<Connector>,
    pub(crate) outliers: Outliers,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) tasks: TaskGroup,
    pub(crate) clock: Arc<Clock>,
    pub(crate) door: Door,
    pub(crate) flows: Flows,
    pub(crate) networks: ArcSwap<Networks>,
}

impl Shared {
    /// The cluster of this name, for a connection.
    pub(crate) fn cluster(&self, name: &str) -> Option<Arc<Cluster>> {
        self.tables.clusters.get(self, name)
    }
}

/// What is in force.
#[derive(Default)]
pub(crate) struct Tables {
    pub(crate) listeners: RwLock<Listeners>,
    pub(crate) clusters: Clusters,
}

/// Listeners by name, and those without a socket by address.
#[derive(Default)]
pub(crate) struct Listeners {
    pub(crate) by_name: HashMap<Arc<str>, Arc<Listener>>,
    pub(crate) by_address: HashMap<SocketAddr, Arc<Listener>>,
}

impl Tables {
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
    /// Bytes of unfinished hellos.
    hellos: AtomicUsize,
}

/// Bytes that an unfinished hello holds; given back when it is dropped.
pub(crate) struct Held<'a> {
    door: &'a Door,
    bytes: usize,
}

impl Door {
    pub(crate) fn hold(&self) -> Held<'_> {
        Held { door: self, bytes: 0 }
    }
}

impl Held<'_> {
    /// Counts up to this many bytes. False when all hellos together would hold more than `most`.
    pub(crate) fn grow(&mut self, bytes: usize, most: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        self.bytes += more;
        more == 0 || self.door.hellos.fetch_add(more, Ordering::Relaxed) + more <= most
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.door.hellos.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A downstream connection that was let in; counted until it is dropped.
pub(crate) struct Admitted {
    shared: Arc<Shared>,
    source: Option<IpAddr>,
    /// Where it is listed, once it is relayed.
    flow: Option<usize>,
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
        let mut admitted = Self { shared: Arc::clone(shared), source: None, flow: None };
        shared.metrics.open().inc();
        (!by_source || admitted.belongs_to(source)).then_some(admitted)
    }

    /// Lists it among those that are relayed.
    pub(crate) fn list(&mut self, record: Record) -> Arc<Flow> {
        let (flow, key) = self.shared.flows.enter(record);
        self.flow = Some(key);
        flow
    }

    /// Counts it for this address. False when that has too many; the reason is counted.
    pub(crate) fn belongs_to(&mut self, address: IpAddr) -> bool {
        let source = client(address);
        let mut sources = self.shared.door.sources.lock();
        let count = sources.entry(source).or_default();
        if *count >= self.shared.config.limits.connections_per_source {
            drop(sources);
            self.shared.metrics.refused("too_many_from_one_source");
            return false;
        }
        *count += 1;
        self.source = Some(source);
        true
    }
}

/// Whom an address stands for: of IPv6 its /64, all of which one client commonly has.
fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.shared.door.inside.fetch_sub(1, Ordering::Relaxed);
        self.shared.metrics.open().dec();
        if let Some(key) = self.flow {
            self.shared.flows.leave(key);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_an_ipv4_address_or_an_ipv6_network() {
        let of = |text: &str| client(text.parse().unwrap()).to_string();
        assert_eq!(of("192.0.2.7"), "192.0.2.7");
        assert_eq!(of("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(of("2001:db8:1:2:ffff::1"), of("2001:db8:1:2::9"));
        assert_ne!(of("2001:db8:1:3::9"), of("2001:db8:1:2::9"));
    }

    #[test]
    fn hellos_together_hold_no_more_than_they_may() {
        let door = Door::default();
        let (mut one, mut other) = (door.hold(), door.hold());
        assert!(one.grow(60, 100) && one.grow(60, 100) && one.grow(80, 100));
        assert!(!other.grow(21, 100));
        drop((one, other));
        assert!(door.hold().grow(100, 100), "what was held is given back");
    }
}
