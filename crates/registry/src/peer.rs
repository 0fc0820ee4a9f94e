//! What peers say of themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isthmus_model::{
    ClusterId, Common, Endpoint, Health, NetworkGateway, PeerChange, Ports, Resolution, Service,
    ServiceExport, ServicePort, Source, TlsMode, shared_ports,
};
use isthmus_resources::convert::topology_labels;
use thiserror::Error;

use crate::snapshot::{PeerState, ServiceKey};

/// Why a peer's record was not taken. The rest of what it says stays in force.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refused {
    /// Our own cluster is no peer.
    #[error("peer {peer} has the name of this cluster; its records would replace our own")]
    Ourselves {
        /// The peer.
        peer: ClusterId,
    },
    /// A gateway of another cluster.
    #[error(
        "peer {peer} announced gateway {address} in the name of cluster {claimed}; a peer may only speak of itself"
    )]
    ForeignGateway {
        /// The peer.
        peer: ClusterId,
        /// The cluster that it claimed to be.
        claimed: ClusterId,
        /// The gateway's address.
        address: Arc<str>,
    },
    /// A service that is never shared.
    #[error("peer {peer} exported {host}, which belongs to each cluster alone")]
    ClusterLocal {
        /// The peer.
        peer: ClusterId,
        /// The host.
        host: String,
    },
}

/// One peer's records.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Peer {
    pub(crate) exports: BTreeMap<ServiceKey, Arc<ServiceExport>>,
    pub(crate) gateways: BTreeSet<NetworkGateway>,
    pub(crate) state: PeerState,
}

/// What one change touched.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    pub(crate) services: Vec<ServiceKey>,
    pub(crate) gateways: bool,
}

impl Peer {
    /// Takes over one change, except [`PeerChange::Unlinked`], which is for the owner of this value.
    pub(crate) fn apply(&mut self, peer: &ClusterId, change: PeerChange) -> Result<Touched, Refused> {
        let mut touched = Touched::default();
        match change {
            PeerChange::Service(export) => {
                if is_cluster_local(export.namespace.as_str(), &export.name) {
                    return Err(Refused::ClusterLocal { peer: peer.clone(), host: export.host.to_string() });
                }
                let key = ServiceKey::new(export.host.clone(), export.namespace.clone());
                touched.services = self.other_namespaces(&export.host, &key);
                for moved in &touched.services {
                    self.exports.remove(moved);
                }
                self.exports.insert(key.clone(), Arc::new(export));
                touched.services.push(key);
            }
            PeerChange::ServiceRemoved(host) => {
                let gone: Vec<ServiceKey> =
                    self.exports.keys().filter(|key| key.host == host).cloned().collect();
                for key in &gone {
                    self.exports.remove(key);
                }
                touched.services = gone;
            }
            PeerChange::Gateway(gateway) => {
                if gateway.cluster != *peer {
                    return Err(Refused::ForeignGateway {
                        peer: peer.clone(),
                        claimed: gateway.cluster,
                        address: gateway.address,
                    });
                }
                touched.gateways = self.gateways.insert(gateway);
            }
            PeerChange::GatewayRemoved(gateway) => touched.gateways = self.gateways.remove(&gateway),
            PeerChange::Synced => self.state = PeerState::Synced,
            PeerChange::Unlinked => {}
        }
        Ok(touched)
    }

    /// A peer exports a host once: an export under another namespace replaces the earlier one.
    fn other_namespaces(&self, host: &isthmus_model::Hostname, key: &ServiceKey) -> Vec<ServiceKey> {
        self.exports.keys().filter(|other| other.host == *host && *other != key).cloned().collect()
    }
}

/// Namespaces and services that every cluster has for itself.
pub(crate) fn is_cluster_local(namespace: &str, name: &str) -> bool {
    namespace == "kube-system" || (namespace == "default" && name == "kubernetes")
}

/// A service that only a peer declares.
pub(crate) fn imported_service(peer: &ClusterId, export: &ServiceExport) -> Service {
    Service {
        host: export.host.clone(),
        name: Arc::clone(&export.name),
        namespace: export.namespace.clone(),
        source: Source::Imported(peer.clone()),
        addresses: Vec::new(),
        auto_addresses: Vec::new(),
        ports: export.ports.clone(),
        resolution: Resolution::Static,
        location: export.location,
        selector: None,
        labels: export.labels.clone(),
        export_to: Vec::new(),
        created: 0,
    }
}

/// The peer's capacity behind a service as it is declared here: one endpoint for each place that has ready capacity. Ports match
/// by number, which is what the server name carries.
pub(crate) fn aggregates(peer: &ClusterId, export: &ServiceExport, ports: &[ServicePort]) -> Vec<Endpoint> {
    let shared: Ports = ports
        .iter()
        .filter(|port| export.ports.iter().any(|theirs| theirs.number == port.number))
        .map(|port| (Arc::clone(&port.name), port.number))
        .collect();
    let shared = shared_ports(shared);
    let places = export.capacity.iter().filter(|place| place.ready > 0);
    places
        .map(|place| Endpoint {
            address: Arc::default(),
            labels: topology_labels(&place.labels, &place.locality, peer, &place.network, ""),
            workload: Arc::default(),
            weight: place.ready,
            health: Health::Healthy,
            ports: Arc::clone(&shared),
            common: Common {
                namespace: export.namespace.clone(),
                identity: None,
                tls: TlsMode::Istio,
                locality: place.locality.clone(),
                network: place.network.clone(),
                cluster: peer.clone(),
                aggregate: true,
            }
            .shared(),
        })
        .collect()
}
