//! Endpoints: one workload's address behind one service.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};

use crate::identity::SpiffeId;
use crate::labels::Labels;
use crate::locality::Locality;
use crate::name::{ClusterId, Namespace, NetworkId};
use crate::shared::Pool;

static COMMON: LazyLock<Pool<Common>> = LazyLock::new(Pool::default);
static PORTS: LazyLock<Pool<Ports>> = LazyLock::new(Pool::default);

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

/// Port numbers by name.
pub type Ports = BTreeMap<Arc<str>, u16>;

/// The one copy of these ports: few workloads differ in them.
#[must_use]
pub fn shared_ports(ports: Ports) -> Arc<Ports> {
    PORTS.one(ports)
}

/// What workloads of one kind in one place have in common, stored once for all of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Common {
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
    /// An aggregate stands for `weight` workloads of another network that were not named one by one; its `address` is empty
    /// and it is reached through its network's gateways.
    pub aggregate: bool,
}

impl Common {
    /// The one copy of it.
    #[must_use]
    pub fn shared(self) -> Arc<Self> {
        COMMON.one(self)
    }
}

/// One workload behind a service. Reads as what it has in common with others, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// IP address, or a host name for services that resolve by DNS, or a network gateway's address for aggregates. Empty when
    /// it is reachable only through its network's gateway.
    pub address: Arc<str>,
    /// Labels of the workload, topology labels included.
    pub labels: Labels,
    /// Workload name, such as the Pod's or WorkloadEntry's.
    pub workload: Arc<str>,
    /// Workload port by service port name.
    pub ports: Arc<Ports>,
    /// Load balancing weight; at least 1. For aggregates the capacity behind them.
    pub weight: u32,
    /// Readiness.
    pub health: Health,
    /// What it shares with others.
    pub common: Arc<Common>,
}

impl Deref for Endpoint {
    type Target = Common;

    fn deref(&self) -> &Common {
        &self.common
    }
}
