//! The proxy as its program sees it.

mod apply;
mod sockets;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use bytes::Bytes;
use isthmus_lifecycle::{Drain, TaskGroup};
use isthmus_proto::type_url;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use thiserror::Error;

use crate::balance::outlier::Outliers;
use crate::config::Config;
use crate::connect::Connector;
use crate::flows::{Flows, Networks};
use crate::inspect;
use crate::metrics::Metrics;
use crate::on_demand::names::Names;
use crate::on_demand::{Demand, OnDemand, OnDemandLimits};
use crate::relay::clock::Clock;
use crate::resource::tls::Configurations;
use crate::shared::{Door, Shared, Tables};
use sockets::Sockets;

pub use sockets::ListeningSocket;

/// The listener of captured outbound connections.
pub(crate) const OUTBOUND: &str = "virtualOutbound";
/// The listener of captured inbound connections.
pub(crate) const INBOUND: &str = "virtualInbound";

/// Why a proxy does not start.
#[derive(Debug, Error)]
pub enum BuildError {
    /// A capture socket cannot be had.
    #[error("listener {listener}: cannot listen on {address}: {source}")]
    Bind {
        /// `virtualOutbound` or `virtualInbound`.
        listener: &'static str,
        /// Address asked for.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
}

/// Why a running proxy stopped by itself.
#[derive(Debug, Error)]
#[error("the data path stopped: {0}")]
pub struct RunError(String);

/// Why a resource is not taken over. What was in force under its name stays.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{name}: {reason}")]
pub struct Rejection {
    /// Name of the resource.
    pub name: Arc<str>,
    /// Which field and why.
    pub reason: String,
}

/// A running data path. Cheap to clone.
#[derive(Clone)]
pub struct Proxy {
    shared: Arc<Shared>,
    sockets: Arc<Mutex<Sockets>>,
    drain: Drain,
}

impl Proxy {
    /// Binds the capture sockets and registers the metrics. Must be called inside a runtime. Connections are let in as soon as
    /// there is a listener for them.
    ///
    /// # Errors
    /// When a socket cannot be bound.
    pub fn build(config: Config, metrics: &mut Registry) -> Result<Self, BuildError> {
        let proxy = Self::succeed(config, Vec::new(), metrics)?;
        proxy.open();
        Ok(proxy)
    }

    /// As [`Proxy::build`], as the successor of a process that still serves: its sockets are used, nothing is accepted until
    /// [`Proxy::open`], and an address that it has and did not hand over is waited for until then.
    ///
    /// # Errors
    /// When a socket cannot be bound.
    pub fn succeed(
        config: Config,
        inherited: Vec<ListeningSocket>,
        metrics: &mut Registry,
    ) -> Result<Self, BuildError> {
        let drain = Drain::new();
        let tasks = TaskGroup::new("proxy", drain.clone());
        let metrics = Arc::new(Metrics::register(config.node.clone(), metrics));
        let connector = Arc::new(Connector { mark: config.mark, keepalive: config.limits.keepalive });
        let outliers = Outliers {
            connector: Arc::clone(&connector),
            metrics: Arc::clone(&metrics),
            tasks: tasks.clone(),
        };
        // What a gateway passes on is spliced; TLS in bulk, which a sidecar moves, costs less by epoll (tests/bench/GATEWAY.md).
        if config.outbound.is_none() && config.inbound.is_none() {
            match isthmus_socket::begin() {
                Ok(()) => {
                    metrics.io_uring().set(1);
                    tracing::info!("sockets use io_uring");
                }
                Err(reason) => tracing::info!(%reason, "sockets use epoll, not io_uring"),
            }
        }
        let clock = Arc::new(Clock::new());
        let (ringing, stop) = (Arc::clone(&clock), drain.signal());
        // A group of its own: it rings for as long as others run, and they are not to wait for it.
        TaskGroup::new("clock", drain.clone())
            .spawn_infallible("clock", async move { ringing.run(stop).await });
        let capture = [(OUTBOUND, config.outbound), (INBOUND, config.inbound)];
        let shared = Arc::new(Shared {
            tls: Configurations::new(config.identity.clone()),
            config,
            tables: Tables::default(),
            names: Names::default(),
            on_demand: OnceLock::new(),
            connector,
            outliers,
            metrics,
            clock: Arc::clone(&clock),
            tasks,
            door: Door::default(),
            flows: Flows::default(),
            networks: ArcSwap::default(),
        });
        let mut sockets = Sockets::held(inherited);
        for (listener, address) in capture {
            let Some(address) = address else { continue };
            sockets.capture(listener, address, &shared).map_err(|source| BuildError::Bind {
                listener,
                address,
                source,
            })?;
        }
        Ok(Self { shared, sockets: Arc::new(Mutex::new(sockets)), drain })
    }

