//! Endpoints: one workload's address behind one service.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::identity::SpiffeId;
use crate::labels::Labels;
use crate::locality::Locality;
use crate::name::{ClusterId, Namespace, NetworkId};

/// Whether an endpoint takes traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Health {
    /// Takes traffic.
    Healthy,
    /// Known, and not ready.
    Unhealthy,
    /// Going away: keeps what it has.
    Draining,
}

/// Whether it speaks mutual TLS (label `security.istio.io/tlsMode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TlsMode {
    /// An agent terminates mutual TLS for it.
    Istio,
    /// Plain.
    Disabled,
}

/// One workload behind a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// IP address, or a host name for services that resolve by DNS, or a network gateway's address for aggregates. Empty when
    /// it is reachable only through its network's gateway.
    pub address: Arc<str>,
    /// Workload port by service port name.
    pub ports: BTreeMap<Arc<str>, u16>,
    /// Labels of the workload, topology labels included.
    pub labels: Labels,
    /// Workload name, such as the Pod's or WorkloadEntry's.
    pub workload: Arc<str>,
    /// Namespace of the workload.
    pub namespace: Namespace,
    /// Identity, when it has one.
    pub identity: Option<SpiffeId>,
    /// Mutual TLS or plain.
    pub tls: TlsMode,
    /// Where it runs.
    pub locality: Locality,
    /// Network that it is on.
    pub network: NetworkId,
    /// Cluster that declared it.
    pub cluster: ClusterId,
    /// Load balancing weight; at least 1. For aggregates the capacity behind them.
    pub weight: u32,
    /// Readiness.
    pub health: Health,
    /// An aggregate stands for `weight` workloads of another network that were not named one by one; its `address` is empty
    /// and it is reached through its network's gateways.
    pub aggregate: bool,
}
