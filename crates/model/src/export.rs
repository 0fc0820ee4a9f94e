//! What a cluster tells its peers about one service: shape, capacity, identities.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::sync::Arc;

use crate::identity::SpiffeId;
use crate::labels::Labels;
use crate::locality::Locality;
use crate::name::{ClusterId, Hostname, Namespace, NetworkId};
use crate::service::{Location, ServicePort};

/// Ready capacity of one (locality, network, label subset).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// Where.
    pub locality: Locality,
    /// On which network.
    pub network: NetworkId,
    /// Labels that all of them share.
    pub labels: Labels,
    /// Ready endpoints' weight.
    pub ready: u32,
    /// Endpoints that are known and not ready.
    pub unready: u32,
}

/// One exported service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceExport {
    /// Host.
    pub host: Hostname,
    /// Name of the declaring object.
    pub name: Arc<str>,
    /// Its namespace.
    pub namespace: Namespace,
    /// Ports, with targets left out of meaning: importers go through gateways by service port.
    pub ports: Vec<ServicePort>,
    /// The owner's own addresses.
    pub addresses: Vec<IpAddr>,
    /// In the mesh or outside.
    pub location: Location,
    /// Labels of the declaring object.
    pub labels: Labels,
    /// Capacity by place; empty means truly none.
    pub capacity: Vec<Capacity>,
    /// Identities that may answer.
    pub identities: Vec<SpiffeId>,
}

/// A gateway through which a network is entered.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NetworkGateway {
    /// Network behind it.
    pub network: NetworkId,
    /// Cluster that declared it.
    pub cluster: ClusterId,
    /// IP address or host name.
    pub address: Arc<str>,
    /// Mutual TLS port, usually 15443.
    pub port: u16,
}

/// One change in what a peer tells us. Absence is never a change: only the peer's own word removes something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerChange {
    /// A service is exported, or its export changed.
    Service(ServiceExport),
    /// The peer withdrew a service.
    ServiceRemoved(Hostname),
    /// A gateway of the peer's.
    Gateway(NetworkGateway),
    /// The peer withdrew a gateway.
    GatewayRemoved(NetworkGateway),
    /// Everything that the peer had to say has been said once.
    Synced,
    /// The link was removed by its operator: all of the peer's records go.
    Unlinked,
}
