//! What holds for the whole mesh and what distinguishes one proxy.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use isthmus_model::{ClusterId, Labels, Locality, Namespace, NetworkId, SpiffeId, TrustDomain};
use isthmus_registry::{Snapshot, Workload};
use isthmus_resources::istio::{Duration, LocalityLb, OutboundMode, TcpKeepalive};
use isthmus_resources::mesh::MeshConfig;

use crate::access_log::AccessLog;

/// Settings that are the same for every proxy of one control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshSettings {
    /// Trust domain of our workloads.
    pub trust_domain: TrustDomain,
    /// Former names of it, accepted and expanded in policies.
    pub trust_domain_aliases: Vec<TrustDomain>,
    /// The cluster whose control plane this is.
    pub cluster: ClusterId,
    /// Namespace of mesh-wide policies.
    pub root_namespace: Namespace,
    /// Cluster DNS domain, `cluster.local`.
    pub domain: String,
    /// How gateways reach our own control plane.
    pub control_plane: ControlPlane,
    /// What happens to destinations that nobody declared.
    pub outbound_policy: OutboundPolicy,
    /// What holds where no DestinationRule says anything.
    pub defaults: Defaults,
    /// Where and how Envoys log connections.
    pub access_log: AccessLog,
}

impl MeshSettings {
    /// These settings under a mesh's configuration: what it says comes first.
    #[must_use]
    pub fn under(&self, mesh: &MeshConfig) -> Self {
        let mut new = self.clone();
        if let Some(domain) = &mesh.trust_domain {
            new.trust_domain = domain.clone();
        }
        if !mesh.trust_domain_aliases.is_empty() {
            new.trust_domain_aliases.clone_from(&mesh.trust_domain_aliases);
        }
        if let Some(root) = &mesh.root_namespace {
            new.root_namespace = root.clone();
        }
        if let Some(unknown) = mesh.outbound_traffic_policy {
            new.outbound_policy = match unknown.mode {
                OutboundMode::RegistryOnly => OutboundPolicy::RegistryOnly,
                _ => OutboundPolicy::AllowAny,
            };
        }
        let defaults = &mut new.defaults;
        defaults.connect_timeout = mesh.connect_timeout.or(defaults.connect_timeout);
        if let Some(keepalive) = &mesh.tcp_keepalive {
            defaults.keepalive = Some(keepalive.clone());
        }
        if let Some(locality) = &mesh.locality_lb_setting {
            defaults.locality = Some(locality.clone());
        }
        if let Some(automatic) = mesh.enable_auto_mtls {
            defaults.plain = !automatic;
        }
        if !mesh.access_log_file.is_empty() {
            new.access_log = AccessLog::of(mesh);
        }
        new
    }
}

/// What holds for connections where no DestinationRule says anything; what is absent is ours to choose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    /// Patience for a connect.
    pub connect_timeout: Option<Duration>,
    /// Keepalive of all connections.
    pub keepalive: Option<TcpKeepalive>,
    /// Balancing over localities, where a Service asks for nothing either.
    pub locality: Option<LocalityLb>,
    /// Whether clients never find out by themselves who speaks mutual TLS (Istio's `enableAutoMtls: false`).
    pub plain: bool,
}

/// How gateways reach our own control plane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControlPlane {
    /// Server names that lead to it, such as `default.west.federation.isthmus.internal` and `istiod.istio-system.svc`.
    pub names: Vec<String>,
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
}

/// What happens to destinations that nobody declared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OutboundPolicy {
    /// They are reached as they are.
    #[default]
    AllowAny,
    /// They are refused.
    RegistryOnly,
}

/// What a proxy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyKind {
    /// Beside one workload.
    Sidecar,
    /// A gateway.
    Router,
    /// A gRPC client without a proxy (Istio's `GENERATOR: grpc`).
    Grpc,
}

impl ProxyKind {
    /// In Istio's words: `sidecar`, `router`, `grpc`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Router => "router",
            Self::Grpc => "grpc",
        }
    }
}

/// One proxy, as its stream's node and certificate say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Sidecar, gateway or gRPC client.
    pub kind: ProxyKind,
    /// Namespace of the workload.
    pub namespace: Namespace,
    /// Name of the workload.
    pub name: Arc<str>,
    /// Service account.
    pub service_account: Arc<str>,
    /// Cluster that it belongs to.
    pub cluster: ClusterId,
    /// Network that it says it is on; of one that says nothing its workload's counts, else its cluster's, else that of its address.
    pub network: NetworkId,
    /// Where it runs.
    pub locality: Locality,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Labels of the workload, used until its Pod or WorkloadEntry is known.
    pub labels: Labels,
    /// Networks whose endpoints alone it wants (`REQUESTED_NETWORK_VIEW`); empty is all.
    pub requested_network_view: Vec<NetworkId>,
    /// Whether its agent answers DNS, so that hosts may have addresses that only the mesh knows.
    pub dns_capture: bool,
    /// For a gateway of ours: it fetches clusters and endpoints as its traffic names them (`ISTHMUS_ON_DEMAND`).
    pub on_demand: bool,
    /// Node that it runs on, for `internalTrafficPolicy: Local` and `PreferSameNode`.
    pub node: Option<Arc<str>>,
}

impl Proxy {
    /// The network that it is on, as a snapshot knows it.
    #[must_use]
    pub fn network_in(&self, snapshot: &Snapshot) -> NetworkId {
        if !self.network.is_unnamed() {
            return self.network.clone();
        }
        self.network_of(snapshot, snapshot.workload(&self.cluster, &self.namespace, &self.name, &self.ips))
    }

    /// As [`Proxy::network_in`], where its workload is known already.
    pub(crate) fn network_of(&self, snapshot: &Snapshot, workload: Option<&Arc<Workload>>) -> NetworkId {
        let of_workload = workload.map(|workload| &workload.network);
        let of_cluster = || snapshot.networks.get(&self.cluster);
        let of_address = || {
            let all = snapshot.mesh.networks.ranges();
            let holds = |range: &ipnet::IpNet| self.ips.first().is_some_and(|ip| range.contains(ip));
            all.into_iter().find(|(range, _)| holds(range)).map(|(_, network)| network)
        };
        let named = |network: &&NetworkId| !network.is_unnamed();
        let said = Some(&self.network).filter(named).or_else(|| of_workload.filter(named));
        let known = said.or_else(|| of_cluster().filter(named)).cloned();
        known.or_else(of_address).unwrap_or_default()
    }

    /// Its identity in a trust domain.
    #[must_use]
    pub fn identity(&self, trust_domain: &TrustDomain) -> SpiffeId {
        SpiffeId {
            trust_domain: trust_domain.clone(),
            namespace: self.namespace.clone(),
            service_account: Arc::clone(&self.service_account),
        }
    }
}
