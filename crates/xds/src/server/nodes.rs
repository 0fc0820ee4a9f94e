//! Ports of the server: who may connect, what they see, who is told.

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Node;
use http::Extensions;
use isthmus_proto::resource::View;
use tokio::sync::watch;
use tonic::Status;

use crate::flavour::Flavour;

/// A client that has just introduced itself.
#[derive(Debug)]
pub struct Arrival {
    /// What [`Nodes::identity`] said of it.
    pub identity: Arc<str>,
    /// Its first request's node. `id` is not empty.
    pub node: Node,
    /// Extensions of its HTTP request: what the listener knows of the connection.
    pub extensions: Extensions,
    /// Dialect.
    pub flavour: Flavour,
    /// Number of this stream, unique in this process.
    pub stream: u64,
}

/// One stream, as the control plane sees it.
pub struct Session {
    /// What this client may see. The newest value is sent whenever the client is ready; values in between may be skipped. When the
    /// sender is dropped the stream ends as unavailable, which makes the client connect again.
    pub views: watch::Receiver<Arc<View>>,
    /// Told of what the client reports. Dropped with the stream.
    pub events: Box<dyn StreamEvents>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("view", &self.views.borrow().version).finish_non_exhaustive()
    }
}

/// Decides about clients. Implemented by the control plane.
#[tonic::async_trait]
pub trait Nodes: Send + Sync + 'static {
    /// Who is at the other end, from the connection alone: the key of the limit on streams per identity. Called before anything is
    /// read.
    ///
    /// # Errors
    /// A status that ends the stream, such as unauthenticated.
    fn identity(&self, extensions: &Extensions) -> Result<Arc<str>, Status>;

    /// Lets a client in.
    ///
    /// # Errors
    /// A status that ends the stream: permission denied when the node is not the identity's, unavailable when views are not ready.
    async fn connect(&self, arrival: Arrival) -> Result<Session, Status>;
}

/// What a workload says of its own health (`istio.v1.HealthInformation`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthReport {
    /// The probe succeeds.
    Healthy,
    /// The probe fails, with its message.
    Unhealthy(String),
}

/// Told of one stream's events. Calls must not block: they come from the task that serves the stream.
pub trait StreamEvents: Send + Sync {
    /// A health report. Reports that come before the first request for listeners are ignored, as in Istio.
    fn health(&self, report: HealthReport) {
        let _ = report;
    }

    /// The client has accepted everything of this type up to this version of its view.
    fn accepted(&self, type_url: &str, version: u64) {
        let _ = (type_url, version);
    }

    /// The client refused a response from its view of this version, or from an earlier one.
    fn refused(&self, type_url: &str, version: u64, error: &str) {
        let _ = (type_url, version, error);
    }

    /// The stream has ended. Called once, whatever the reason.
    fn closed(&self, reason: &Closed) {
        let _ = reason;
    }
}

/// No interest in events.
impl StreamEvents for () {}

/// Why a stream ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    /// The client closed it in order.
    Client,
    /// The connection went away.
    Lost(String),
    /// We ended it, with this message.
    Server(String),
}

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Client => f.write_str("closed by the client"),
            Self::Lost(reason) => write!(f, "connection lost: {reason}"),
            Self::Server(reason) => write!(f, "closed by the server: {reason}"),
        }
    }
}
