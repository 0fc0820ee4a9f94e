//! What is being relayed now, for whoever asks.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ipnet::IpNet;
use isthmus_model::NetworkId;
use parking_lot::Mutex;
use slab::Slab;

use crate::access::Record;

/// Most connections that one answer tells of.
const MOST: usize = 10_000;

/// Bytes moved so far.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Moved {
    /// From the downstream, and to it.
    pub(crate) fn set(&self, received: u64, sent: u64) {
        self.received.store(received, Ordering::Relaxed);
        self.sent.store(sent, Ordering::Relaxed);
    }
}

/// One connection that is relayed.
pub(crate) struct Flow {
    id: u64,
    pub(crate) record: Record,
    pub(crate) moved: Moved,
}

/// All of them.
#[derive(Default)]
pub(crate) struct Flows {
    next: AtomicU64,
    open: Mutex<Slab<Arc<Flow>>>,
}

impl Flows {
    /// Lists a connection until [`Flows::leave`].
    pub(crate) fn enter(&self, record: Record) -> (Arc<Flow>, usize) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let flow = Arc::new(Flow { id, record, moved: Moved::default() });
        let key = self.open.lock().insert(Arc::clone(&flow));
        (flow, key)
    }

    pub(crate) fn leave(&self, key: usize) {
        let left = self.open.lock().try_remove(key);
        // not while the list is locked
        drop(left);
    }

    /// The newest [`MOST`] of them, oldest first.
    pub(crate) fn json(&self, networks: &Networks) -> serde_json::Value {
        let mut flows: Vec<Arc<Flow>> = self.open.lock().iter().map(|(_, flow)| Arc::clone(flow)).collect();
        let open = flows.len();
        flows.sort_unstable_by_key(|flow| flow.id);
        flows.drain(..open.saturating_sub(MOST));
        let flows: Vec<_> = flows.iter().map(|flow| flow.json(networks)).collect();
        serde_json::json!({ "open": open, "flows": flows })
    }
}

impl Flow {
    fn json(&self, networks: &Networks) -> serde_json::Value {
        let record = &self.record;
        let service = record.cluster.as_ref().and_then(|cluster| cluster.config.service.as_ref());
        let workload = record.endpoint.as_ref().and_then(|endpoint| endpoint.workload.as_ref());
        serde_json::json!({
            "id": self.id,
            "listener": record.listener.name,
            "source": record.source,
            "sourceNetwork": networks.of(record.source.ip()).map_or("", |network| network.as_str()),
            "serverName": record.server_name.as_deref().unwrap_or_default(),
            "service": service.map_or("", |service| &*service.host),
            "destinationCluster": workload.map_or("", |workload| &*workload.cluster),
            "upstream": record.upstream_address.as_ref().map(SocketAddr::to_string).unwrap_or_default(),
            "ageMs": u64::try_from(record.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            "received": self.moved.received.load(Ordering::Relaxed),
            "sent": self.moved.sent.load(Ordering::Relaxed),
        })
    }
}

/// Networks by the addresses that their connections come from.
#[derive(Debug, Clone, Default)]
pub struct Networks(Vec<(IpNet, NetworkId)>);

impl Networks {
    /// Of several ranges that hold an address the narrowest counts.
    #[must_use]
    pub fn new(mut ranges: Vec<(IpNet, NetworkId)>) -> Self {
        ranges.sort_by_key(|(range, _)| std::cmp::Reverse(range.prefix_len()));
        Self(ranges)
    }

    /// The network of an address, where it tells.
    #[must_use]
    pub fn of(&self, address: IpAddr) -> Option<&NetworkId> {
        let address = address.to_canonical();
        self.0.iter().find(|(range, _)| range.contains(&address)).map(|(_, network)| network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_range_names_the_network() {
        let range = |text: &str, network: &str| (text.parse().unwrap(), network.parse().unwrap());
        let networks = Networks::new(vec![range("10.0.0.0/8", "all"), range("10.1.0.0/16", "east")]);
        let of = |text: &str| networks.of(text.parse().unwrap()).map(NetworkId::as_str);
        assert_eq!(of("10.1.2.3"), Some("east"));
        assert_eq!(of("::ffff:10.2.2.3"), Some("all"));
        assert_eq!(of("192.0.2.1"), None);
    }
}
