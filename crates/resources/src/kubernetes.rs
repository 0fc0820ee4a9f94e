//! Kubernetes kinds, cut down at the door to what a mesh reads.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use isthmus_model::{Labels, Protocol, TargetPort};

mod wire;

pub(crate) use wire::{config_map, endpoint_slice, node, pod, secret, service};

/// A namespace; all that matters is its metadata.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Namespace {}

/// A service account; all that matters is that it exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceAccount {}

/// A node. Locality is in its labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Type (`InternalIP`, `ExternalIP`, `Hostname`, …) and address.
    pub addresses: Vec<(Arc<str>, Arc<str>)>,
}

/// `spec.type` of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the API's own")]
pub enum ServiceType {
    #[default]
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Type.
    pub kind: ServiceType,
    /// Its virtual addresses; empty when headless or not allocated yet.
    pub cluster_ips: Vec<IpAddr>,
    /// Whether `clusterIP` is `None`.
    pub headless: bool,
    /// Ports.
    pub ports: Box<[ServicePort]>,
    /// Selector over Pods and WorkloadEntries; none or empty selects nothing.
    pub selector: Labels,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// IPs or host names of `status.loadBalancer.ingress`.
    pub load_balancer: Vec<Arc<str>>,
    /// `spec.externalName`, for that type.
    pub external_name: Option<Arc<str>>,
    /// Whether unready endpoints count as ready.
    pub publish_not_ready: bool,
    /// Whether only endpoints on the caller's node may answer.
    pub internal_local: bool,
    /// `spec.trafficDistribution`.
    pub traffic_distribution: Option<Arc<str>>,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Name; may be empty when it is the only one.
    pub name: Arc<str>,
    /// Number.
    pub number: u16,
    /// Protocol by Istio's rules.
    pub protocol: Protocol,
    /// Port at the workload.
    pub target: TargetPort,
    /// Port at every node, when it has one.
    pub node_port: Option<u16>,
}

/// `status.phase` of a Pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the API's own")]
pub enum Phase {
    #[default]
    Pending,
    Running,
    Succeeded,
    Failed,
    Unknown,
}

/// A Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Addresses, the primary first; empty until it has one.
    pub ips: Arc<[IpAddr]>,
    /// Service account.
    pub service_account: Arc<str>,
    /// Node that it runs on; empty until scheduled.
    pub node: Arc<str>,
    /// Declared container ports.
    pub ports: Arc<[ContainerPort]>,
    /// Phase.
    pub phase: Phase,
    /// Whether condition Ready is True.
    pub ready: bool,
    /// What DNS calls it, when it says that.
    pub dns: Option<Arc<PodDns>>,
    /// Whether it shares its node's network.
    pub host_network: bool,
}

/// What DNS calls a Pod of a StatefulSet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodDns {
    /// `spec.hostname`.
    pub hostname: Option<Arc<str>>,
    /// `spec.subdomain`: the headless Service that names it.
    pub subdomain: Option<Arc<str>>,
}

impl Pod {
    /// Whether it may still take traffic: it has an address and has not ended.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.ips.is_empty() && !matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }

    /// The number of a named TCP port; the first of that name wins.
    #[must_use]
    pub fn named_port(&self, name: &str) -> Option<u16> {
        self.ports.iter().find(|port| port.tcp && &*port.name == name).map(|port| port.number)
    }
}

/// A port that a container declares.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContainerPort {
    /// Name; may be empty.
    pub name: Arc<str>,
    /// Number.
    pub number: u16,
    /// Whether it is TCP.
    pub tcp: bool,
}

/// An EndpointSlice. The service that it belongs to is in label `kubernetes.io/service-name`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Whether addresses are host names, which a mesh does not use.
    pub fqdn: bool,
    /// Ports by name of the service port; TCP and unset protocol only.
    pub ports: Box<[(Arc<str>, u16)]>,
    /// Endpoints, less those without an address.
    pub endpoints: Box<[SliceEndpoint]>,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Its first address; Kubernetes says of others only that they are not used.
    pub address: Arc<str>,
    /// Takes new traffic. Unknown counts as ready.
    pub ready: bool,
    /// Answers, even while terminating.
    pub serving: bool,
    /// Is shutting down.
    pub terminating: bool,
    /// The Pod behind it, as namespace and name.
    pub pod: Option<(Arc<str>, Arc<str>)>,
    /// Node that it runs on.
    pub node: Option<Arc<str>>,
    /// What few have.
    pub rare: Option<Box<RareEndpoint>>,
}

/// What few endpoints of slices have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RareEndpoint {
    /// Zone that it runs in, where there is no Pod to tell.
    pub zone: Option<Arc<str>>,
    /// Host name within the service's subdomain.
    pub hostname: Option<Arc<str>>,
}

/// A ConfigMap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigMap {
    /// Text entries.
    pub data: BTreeMap<String, String>,
}

/// A Secret. `Debug` shows keys only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret {
    /// `type`.
    pub kind: String,
    /// Decoded entries.
    pub data: BTreeMap<String, Vec<u8>>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<&String> = self.data.keys().collect();
        f.debug_struct("Secret").field("kind", &self.kind).field("keys", &keys).finish_non_exhaustive()
    }
}

/// Standard base64, as Secrets are written.
fn decode(text: &str) -> Result<Vec<u8>, String> {
    base64::engine::general_purpose::STANDARD.decode(text).map_err(|_| "is not base64".to_string())
}