    /// From now on a connection whose cluster is not here asks for it and waits. `fetched` are clusters that were fetched so before
    /// this process began. Only the first call counts; must be called inside a runtime.
    pub fn fetch_on_demand(&self, demand: Arc<dyn Demand>, limits: OnDemandLimits, fetched: &[Arc<str>]) {
        let on_demand = self
            .shared
            .on_demand
            .get_or_init(|| OnDemand::new(demand, limits, Arc::clone(&self.shared.metrics)));
        on_demand.restored(fetched);
        let (proxy, stop) = (self.clone(), self.shared.tasks.signal());
        self.shared.tasks.spawn_infallible("unused clusters", async move {
            let Some(on_demand) = proxy.shared.on_demand.get() else { return };
            let leave = |names: &[Arc<str>]| drop(proxy.apply(type_url::CLUSTER, Vec::new(), names));
            tokio::select! {
                () = stop.stopping() => {}
                () = on_demand.give_back_unused(&proxy.shared, leave) => {}
            }
        });
    }

    /// Server names that may pass, where they are held as hashes.
    #[must_use]
    pub fn exported_names(&self) -> usize {
        self.shared.names.count()
    }

    /// Takes over resources of one type (listeners, clusters, endpoints, exported names; others are ignored): `upserts` as name and encoded
    /// message, `removed` as names. Connections in progress keep what they began with. Must be called inside a runtime.
    pub fn apply(
        &self,
        type_url: &str,
        upserts: Vec<(Arc<str>, Bytes)>,
        removed: &[Arc<str>],
    ) -> Vec<Rejection> {
        apply::apply(self, type_url, upserts, removed)
    }

    /// Serves until the drain: refuses new connections at once, lets the open ones finish, and cuts what is left.
    ///
    /// # Errors
    /// When a listening socket fails for good.
    pub async fn run(&self, drain: &Drain) -> Result<(), RunError> {
        let (outer, inner) = (drain.signal(), self.drain.signal());
        tokio::select! {
            () = outer.stopping() => self.drain.refuse(),
            () = inner.stopping() => {}
        }
        tokio::select! {
            () = self.shared.tasks.finished() => {}
            () = outer.cut() => {
                self.drain.immediate();
                self.shared.tasks.finished().await;
            }
        }
        self.shared.tasks.failure().map_or(Ok(()), |failure| Err(RunError(failure)))
    }

    /// Begins to accept, when the predecessor of [`Proxy::succeed`] has stopped.
    pub fn open(&self) {
        self.sockets.lock().open(&self.shared);
    }

    /// The listening sockets, for a successor. They stay in use here until [`Proxy::leave`].
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub fn sockets(&self) -> std::io::Result<Vec<ListeningSocket>> {
        self.sockets.lock().duplicate()
    }

    /// Stops accepting and closes the listening sockets; what a successor holds of them goes on listening. Open connections
    /// go on, and [`Proxy::run`] ends with the last of them.
    pub fn leave(&self) {
        self.drain.refuse();
    }

    /// Where listeners listen, by listener name; for tests that bind port 0.
    #[must_use]
    pub fn addresses(&self) -> Vec<(Arc<str>, SocketAddr)> {
        self.sockets.lock().addresses()
    }

    /// Open downstream connections now.
    #[must_use]
    pub fn connections(&self) -> i64 {
        self.shared.metrics.open().get()
    }

    /// Listeners as JSON, for `isthmus proxy-config listeners`.
    #[must_use]
    pub fn listeners_json(&self) -> serde_json::Value {
        inspect::listeners(&self.shared)
    }

    /// Connections that are relayed now, as JSON: how many, and up to ten thousand of the newest.
    #[must_use]
    pub fn flows_json(&self) -> serde_json::Value {
        self.shared.flows.json(&self.shared.networks.load())
    }

    /// Names networks by the addresses that their connections come from, for metrics and [`Proxy::flows_json`].
    pub fn name_networks(&self, networks: Networks) {
        self.shared.networks.store(Arc::new(networks));
    }

    /// Clusters as JSON.
    #[must_use]
    pub fn clusters_json(&self) -> serde_json::Value {
        inspect::clusters(&self.shared)
    }

    /// Endpoints with health and ejection as JSON.
    #[must_use]
    pub fn endpoints_json(&self) -> serde_json::Value {
        inspect::endpoints(&self.shared)
    }
}
