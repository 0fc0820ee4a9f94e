//! What a proxy is given at its start.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use isthmus_model::{ClusterId, Namespace, NetworkId};
use isthmus_tls::Identity;
use nix::libc;

/// The mark of the mesh's own sockets, which capture lets pass.
pub const MARK: u32 = 0x539;

/// Everything a proxy needs besides its resources.
#[derive(Clone)]
pub struct Config {
    /// Certificate and trust; followed live. It answers for the secrets `default` and `ROOTCA`.
    pub identity: Identity,
    /// Whom this proxy stands beside, for metrics and logs.
    pub node: Node,
    /// Where captured outbound connections arrive (15001): the socket of the listener `virtualOutbound`. None: the proxy
    /// captures nothing, as a gateway.
    pub outbound: Option<SocketAddr>,
    /// Where captured inbound connections arrive (15006): the socket of the listener `virtualInbound`.
    pub inbound: Option<SocketAddr>,
    /// SO_MARK of upstream sockets; needs privileges. None in tests.
    pub mark: Option<u32>,
    /// Finds the original destination of captured connections.
    pub original_destination: Arc<dyn OriginalDestination>,
    /// Resolves the hosts of STRICT_DNS clusters.
    pub resolver: Arc<dyn Resolve>,
    /// Ports whose listeners expect a PROXY header, whatever their resources say: the host's operator knows the balancer before it.
    pub announced_ports: Vec<u16>,
    /// Bounds.
    pub limits: Limits,
}

/// Whom a proxy stands beside.
#[derive(Clone, Debug)]
pub struct Node {
    /// Workload name, such as the Pod's owner or the WorkloadEntry.
    pub workload: Arc<str>,
    /// Its namespace.
    pub namespace: Namespace,
    /// Cluster that it belongs to.
    pub cluster: ClusterId,
    /// Network that it is on.
    pub network: NetworkId,
    /// Label `app`, or `service.istio.io/canonical-name`.
    pub app: Arc<str>,
    /// Label `version`, or `service.istio.io/canonical-revision`.
    pub version: Arc<str>,
}

/// Bounds on what peers can make a proxy spend.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open downstream connections in all.
    pub connections: usize,
    /// Open downstream connections from one address on sockets that are no capture sockets.
    pub connections_per_source: usize,
    /// Time for a ClientHello and for a downstream TLS handshake.
    pub handshake: Duration,
    /// Time for the first bytes where plaintext and TLS are both allowed; after it a silent client is taken for plaintext
    /// whose server speaks first. A listener's own `listener_filters_timeout` comes first.
    pub detection: Duration,
    /// Endpoints tried for one connection, unless the listener says more.
    pub attempts: u32,
    /// A connection without a byte for so long is closed, unless the listener says otherwise.
    pub idle: Duration,
    /// A connection older than this is closed, give or take a tenth, so that those of one moment do not all come back at one
    /// moment. Zero: never.
    pub age: Duration,
    /// Bytes of unfinished ClientHellos in all; the first few kilobytes of each are not counted.
    pub hello_bytes: usize,
    /// Keepalive of clients' connections, and of those to endpoints whose cluster says nothing.
    pub keepalive: Keepalive,
}

/// TCP keepalive. What is not set is the kernel's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Probes without an answer until the connection counts as broken.
    pub probes: Option<u32>,
    /// Silence until the first probe.
    pub time: Option<Duration>,
    /// From probe to probe.
    pub interval: Option<Duration>,
}

impl Default for Keepalive {
    /// Well below the idle limits of cloud balancers (350 s on AWS, 240 s on Azure), which drop silent connections unsaid.
    fn default() -> Self {
        Self { probes: Some(4), time: Some(Duration::from_secs(60)), interval: Some(Duration::from_secs(15)) }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 50_000,
            connections_per_source: 10_000,
            handshake: Duration::from_secs(5),
            detection: Duration::from_millis(500),
            attempts: 3,
            idle: Duration::from_secs(3600),
            age: Duration::ZERO,
            hello_bytes: 64 * 1024 * 1024,
            keepalive: Keepalive::default(),
        }
    }
}

/// Finds where a captured connection was going; asked by the listeners that capture.
pub trait OriginalDestination: Send + Sync {
    /// The destination before the redirect. A connection that was not redirected has its own local address.
    ///
    /// # Errors
    /// When the kernel does not know the connection.
    fn of(&self, connection: BorrowedFd<'_>) -> io::Result<SocketAddr>;
}

/// `SO_ORIGINAL_DST`, as netfilter's redirect leaves it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Netfilter;

impl OriginalDestination for Netfilter {
    fn of(&self, connection: BorrowedFd<'_>) -> io::Result<SocketAddr> {
        let socket = socket2::SockRef::from(&connection);
        let local = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidData)?;
        // A dual-stack listener sees IPv4 peers as mapped addresses, and conntrack knows them as IPv4.
        let original = match local.ip().to_canonical() {
            IpAddr::V4(_) => socket.original_dst_v4(),
            IpAddr::V6(_) => socket.original_dst_v6(),
        };
        match original {
            Ok(address) => Ok(address.as_socket().unwrap_or(local)),
            // Not tracked, so not redirected.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOPROTOOPT)) => Ok(local),
            Err(error) => Err(error),
        }
    }
}

/// Resolves host names; asked by STRICT_DNS clusters.
pub trait Resolve: Send + Sync {
    /// All addresses of a host with this port.
    fn resolve(&self, host: Arc<str>, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>>;
}

/// The host's own resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostResolver;

impl Resolve for HostResolver {
    fn resolve(&self, host: Arc<str>, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((&*host, port)).await?.collect()) })
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("identity", &self.identity)
            .field("node", &self.node)
            .field("outbound", &self.outbound)
            .field("inbound", &self.inbound)
            .field("mark", &self.mark)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
