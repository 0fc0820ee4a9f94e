//! The immutable, numbered state of the mesh that translation reads.

mod gateways;
mod service;
mod workload;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use isthmus_model::{ClusterId, Endpoint, Hostname, Labels, Namespace, NetworkId};
use isthmus_resources::mesh::Mesh;

use crate::config::NamespaceConfig;
use crate::shared::Map;

pub use gateways::Gateways;
pub use service::{MeshService, ServiceKey, TrafficDistribution};
pub use workload::{Workload, WorkloadKey, WorkloadKind, Workloads};

/// How much of a peer is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PeerState {
    /// It never said everything once: what it lacks is unknown, not absent.
    #[default]
    Unknown,
    /// Everything was said once: what it lacks is truly absent.
    Synced,
}

/// One peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerView {
    /// How much is known.
    pub state: PeerState,
    /// How many services it exports to us.
    pub services: usize,
}

/// A namespace of our own cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceView {
    /// Labels.
    pub labels: Labels,
    /// Annotations that decide something, such as `networking.istio.io/traffic-distribution`.
    pub annotations: Labels,
}

/// The mesh at one moment. Cloning shares.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Grows by one with each snapshot of one registry.
    pub number: u64,
    /// The cluster whose control plane this is.
    pub cluster: ClusterId,
    /// Namespace of mesh-wide policies.
    pub root_namespace: Namespace,
    /// What the mesh is configured with beside its objects.
    pub mesh: Arc<Mesh>,
    /// Services by host and namespace.
    pub services: Map<ServiceKey, Arc<MeshService>>,
    /// Endpoints of each service; the same keys as `services`.
    pub endpoints: Map<ServiceKey, Arc<[Endpoint]>>,
    /// Pods and WorkloadEntries.
    pub workloads: Workloads,
    /// Namespaces of our cluster.
    pub namespaces: Map<Namespace, Arc<NamespaceView>>,
    /// Configuration by namespace.
    pub config: Map<Namespace, Arc<NamespaceConfig>>,
    /// Default network of each cluster.
    pub networks: Arc<BTreeMap<ClusterId, NetworkId>>,
    /// Gateways of networks.
    pub gateways: Arc<Gateways>,
    /// Peers, linked ones that never spoke included.
    pub peers: Arc<BTreeMap<ClusterId, PeerView>>,
    /// Clusters whose every kind has been listed once: of others, what is missing is unknown.
    pub synced: Arc<BTreeSet<ClusterId>>,
}

impl Snapshot {
    /// A snapshot of nothing.
    #[must_use]
    pub fn empty(cluster: ClusterId, root_namespace: Namespace) -> Self {
        Self {
            number: 0,
            cluster,
            root_namespace,
            mesh: Arc::default(),
            services: Map::new(),
            endpoints: Map::new(),
            workloads: Workloads::default(),
            namespaces: Map::new(),
            config: Map::new(),
            networks: Arc::default(),
            gateways: Arc::default(),
            peers: Arc::default(),
            synced: Arc::default(),
        }
    }

    /// The service that a client in `namespace` means by a host: its own namespace's, else a Kubernetes Service, else the
    /// oldest, of those it may see.
    #[must_use]
    pub fn service(&self, host: &Hostname, namespace: &Namespace) -> Option<&Arc<MeshService>> {
        let start = ServiceKey::new(host.clone(), crate::lowest_namespace());
        self.services
            .iter_from(&start)
            .take_while(|(key, _)| key.host == *host)
            .map(|(_, service)| service)
            .filter(|service| service.service.visible_in(namespace))
            .min_by_key(|service| preference(service, namespace))
    }

    /// Every host that a client in `namespace` may see, with the service that it means.
    #[must_use]
    pub fn visible(&self, namespace: &Namespace) -> Vec<&Arc<MeshService>> {
        let mut chosen: Vec<&Arc<MeshService>> = Vec::with_capacity(self.services.len());
        for service in self.services.values().filter(|service| service.service.visible_in(namespace)) {
            match chosen.last_mut() {
                Some(last) if last.service.host == service.service.host => {
                    if preference(service, namespace) < preference(last, namespace) {
                        *last = service;
                    }
                }
                _ => chosen.push(service),
            }
        }
        chosen
    }

    /// Whether every kind of object of our own cluster has been listed once. Before, nobody should be served: what is missing is
    /// unknown, and a view without it would take away what works.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.synced.contains(&self.cluster)
    }

    /// Endpoints of a service; none when the service is unknown.
    #[must_use]
    pub fn endpoints(&self, key: &ServiceKey) -> Option<&Arc<[Endpoint]>> {
        self.endpoints.get(key)
    }

    /// The workload of a proxy: by name, else by its first IP that is known.
    #[must_use]
    pub fn workload(
        &self,
        cluster: &ClusterId,
        namespace: &Namespace,
        name: &str,
        ips: &[IpAddr],
    ) -> Option<&Arc<Workload>> {
        let named = [WorkloadKind::Pod, WorkloadKind::Entry].into_iter().find_map(|kind| {
            self.workloads.get(&WorkloadKey {
                cluster: cluster.clone(),
                namespace: namespace.clone(),
                name: name.into(),
                kind,
            })
        });
        named.or_else(|| {
            let known = ips.iter().find(|ip| self.workloads.at(cluster, **ip).next().is_some())?;
            self.workloads.at(cluster, *known).find(|workload| workload.key.namespace == *namespace)
        })
    }

    /// Configuration of a namespace.
    #[must_use]
    pub fn config(&self, namespace: &Namespace) -> Option<&Arc<NamespaceConfig>> {
        self.config.get(namespace)
    }

    /// Whether two snapshots hold the same, whatever their numbers: what a test of incremental building compares.
    #[must_use]
    pub fn same_content(&self, other: &Self) -> bool {
        self.mesh == other.mesh
            && self.services == other.services
            && self.endpoints == other.endpoints
            && self.workloads == other.workloads
            && self.namespaces == other.namespaces
            && self.config == other.config
            && self.networks == other.networks
            && self.gateways == other.gateways
            && self.peers == other.peers
            && self.synced == other.synced
    }
}

fn preference(service: &MeshService, namespace: &Namespace) -> (bool, u8, i64) {
    use isthmus_model::Source;
    let kind = match service.service.source {
        Source::Kubernetes(_) => 0,
        Source::ServiceEntry => 1,
        Source::Imported(_) => 2,
    };
    (service.service.namespace != *namespace, kind, service.service.created)
}

/// What differs between a snapshot and the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Services that appeared, vanished, or changed in shape, addresses or identities.
    pub services: BTreeSet<ServiceKey>,
    /// Services whose endpoints changed.
    pub endpoints: BTreeSet<ServiceKey>,
    /// Workloads that appeared, vanished or changed.
    pub workloads: BTreeSet<WorkloadKey>,
    /// Namespaces whose configuration changed.
    pub config: BTreeSet<Namespace>,
    /// Namespaces whose labels changed, appeared or vanished.
    pub namespaces: BTreeSet<Namespace>,
    /// Whether gateways of networks or networks of clusters changed.
    pub networks: bool,
    /// Whether what is known of peers or clusters changed.
    pub knowledge: bool,
    /// Whether the mesh's own configuration changed.
    pub mesh: bool,
}

impl Changes {
    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
