//! WorkloadEntry and WorkloadGroup: machines that are not Pods.

use std::collections::BTreeMap;

use isthmus_model::Labels;
use serde::{Deserialize, Serialize};

use super::common::Condition;

/// `networking.istio.io` WorkloadEntry; also an inline endpoint of a ServiceEntry and the template of a group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadEntry {
    /// IP address, host name or `unix://` path; may be empty when `network` is set.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// Port at the workload by name of the service port.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<String, u16>,
    /// Labels; the object's own win over these.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Network.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub network: String,
    /// `region/zone/subzone`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub locality: String,
    /// Balancing weight; 0 means 1.
    #[serde(skip_serializing_if = "is_zero")]
    pub weight: u32,
    /// Service account in its namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service_account: String,
    /// Status: health.
    #[serde(skip)]
    pub status: WorkloadStatus,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Status of a WorkloadEntry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkloadStatus {
    /// Conditions; `Healthy` is the one that counts.
    pub conditions: Vec<Condition>,
}

impl WorkloadStatus {
    /// Status of a condition: `True`, `False` or `Unknown`.
    #[must_use]
    pub fn condition(&self, kind: &str) -> Option<&str> {
        self.conditions.iter().find(|entry| entry.r#type == kind).map(|entry| entry.status.as_str())
    }
}

/// `networking.istio.io` WorkloadGroup: what entries of machines that register are made from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadGroup {
    /// Labels and annotations of the entries.
    pub metadata: GroupMetadata,
    /// Content of the entries.
    pub template: WorkloadEntry,
    /// How their readiness is probed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<ReadinessProbe>,
}

/// Labels and annotations.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupMetadata {
    /// Labels.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Annotations.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub annotations: Labels,
}

/// A readiness probe; zeros are Istio's defaults (timeout 1 s, period 10 s, one success, one failure).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReadinessProbe {
    /// Seconds before the first.
    pub initial_delay_seconds: i32,
    /// Seconds of patience.
    pub timeout_seconds: i32,
    /// Seconds between probes.
    pub period_seconds: i32,
    /// Successes in a row that make it healthy.
    pub success_threshold: i32,
    /// Failures in a row that make it unhealthy.
    pub failure_threshold: i32,
    /// By HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_get: Option<HttpGet>,
    /// By connecting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_socket: Option<ProbeTcp>,
    /// By a command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec: Option<ProbeExec>,
    /// By gRPC's health service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<ProbeGrpc>,
}

/// Probe by HTTP: 200 to 399 is healthy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpGet {
    /// Path; `/` when empty.
    pub path: String,
    /// Port.
    pub port: u16,
    /// Host; the workload's address when empty.
    pub host: String,
    /// `HTTP` or `HTTPS`.
    pub scheme: String,
    /// Headers.
    pub http_headers: Vec<HttpHeader>,
}

/// A header.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HttpHeader {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
}

/// Probe by connecting.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProbeTcp {
    /// Host; the workload's address when empty.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// Probe by a command: exit 0 is healthy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProbeExec {
    /// Program and arguments.
    pub command: Vec<String>,
}

/// Probe by gRPC's health service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProbeGrpc {
    /// Port.
    pub port: u16,
    /// Service asked for.
    pub service: String,
}
