//! The proxy as its program sees it.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use isthmus_lifecycle::Drain;
use prometheus_client::registry::Registry;
use thiserror::Error;

use crate::config::Config;

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
    #[expect(dead_code, reason = "the first commit fixes the shape alone")]
    config: Arc<Config>,
}

impl Proxy {
    /// Binds the capture sockets and registers the metrics. Must be called inside a runtime.
    ///
    /// # Errors
    /// When a socket cannot be bound.
    pub fn build(config: Config, _metrics: &mut Registry) -> Result<Self, BuildError> {
        Ok(Self { config: Arc::new(config) })
    }

    /// Takes over resources of one type (listeners, clusters, endpoints; others are ignored): `upserts` as name and encoded
    /// message, `removed` as names. Connections in progress keep what they began with. Must be called inside a runtime.
    pub fn apply(
        &self,
        _type_url: &str,
        _upserts: Vec<(Arc<str>, Bytes)>,
        _removed: &[Arc<str>],
    ) -> Vec<Rejection> {
        Vec::new()
    }

    /// Serves until the drain: refuses new connections at once, lets the open ones finish, and cuts what is left.
    ///
    /// # Errors
    /// When a listening socket fails for good.
    pub async fn run(&self, drain: &Drain) -> std::io::Result<()> {
        drain.signal().stopping().await;
        Ok(())
    }

    /// Where listeners listen, by listener name; for tests that bind port 0.
    #[must_use]
    pub fn addresses(&self) -> Vec<(Arc<str>, SocketAddr)> {
        Vec::new()
    }

    /// Listeners as JSON, for `isthmus proxy-config listeners`.
    #[must_use]
    pub fn listeners_json(&self) -> serde_json::Value {
        serde_json::Value::Array(Vec::new())
    }

    /// Clusters as JSON.
    #[must_use]
    pub fn clusters_json(&self) -> serde_json::Value {
        serde_json::Value::Array(Vec::new())
    }

    /// Endpoints with health and ejection as JSON.
    #[must_use]
    pub fn endpoints_json(&self) -> serde_json::Value {
        serde_json::Value::Array(Vec::new())
    }
}
