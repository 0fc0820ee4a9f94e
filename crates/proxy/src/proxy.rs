//! The proxy as its program sees it.

mod apply;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use isthmus_lifecycle::{Drain, TaskGroup};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::balance::outlier::Outliers;
use crate::config::Config;
use crate::connect::Connector;
use crate::inspect;
use crate::listening::{Bound, bind, start};
use crate::metrics::Metrics;
use crate::resource::tls::Configurations;
use crate::shared::{Door, Shared, Tables};

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
    sockets: Arc<Mutex<HashMap<Arc<str>, Arc<Bound>>>>,
    drain: Drain,
}

impl Proxy {
    /// Binds the capture sockets and registers the metrics. Must be called inside a runtime. Connections are let in as soon as
    /// there is a listener for them.
    ///
    /// # Errors
    /// When a socket cannot be bound.
    pub fn build(config: Config, metrics: &mut Registry) -> Result<Self, BuildError> {
        let drain = Drain::new();
        let tasks = TaskGroup::new("proxy", drain.clone());
        let metrics = Arc::new(Metrics::register(config.node.clone(), metrics));
        let connector = Arc::new(Connector { mark: config.mark });
        let outliers = Outliers {
            connector: Arc::clone(&connector),
            metrics: Arc::clone(&metrics),
            tasks: tasks.clone(),
        };
        let capture = [(OUTBOUND, config.outbound), (INBOUND, config.inbound)];
        let shared = Arc::new(Shared {
            tls: Configurations::new(config.identity.clone()),
            config,
            tables: Tables::default(),
            connector,
            outliers,
            metrics,
            stop: tasks.signal(),
            tasks,
            door: Door::default(),
        });
        let mut sockets = HashMap::new();
        for (listener, address) in capture {
            let Some(address) = address else { continue };
            let failed = |source| BuildError::Bind { listener, address, source };
            let socket = bind(address).map_err(failed)?;
            let address = socket.local_addr().map_err(failed)?;
            let bound = Bound::waiting(address, socket);
            sockets.insert(Arc::from(listener), Arc::new(bound));
        }
        Ok(Self { shared, sockets: Arc::new(Mutex::new(sockets)), drain })
    }

    /// Takes over resources of one type (listeners, clusters, endpoints; others are ignored): `upserts` as name and encoded
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

    /// Where listeners listen, by listener name; for tests that bind port 0.
    #[must_use]
    pub fn addresses(&self) -> Vec<(Arc<str>, SocketAddr)> {
        self.sockets.lock().iter().map(|(name, bound)| (Arc::clone(name), bound.address)).collect()
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

    /// Opens a socket for a listener, or gives the one that it has to its new form.
    fn listen(&self, listener: &Arc<crate::resource::listener::Listener>) -> std::io::Result<()> {
        let mut sockets = self.sockets.lock();
        let captures = [OUTBOUND, INBOUND].contains(&&*listener.name);
        if let Some(bound) = sockets.get(&listener.name)
            && (captures || bound.asked == listener.address)
        {
            bound.listener.store(Some(Arc::clone(listener)));
            bound.begin(&self.shared);
            return Ok(());
        }
        // The new socket comes before the old one goes: a listener that cannot move stays where it is.
        let socket = bind(listener.address)?;
        let address = socket.local_addr()?;
        let bound = Arc::new(Bound::serving(Arc::clone(listener), address));
        start(&self.shared, &bound, socket);
        if let Some(old) = sockets.insert(Arc::clone(&listener.name), bound) {
            old.closed.cancel();
        }
        Ok(())
    }

    /// Closes a listener's socket. Capture sockets stay, and refuse.
    fn unlisten(&self, name: &str) {
        let mut sockets = self.sockets.lock();
        let Some(bound) = sockets.get(name) else { return };
        bound.listener.store(None);
        if ![OUTBOUND, INBOUND].contains(&name) {
            bound.closed.cancel();
            sockets.remove(name);
        }
    }
}

impl Bound {
    /// A socket whose connections wait in the kernel until there is a listener.
    fn waiting(address: SocketAddr, socket: tokio::net::TcpListener) -> Self {
        Self {
            asked: address,
            address,
            listener: arc_swap::ArcSwapOption::empty(),
            closed: CancellationToken::new(),
            waiting: Mutex::new(Some(socket)),
        }
    }

    fn serving(listener: Arc<crate::resource::listener::Listener>, address: SocketAddr) -> Self {
        Self {
            asked: listener.address,
            address,
            listener: arc_swap::ArcSwapOption::new(Some(listener)),
            closed: CancellationToken::new(),
            waiting: Mutex::new(None),
        }
    }

    fn begin(self: &Arc<Self>, shared: &Arc<Shared>) {
        if let Some(socket) = self.waiting.lock().take() {
            start(shared, self, socket);
        }
    }
}
