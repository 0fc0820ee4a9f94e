//! To an endpoint: socket, mark, source, TLS, all within the cluster's connect timeout.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use isthmus_socket::Socket;
use isthmus_tls::{HandshakeError, PeerCertificate};
use rustls::pki_types::ServerName;
use socket2::{Domain, Protocol, SockRef, TcpKeepalive, Type};
use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::announced::{self, Announce, Ends};
use crate::balance::Endpoint;
use crate::cluster::Cluster;
use crate::config::Keepalive;
use crate::resource::cluster::ClusterConfig;
use crate::resource::tls::{ClientTls, Upstream};
use crate::stream::Stream;

/// Opens upstream connections.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    pub(crate) mark: Option<u32>,
    /// Where the cluster says nothing.
    pub(crate) keepalive: Keepalive,
}

/// An upstream connection.
pub(crate) struct Connected {
    pub(crate) stream: Stream,
    /// The verified certificate of the upstream, when it is TLS.
    pub(crate) peer: Option<Arc<PeerCertificate>>,
}

/// Why an upstream connection failed, before it carried a byte.
#[derive(Debug, Error)]
pub(crate) enum ConnectError {
    #[error("connect: {0}")]
    Tcp(io::Error),
    #[error("connect: no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    #[error("TLS: {0}")]
    Tls(HandshakeError),
    /// It connected, took the client's hello and broke off.
    #[error("no answer to the client hello: {0}")]
    Unanswered(io::Error),
    /// It connected and says nothing.
    #[error("no answer to the client hello within {} ms", .0.as_millis())]
    Silent(Duration),
}

impl ConnectError {
    /// A short word for metrics.
    pub(crate) fn cause(&self) -> &'static str {
        match self {
            Self::Tcp(error) if error.kind() == io::ErrorKind::ConnectionRefused => "connect_refused",
            Self::Tcp(_) => "connect_failed",
            Self::Timeout(_) => "connect_timeout",
            Self::Tls(HandshakeError::Timeout(_)) => "tls_timeout",
            Self::Tls(error) => error.label(),
            Self::Unanswered(_) => "hello_unanswered",
            Self::Silent(_) => "hello_answer_timeout",
        }
    }

    pub(crate) fn is_refused(&self) -> bool {
        matches!(self, Self::Tcp(error) if error.kind() == io::ErrorKind::ConnectionRefused)
    }
}

impl Connector {
    /// Connects to an endpoint of a cluster, handshake included. An endpoint that wants it is told the client's ends first.
    pub(crate) async fn connect(
        &self,
        cluster: &Cluster,
        address: SocketAddr,
        transport: &Upstream,
        client: Option<Ends>,
    ) -> Result<Connected, ConnectError> {
        self.connect_saying(cluster, address, transport, client, &[]).await
    }

    /// The same, and says a client's hello to it.
    pub(crate) async fn connect_saying(
        &self,
        cluster: &Cluster,
        address: SocketAddr,
        transport: &Upstream,
        client: Option<Ends>,
        hello: &[u8],
    ) -> Result<Connected, ConnectError> {
        let config = &cluster.config;
        let deadline = Instant::now() + config.connect_timeout;
        let source = config.source_for(address.ip());
        let bare = matches!(transport, Upstream::Plain);
        let opened = self.open(address, source, if bare { hello } else { &[] });
        let stream = match tokio::time::timeout_at(deadline, opened).await {
            Ok(opened) => opened.map_err(ConnectError::Tcp)?,
            Err(_) => return Err(ConnectError::Timeout(config.connect_timeout)),
        };
        let mut connected = self.prepare(stream, address, transport, client, deadline, config).await?;
        if !bare && !hello.is_empty() {
            let said = async {
                connected.stream.write_all(hello).await?;
                connected.stream.flush().await
            };
            match tokio::time::timeout_at(deadline, said).await {
                Ok(said) => said.map_err(ConnectError::Unanswered)?,
                Err(_) => return Err(ConnectError::Silent(config.connect_timeout)),
            }
        }
        Ok(connected)
    }

