//! Services of the mesh.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use isthmus_model::{ClusterId, Hostname, Namespace, Service, SpiffeId};

/// What names a service in a snapshot: one host may be declared in several namespaces.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// Host.
    pub host: Hostname,
    /// Namespace of the declaring object.
    pub namespace: Namespace,
}

impl ServiceKey {
    /// The key of a host in a namespace.
    #[must_use]
    pub fn new(host: Hostname, namespace: Namespace) -> Self {
        Self { host, namespace }
    }
}

/// Istio's `spec.trafficDistribution`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TrafficDistribution {
    /// `PreferClose` or `PreferSameZone`.
    SameZone,
    /// `PreferSameNode`.
    SameNode,
}

/// One service, merged from all clusters that declare or export it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshService {
    /// The declaration that decides: Kubernetes before ServiceEntry before import, our own cluster before others.
    pub service: Service,
    /// Addresses by declaring cluster, our own first; a client uses those of its own cluster where there are some.
    pub vips: Vec<(ClusterId, Vec<IpAddr>)>,
    /// Identities that may answer, over all clusters, sorted.
    pub identities: Vec<SpiffeId>,
    /// Those of them that our own cluster's workloads have, ready or not.
    pub own_identities: Vec<SpiffeId>,
    /// Ranges of addresses that a ServiceEntry names: whoever goes to one of them means this service.
    pub ranges: Vec<IpNet>,
    /// SANs that a ServiceEntry lists.
    pub subject_alt_names: Vec<Arc<str>>,
    /// Prefer near endpoints, as the Service asks.
    pub traffic_distribution: Option<TrafficDistribution>,
    /// Only endpoints of the client's own cluster count (`kube-system`, `kubernetes`).
    pub cluster_local: bool,
    /// Only endpoints on the client's own node count (`internalTrafficPolicy: Local`).
    pub node_local: bool,
    /// Endpoints that are not ready count as ready (`publishNotReadyAddresses`).
    pub publish_not_ready: bool,
    /// May peers see it (label `isthmus.io/export`, annotation `networking.istio.io/exportTo`)?
    pub exportable: bool,
    /// Peers that export it to us.
    pub imported_from: BTreeSet<ClusterId>,
}

impl MeshService {
    /// Its key.
    #[must_use]
    pub fn key(&self) -> ServiceKey {
        ServiceKey::new(self.service.host.clone(), self.service.namespace.clone())
    }

    /// The addresses that a client of `cluster` uses: that cluster's own, else the base declaration's (another cluster's VIP is
    /// shown only when the own cluster has none), else the allocated ones.
    #[must_use]
    pub fn addresses(&self, cluster: &ClusterId) -> &[IpAddr] {
        let own = self.vips.iter().find(|(declaring, _)| declaring == cluster);
        match own.map(|(_, own)| own) {
            Some(own) if !own.is_empty() => own,
            _ if !self.service.addresses.is_empty() => &self.service.addresses,
            _ => &self.service.auto_addresses,
        }
    }
}
