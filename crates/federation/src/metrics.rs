//! What federation counts, by peer.

use isthmus_model::name::ClusterId;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Peer {
    peer: String,
}

impl From<&ClusterId> for Peer {
    fn from(cluster: &ClusterId) -> Self {
        Self { peer: cluster.to_string() }
    }
}

/// Counters of one hub. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    connected: Family<Peer, Gauge>,
    records: Family<Peer, Gauge>,
    refused: Family<Peer, Gauge>,
    streams: Family<Peer, Counter>,
    changes: Family<Peer, Counter>,
}

impl Metrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let sub = registry.sub_registry_with_prefix("isthmus_federation");
        sub.register("connected", "Whether a stream with the peer is open", metrics.connected.clone());
        sub.register("records", "Records imported from the peer", metrics.records.clone());
        sub.register("refused_records", "Records of the peer that are refused", metrics.refused.clone());
        sub.register("streams", "Streams accepted by both sides", metrics.streams.clone());
        sub.register("changes", "Changes imported from the peer", metrics.changes.clone());
        metrics
    }

    pub(crate) fn opened(&self, peer: &ClusterId) {
        self.streams.get_or_create(&peer.into()).inc();
    }

    pub(crate) fn changed(&self, peer: &ClusterId, count: usize) {
        self.changes.get_or_create(&peer.into()).inc_by(count as u64);
    }

    pub(crate) fn table(&self, peer: &ClusterId, connected: bool, records: usize, refused: usize) {
        let set = |family: &Family<Peer, Gauge>, value: usize| {
            family.get_or_create(&peer.into()).set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&self.connected, usize::from(connected));
        set(&self.records, records);
        set(&self.refused, refused);
    }

    pub(crate) fn forget(&self, peer: &ClusterId) {
        let peer = Peer::from(peer);
        self.connected.remove(&peer);
        self.records.remove(&peer);
        self.refused.remove(&peer);
        self.streams.remove(&peer);
        self.changes.remove(&peer);
    }
}
