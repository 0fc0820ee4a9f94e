//! A reconnecting delta client: what agents and gateways listen with.
//!
//! It remembers the version of every resource that its handler accepted. After a reconnect it tells them, so that the control
//! plane sends only what changed meanwhile, and names what vanished; a control plane that is away changes nothing.

mod connector;
mod have;
mod interest;
mod session;
mod version;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use isthmus_lifecycle::{Backoff, TaskGroup};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

pub use connector::{Connector, Io};
use have::Have;
use interest::Desired;
pub use session::SessionError;
pub use version::Version;

use crate::server::HealthReport;

/// One resource that is new or changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upsert {
    /// Name. One text for all that this client says of it: clones of it cost nothing.
    pub name: Arc<str>,
    /// Version, as the server writes it.
    pub version: Version,
    /// The encoded message, which may be kept: it holds nothing of its neighbours in the response.
    pub body: Bytes,
}

/// One response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// Type.
    pub type_url: String,
    /// New and changed resources.
    pub upserts: Vec<Upsert>,
    /// Names that the server says do not exist (any longer).
    pub removed: Vec<Arc<str>>,
    /// Whether this is the first answer for this type since the stream opened. It comes even when nothing changed: from then on the
    /// client has all that it asked for (large answers may still go on in further updates).
    pub first: bool,
}

/// A resource that cannot be used. What was in force under its name stays in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Name.
    pub name: Arc<str>,
    /// Why, for the people who read the control plane's status.
    pub reason: String,
}

/// Takes updates in.
#[tonic::async_trait]
pub trait Handler: Send + 'static {
    /// Applies one response and says what of it cannot be used: the rest is in force when this returns.
    async fn apply(&mut self, update: Update) -> Vec<Rejection>;
}

/// What one client needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who we are: sent in the first request of each stream.
    pub node: Node,
    /// Host in the request's URI, usually the server name of the control plane.
    pub authority: String,
    /// Request headers, such as `clusterid`.
    pub headers: http::HeaderMap,
    /// Delays between attempts.
    pub backoff: Backoff,
    /// To connect and to be answered.
    pub connect_timeout: Duration,
    /// HTTP/2 pings prove that the other side lives; no answer for as long again ends the connection.
    pub ping: Duration,
    /// Limit of one response in bytes.
    pub response_bytes: usize,
    /// What the handler has in force already, as type, name and version: such as from a cache on disk. The server then sends
    /// only what differs, and names what vanished.
    pub known: Vec<(&'static str, Arc<str>, Version)>,
}

impl Config {
    /// The usual values.
    #[must_use]
    pub fn new(node: Node, authority: impl Into<String>) -> Self {
        Self {
            node,
            authority: authority.into(),
            headers: http::HeaderMap::new(),
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(15)),
            connect_timeout: Duration::from_secs(10),
            ping: Duration::from_secs(10),
            response_bytes: 256 * 1024 * 1024,
            known: Vec::new(),
        }
    }
}

/// How the connection is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connection {
    /// First attempt.
    Connecting,
    /// The control plane has answered on the present stream.
    Connected,
    /// Not connected; attempts go on.
    Lost {
        /// Why the last attempt or stream ended.
        error: Arc<str>,
    },
}

/// Steers a client while it runs. Cheap to clone. Changes are told to the server at once, or on the next connection.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
    connection: watch::Receiver<Connection>,
}

#[derive(Debug)]
struct Shared {
    desired: Mutex<Desired>,
    changed: Notify,
}

impl Handle {
    /// Asks for everything of a type. Types are asked for in the order of their first mention.
    pub fn subscribe_all(&self, type_url: &str) {
        self.change(|desired| desired.all(type_url));
    }

    /// Asks for names of a type. One that was dropped a moment ago is asked for again, and answered again.
    pub fn subscribe(&self, type_url: &str, names: impl IntoIterator<Item = impl Into<Arc<str>>>) {
        self.change(|desired| desired.add(type_url, names.into_iter().map(Into::into)));
    }

    /// Drops names of a type. The handler hears of them no more.
    pub fn unsubscribe(&self, type_url: &str, names: impl IntoIterator<Item = impl AsRef<str>>) {
        self.change(|desired| desired.drop_names(type_url, names));
    }

    /// Reports the workload's health; the last report is repeated on every new stream.
    pub fn report_health(&self, report: HealthReport) {
        self.change(|desired| desired.health(report));
    }

    /// Refuses what was accepted before: whoever was to use it found out later that it cannot. The names are unknown again, so that a
    /// new stream brings them again.
    pub fn refuse(&self, type_url: &str, names: &[Arc<str>], reason: &str) {
        self.change(|desired| desired.refuse(type_url, names, reason));
    }

    /// The connection's state, to look at or to wait on.
    #[must_use]
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.connection.clone()
    }

    fn change(&self, change: impl FnOnce(&mut Desired) -> bool) {
        let changed = change(&mut self.shared.desired.lock());
        if changed {
            self.shared.changed.notify_one();
        }
    }
}

/// The running side.
pub struct Client<H> {
    config: Config,
    connector: Connector,
    handler: H,
    have: Have,
    shared: Arc<Shared>,
    connection: watch::Sender<Connection>,
    tasks: TaskGroup,
}

impl<H: Handler> Client<H> {
    /// Starts a client in `tasks`. It asks for nothing until its handle says so, and ends with the group's drain.
    pub fn start(config: Config, connector: Connector, handler: H, tasks: &TaskGroup) -> Handle {
        let (client, handle) = Self::new(config, connector, handler, tasks);
        tasks.spawn_infallible("xds client", client.run());
        handle
    }

    fn new(mut config: Config, connector: Connector, handler: H, tasks: &TaskGroup) -> (Self, Handle) {
        let shared = Arc::new(Shared { desired: Mutex::default(), changed: Notify::new() });
        let (connection, watched) = watch::channel(Connection::Connecting);
        let handle = Handle { shared: Arc::clone(&shared), connection: watched };
        let tasks = tasks.clone();
        let have = Have::from_known(std::mem::take(&mut config.known));
        (Self { config, connector, handler, have, shared, connection, tasks }, handle)
    }

    async fn run(mut self) {
        let signal = self.tasks.signal();
        let mut backoff = self.config.backoff.clone();
        loop {
            let ended = tokio::select! {
                biased;
                () = signal.stopping() => return,
                ended = Box::pin(self.session()) => ended,
            };
            let Err(error) = ended;
            if *self.connection.borrow() == Connection::Connected {
                backoff.reset();
            }
            let delay = backoff.next_delay();
            tracing::warn!(%error, retry_ms = delay.as_millis(), "no discovery stream, keeping what is in force");
            self.connection.send_replace(Connection::Lost { error: error.to_string().into() });
            tokio::select! {
                biased;
                () = signal.stopping() => return,
                () = tokio::time::sleep(delay) => {}
            }
        }
    }
}
