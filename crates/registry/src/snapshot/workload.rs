//! Workloads of the mesh.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use isthmus_model::{ClusterId, Health, Labels, Locality, Namespace, NetworkId, SpiffeId, TlsMode};

/// What a workload was declared as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WorkloadKind {
    /// A Pod.
    Pod,
    /// A WorkloadEntry.
    Entry,
}

/// What names a workload.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadKey {
    /// Cluster that declares it.
    pub cluster: ClusterId,
    /// Namespace.
    pub namespace: Namespace,
    /// Name of the object.
    pub name: Arc<str>,
    /// Kind of the object.
    pub kind: WorkloadKind,
}

/// One pod or VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its name.
    pub key: WorkloadKey,
    /// IP addresses; a WorkloadEntry may have a host name instead.
    pub addresses: Vec<Arc<str>>,
    /// Own labels and topology labels.
    pub labels: Labels,
    /// Identity, when a service account is known.
    pub identity: Option<SpiffeId>,
    /// Mutual TLS or plain.
    pub tls: TlsMode,
    /// Where it runs.
    pub locality: Locality,
    /// Its network.
    pub network: NetworkId,
    /// Named ports.
    pub ports: BTreeMap<Arc<str>, u16>,
    /// Weight.
    pub weight: u32,
    /// Readiness of the object itself.
    pub health: Health,
    /// Host name within `subdomain`, of a StatefulSet's Pod.
    pub hostname: Option<Arc<str>>,
    /// The headless service that names it.
    pub subdomain: Option<Arc<str>>,
}

impl Workload {
    /// Its addresses that are IPs.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().filter_map(|address| address.parse().ok())
    }
}