    /// What a transport wants before the first byte.
    async fn prepare(
        &self,
        stream: Socket,
        address: SocketAddr,
        transport: &Upstream,
        client: Option<Ends>,
        deadline: Instant,
        config: &ClusterConfig,
    ) -> Result<Connected, ConnectError> {
        let (stream, transport) = match transport {
            Upstream::Announced(version, inner) => {
                (announce(stream, *version, client).await.map_err(ConnectError::Tcp)?, &**inner)
            }
            other => (stream, other),
        };
        match transport {
            Upstream::Plain | Upstream::Announced(..) => {
                Ok(Connected { stream: Stream::Plain(stream), peer: None })
            }
            Upstream::Tls(tls) => {
                let handshake = Box::pin(encrypt(tls, address, stream, deadline));
                handshake.await.map_err(|error| match error {
                    // What was configured says more than what was left of it.
                    HandshakeError::Timeout(_) => {
                        ConnectError::Tls(HandshakeError::Timeout(config.connect_timeout))
                    }
                    error => ConnectError::Tls(error),
                })
            }
        }
    }

    /// Begins keepalive of a connection that is no longer young.
    pub(crate) fn watch(&self, upstream: &Socket, cluster: Option<&Cluster>) {
        let keepalive = cluster.and_then(|cluster| cluster.config.keepalive).unwrap_or(self.keepalive);
        if let Err(error) = SockRef::from(upstream).set_tcp_keepalive(&params(&keepalive)) {
            tracing::debug!(%error, "no keepalive");
        }
    }

    /// Whether an endpoint takes connections, its TLS handshake included.
    pub(crate) async fn probe(&self, cluster: &Cluster, endpoint: &Endpoint) -> Result<(), ConnectError> {
        let connected = self.connect(cluster, endpoint.address(), &endpoint.transport, None).await?;
        connected.stream.abandon();
        Ok(())
    }

    /// Connects, and says these first bytes.
    async fn open(&self, address: SocketAddr, source: Option<IpAddr>, first: &[u8]) -> io::Result<Socket> {
        let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if let Some(mark) = self.mark {
            socket.set_mark(mark)?;
        }
        if let Some(source) = source {
            // The port is chosen at connect: otherwise all destinations share one set of ports.
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::IpBindAddressNoPort, &true)?;
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        socket.set_tcp_nodelay(true)?;
        Socket::connect(socket, address, first).await
    }
}

/// What the connections of a listening socket have: no delay for small writes, keepalive.
pub(crate) fn tune(socket: &socket2::Socket, keepalive: &Keepalive) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&params(keepalive))
}

fn params(keepalive: &Keepalive) -> TcpKeepalive {
    let mut params = TcpKeepalive::new();
    if let Some(time) = keepalive.time {
        params = params.with_time(time);
    }
    if let Some(interval) = keepalive.interval {
        params = params.with_interval(interval);
    }
    if let Some(probes) = keepalive.probes {
        params = params.with_retries(probes);
    }
    params
}

/// A new socket's buffer takes a header at once.
async fn announce(mut stream: Socket, version: Announce, client: Option<Ends>) -> io::Result<Socket> {
    stream.write_all(&announced::write(version, client)).await?;
    Ok(stream)
}

async fn encrypt(
    tls: &Arc<ClientTls>,
    address: SocketAddr,
    stream: Socket,
    deadline: Instant,
) -> Result<Connected, HandshakeError> {
    let name = tls.server_name.clone().unwrap_or_else(|| ServerName::from(address.ip()));
    let left = deadline.saturating_duration_since(Instant::now());
    let (stream, peer) = tls.originator.connect(stream, name, left).await?;
    Ok(Connected { stream: Stream::Client(Box::new(stream)), peer: Some(peer) })
}
