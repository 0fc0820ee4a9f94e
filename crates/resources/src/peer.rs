//! Our own kind: a control plane at the far end of a federation link (`isthmus.io/v1alpha1`, cluster-scoped, named like the
//! peer's cluster).

use serde::{Deserialize, Serialize};

use crate::istio::Condition;

/// The link. The side whose `gateways` are given calls; the other waits for its call.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Peer {
    /// Mesh of both.
    pub mesh_id: String,
    /// The peer's revision.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub revision: String,
    /// The peer's network.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub network: String,
    /// `HOST:PORT` of the peer's gateways; empty where the peer calls us.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<String>,
    /// SHA-256 of the shared root's DER, lower-case hex.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub root_sha256: String,
    /// SHA-256 of the link's secret, on the side that is called. The calling side has the secret itself in Secret
    /// `istio-system/isthmus-peer-NAME`, key `secret`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub secret_sha256: String,
    /// What the control plane last said of the link.
    #[serde(skip)]
    pub status: PeerStatus,
}

/// State of a link.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PeerStatus {
    /// `Connected`, `Connecting`, `Waiting` or `Refused`.
    pub state: String,
    /// Whether everything that the peer had to say has been said once, ever.
    pub synced: bool,
    /// Last frame heard, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_heard: Option<String>,
    /// Services imported.
    pub services: u64,
    /// Why it is not connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Conditions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
