//! Sidecar: what workloads of a namespace see.

use serde::Deserialize;
use serde_json::Value;

use super::common::WorkloadSelector;

/// `networking.istio.io` Sidecar.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Sidecar {
    /// Workloads that it applies to; absent is the whole namespace.
    pub workload_selector: Option<WorkloadSelector>,
    /// What they see.
    pub egress: Vec<Egress>,
    /// Own listeners; not enforced yet.
    pub ingress: Vec<Value>,
    /// Traffic to unknown destinations.
    pub outbound_traffic_policy: Option<OutboundPolicy>,
}

/// Hosts that are seen.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Egress {
    /// Restricts to a service port.
    pub port: Option<Value>,
    /// Address to listen on.
    pub bind: String,
    /// `DEFAULT`, `IPTABLES` or `NONE`.
    pub capture_mode: String,
    /// `NAMESPACE/HOST`, with `*`, `.` and `~` for namespaces.
    pub hosts: Vec<String>,
}

/// Traffic to unknown destinations.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct OutboundPolicy {
    /// Mode.
    pub mode: OutboundMode,
}

/// What happens to traffic to unknown destinations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "the names are the API's own")]
pub enum OutboundMode {
    #[default]
    RegistryOnly,
    AllowAny,
    AllowAnyDynamicDns,
}
