//! ServiceEntry: a service that the API server's own Services do not describe.

use serde::Deserialize;

use super::common::{Condition, WorkloadSelector};
use super::workload::WorkloadEntry;

/// `networking.istio.io` ServiceEntry.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceEntry {
    /// Hosts.
    pub hosts: Vec<String>,
    /// Virtual IPs or CIDRs.
    pub addresses: Vec<String>,
    /// Ports.
    pub ports: Vec<ServiceEntryPort>,
    /// In the mesh or outside.
    pub location: ServiceEntryLocation,
    /// How endpoints are found.
    pub resolution: ServiceEntryResolution,
    /// Endpoints.
    pub endpoints: Vec<WorkloadEntry>,
    /// Selector over Pods and WorkloadEntries of its namespace.
    pub workload_selector: Option<WorkloadSelector>,
    /// Namespaces that see it.
    pub export_to: Vec<String>,
    /// Names that its endpoints' certificates may have.
    pub subject_alt_names: Vec<String>,
    /// Status: allocated addresses.
    #[serde(skip)]
    pub status: ServiceEntryStatus,
}

/// One port.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceEntryPort {
    /// Number.
    pub number: u16,
    /// Protocol, such as `HTTP` or `TCP`.
    pub protocol: String,
    /// Name.
    pub name: String,
    /// Port at the endpoints; 0 is the same.
    pub target_port: u16,
}

/// In the mesh or outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "the names are the API's own")]
pub enum ServiceEntryLocation {
    #[default]
    MeshExternal,
    MeshInternal,
}

/// How endpoints are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "the names are the API's own")]
pub enum ServiceEntryResolution {
    #[default]
    None,
    Static,
    Dns,
    DnsRoundRobin,
    DynamicDns,
}

/// Status of a ServiceEntry.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ServiceEntryStatus {
    /// Allocated addresses.
    pub addresses: Vec<ServiceEntryAddress>,
    /// Conditions.
    pub conditions: Vec<Condition>,
}

/// An allocated address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ServiceEntryAddress {
    /// Address.
    pub value: String,
    /// The host that it is for.
    pub host: String,
}
