//! What a control plane says of itself: the body of `GET /debug/isthmus/status`, read by `isthmus status`.

use serde::{Deserialize, Serialize};

/// The whole report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshStatus {
    /// Mesh.
    pub mesh_id: String,
    /// Cluster that reports.
    pub cluster: String,
    /// Its network.
    pub network: String,
    /// Its revision.
    pub revision: String,
    /// Its trust domain.
    pub trust_domain: String,
    /// Number of the configuration snapshot in force.
    pub snapshot: u64,
    /// Control planes at the far end of federation links.
    pub peers: Vec<PeerStatus>,
    /// Proxies with an open stream, gateways included.
    pub proxies: Vec<ProxyStatus>,
    /// WorkloadEntries that registered.
    pub vms: Vec<VmStatus>,
    /// Certificates that this control plane holds.
    pub certificates: Vec<CertificateStatus>,
    /// What the mesh is configured with beside its objects.
    pub configuration: Vec<DocumentStatus>,
}

/// MeshConfig or MeshNetworks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DocumentStatus {
    /// Which.
    pub name: String,
    /// Where it is read: a file, or a ConfigMap.
    pub source: String,
    /// Why what stands there now is refused; what was good before is in force.
    pub error: Option<String>,
    /// Fields that are set and not in force.
    pub not_in_force: Vec<String>,
}

/// One peer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PeerStatus {
    /// Its cluster.
    pub cluster: String,
    /// `Connected`, `Connecting`, `Waiting` (for its call) or `Refused`.
    pub state: String,
    /// Whether everything that it had to say has been said once, ever: else its services are unknown, not absent.
    pub synced: bool,
    /// Milliseconds since its last frame; none when never heard.
    pub age_ms: Option<u64>,
    /// Services imported from it.
    pub services: u64,
    /// Records that we refused, with reasons.
    pub refusals: Vec<String>,
    /// Why it is not connected.
    pub error: Option<String>,
}

/// One proxy or gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyStatus {
    /// `NAME.NAMESPACE`.
    pub name: String,
    /// `sidecar` or `router`.
    pub kind: String,
    /// Network.
    pub network: String,
    /// First address.
    pub address: String,
    /// Milliseconds since its stream opened.
    pub connected_ms: u64,
    /// By resource type.
    pub types: Vec<TypeStatus>,
}

/// One resource type on one stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TypeStatus {
    /// Short name: `LDS`, `CDS`, `EDS`, `NDS`, …
    pub name: String,
    /// Resources that the stream has.
    pub resources: u64,
    /// `Acked`, `Nacked`, `Stale` (sent and not answered yet), `NotSent`.
    pub state: String,
    /// Why the last response was refused.
    pub error: Option<String>,
}

/// One registered VM.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VmStatus {
    /// `NAMESPACE/NAME` of its WorkloadEntry.
    pub name: String,
    /// Its WorkloadGroup.
    pub group: String,
    /// Address.
    pub address: String,
    /// Network.
    pub network: String,
    /// `Healthy`, `Unhealthy` or `Unknown`.
    pub health: String,
    /// Whether its stream is open.
    pub connected: bool,
}

/// One certificate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CertificateStatus {
    /// What it is: `root`, `intermediate`, `serving`.
    pub name: String,
    /// Subject or first SAN.
    pub subject: String,
    /// End of validity, RFC 3339.
    pub not_after: String,
    /// Seconds until then, negative when past.
    pub seconds_left: i64,
}
