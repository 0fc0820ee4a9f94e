//! Sidecar: what workloads of a namespace see.

use super::common::WorkloadSelector;
use serde::Deserialize;

/// `networking.istio.io` Sidecar.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Sidecar {
    /// Workloads that it applies to; absent is the whole namespace.
    pub workload_selector: Option<WorkloadSelector>,
    /// What they see.
    pub egress: Vec<Egress>,
    /// Ports that are let in; what their services say when there are none.
    pub ingress: Vec<Ingress>,
    /// Traffic to unknown destinations.
    pub outbound_traffic_policy: Option<OutboundPolicy>,
}

/// Hosts that are seen.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Egress {
    /// Restricts to a service port.
    pub port: Option<SidecarPort>,
    /// Address to listen on.
    pub bind: String,
    /// `DEFAULT`, `IPTABLES` or `NONE`.
    pub capture_mode: String,
    /// `NAMESPACE/HOST`, with `*`, `.` and `~` for namespaces.
    pub hosts: Vec<String>,
}

/// A port that is let in.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ingress {
    /// The port.
    pub port: SidecarPort,
    /// Address to listen on.
    pub bind: String,
    /// `DEFAULT`, `IPTABLES` or `NONE`.
    pub capture_mode: String,
    /// `127.0.0.1:PORT`, `[::1]:PORT`, `0.0.0.0:PORT` (the workload's own address), `[::]:PORT` or `unix:///PATH`; the port itself when empty.
    pub default_endpoint: String,
}

/// A port of a listener.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct SidecarPort {
    /// Number; 0 of egress is any.
    pub number: u16,
    /// Protocol.
    pub protocol: String,
    /// Name.
    pub name: String,
}

impl Egress {
    /// Whether the application dials a port of its agent, instead of being captured.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        self.capture_mode == "NONE"
    }
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
