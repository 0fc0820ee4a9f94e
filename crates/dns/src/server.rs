//! The listening side: UDP and TCP, bounded.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use isthmus_lifecycle::{OnFailure, Signal, TaskGroup};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use crate::answer::{self, Transport, Verdict};
use crate::forward::{Upstream, framed};
use crate::metrics::Metrics;
use crate::resolve;
use crate::table::{Host, Perspective, Table};

/// How long a TCP client may stay silent (RFC 7766 section 6.2.3).
const IDLE: Duration = Duration::from_secs(10);

/// What the server is given at its start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it listens, over UDP and TCP each. Port 0 takes one port for both.
    pub listen: Vec<SocketAddr>,
    /// The host's own resolvers.
    pub upstreams: Vec<SocketAddr>,
    /// Who asks.
    pub perspective: Perspective,
    /// Mark of the sockets that ask upstream, so that capture leaves them alone. None without privileges.
    pub mark: Option<u32>,
    /// Time that each upstream has.
    pub timeout: Duration,
    /// Queries that may wait for upstreams at once.
    pub forwards: usize,
    /// TCP connections at once.
    pub connections: usize,
}

impl Config {
    /// Istio's times and our bounds.
    #[must_use]
    pub fn new(listen: Vec<SocketAddr>, upstreams: Vec<SocketAddr>, perspective: Perspective) -> Self {
        let timeout = Duration::from_secs(5);
        Self { listen, upstreams, perspective, mark: None, timeout, forwards: 1024, connections: 256 }
    }
}

/// Why the server does not start.
#[derive(Debug, Error)]
#[error("DNS proxy: cannot listen on {address} over {over}: {source}")]
pub struct BindError {
    address: SocketAddr,
    over: &'static str,
    source: io::Error,
}

/// Bound sockets that wait to be served.
#[derive(Debug)]
pub struct Server {
    sockets: Vec<(Arc<UdpSocket>, TcpListener)>,
    shared: Arc<Shared>,
}

/// Feeds a running server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    table: ArcSwapOption<Table>,
    upstreams: ArcSwap<Vec<SocketAddr>>,
    perspective: Perspective,
    upstream: Upstream,
    forwards: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    metrics: Metrics,
}

impl Server {
    /// Binds everything.
    ///
    /// # Errors
    /// When one address cannot be bound.
    pub async fn bind(config: Config, metrics: Metrics) -> Result<Self, BindError> {
        let mut sockets = Vec::new();
        for address in config.listen {
            let failed = |over, address| move |source| BindError { address, over, source };
            let tcp = TcpListener::bind(address).await.map_err(failed("TCP", address))?;
            let address = tcp.local_addr().map_err(failed("TCP", address))?;
            let udp = UdpSocket::bind(address).await.map_err(failed("UDP", address))?;
            sockets.push((Arc::new(udp), tcp));
        }
        let upstream = Upstream { mark: config.mark, timeout: config.timeout, metrics: metrics.clone() };
        let shared = Shared {
            table: ArcSwapOption::empty(),
            upstreams: ArcSwap::from_pointee(config.upstreams),
            perspective: config.perspective,
            upstream,
            forwards: Arc::new(Semaphore::new(config.forwards)),
            connections: Arc::new(Semaphore::new(config.connections)),
            metrics,
        };
        Ok(Self { sockets, shared: Arc::new(shared) })
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|(_, tcp)| tcp.local_addr().ok()).collect()
    }

    /// Feeds the server, also before it runs.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.shared))
    }

    /// Serves in this group until it stops. A socket that fails stops the group.
    pub fn run(self, group: &TaskGroup) {
        for (udp, tcp) in self.sockets {
            let (shared, tasks, stop) = (Arc::clone(&self.shared), group.clone(), group.signal());
            group.spawn("dns over udp", OnFailure::Stop, serve_udp(udp, shared, tasks, stop));
            let (shared, tasks, stop) = (Arc::clone(&self.shared), group.clone(), group.signal());
            group.spawn("dns over tcp", OnFailure::Stop, serve_tcp(tcp, shared, tasks, stop));
        }
    }
}

impl Handle {
    /// Replaces the whole table. Names that are no DNS names are left out and returned.
    pub fn replace(&self, hosts: &[Host]) -> Vec<String> {
        let table = Table::new(hosts, &self.0.perspective);
        let refused = table.refused().to_vec();
        self.0.table.store(Some(Arc::new(table)));
        refused
    }

    /// Replaces the resolvers that other names are forwarded to.
    pub fn set_upstreams(&self, upstreams: Vec<SocketAddr>) {
        self.0.upstreams.store(Arc::new(upstreams));
    }

    /// Addresses of a host outside the mesh, from the host's own resolvers and never from the table.
    ///
    /// # Errors
    /// When no resolver answers, or the host has no address.
    pub async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let servers = self.0.upstreams.load_full();
        resolve::resolve(&self.0.upstream, &servers, host).await
    }

    /// The table in force; none before the first.
    #[must_use]
    pub fn table(&self) -> Option<Arc<Table>> {
        self.0.table.load_full()
    }

    /// What the table in force says of some names, for a person and for tests.
    #[must_use]
    pub fn dump(&self) -> HashMap<String, Vec<IpAddr>> {
        self.table().map(|table| table.dump().into_iter().collect()).unwrap_or_default()
    }
}

impl Shared {
    fn decide(&self, packet: &[u8], transport: Transport) -> Verdict {
        self.metrics.requests.inc();
        answer::decide(self.table.load().as_deref(), packet, transport, &mut rand::rng())
    }

    /// The upstream's reply, or a failure.
    async fn forward(&self, packet: &[u8], transport: Transport, limit: usize) -> Option<Vec<u8>> {
        let Ok(_permit) = self.forwards.try_acquire() else {
            self.metrics.refused.inc();
            return answer::server_failure(packet);
        };
        let servers = self.upstreams.load_full();
        let reply = self.upstream.ask(&servers, packet, transport).await;
        reply.and_then(|reply| answer::fit(reply, limit)).or_else(|| answer::server_failure(packet))
    }
}

async fn serve_udp(
    socket: Arc<UdpSocket>,
    shared: Arc<Shared>,
    tasks: TaskGroup,
    stop: Signal,
) -> io::Result<()> {
    let mut buffer = vec![0; 65_535];
    loop {
        let (length, client) = tokio::select! {
            biased; // stopping beats answering
            () = stop.cut() => return Ok(()),
            received = socket.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                // An ICMP error about an earlier reply.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => return Err(error),
            },
        };
        match shared.decide(&buffer[..length], Transport::Udp) {
            Verdict::Ignore => {}
            Verdict::Reply(reply) => send(&socket, &reply, client).await,
            Verdict::Forward { limit } => {
                let (socket, shared, packet) =
                    (Arc::clone(&socket), Arc::clone(&shared), buffer[..length].to_vec());
                tasks.spawn_infallible("dns forward", async move {
                    if let Some(reply) = shared.forward(&packet, Transport::Udp, limit).await {
                        send(&socket, &reply, client).await;
                    }
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, reply: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(reply, client).await {
        tracing::debug!(%client, %error, "DNS reply not sent");
    }
}

async fn serve_tcp(
    listener: TcpListener,
    shared: Arc<Shared>,
    tasks: TaskGroup,
    stop: Signal,
) -> io::Result<()> {
    loop {
        let (stream, client) = tokio::select! {
            biased; // stopping beats accepting
            () = stop.cut() => return Ok(()),
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, or a client that is gone already: neither is the listener's end.
                    tracing::warn!(%error, "DNS connection not accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let Ok(permit) = Arc::clone(&shared.connections).try_acquire_owned() else {
            tracing::debug!(%client, "too many DNS connections, closing");
            continue;
        };
        let (shared, stop) = (Arc::clone(&shared), stop.clone());
        tasks.spawn_infallible("dns connection", async move {
            let _permit = permit;
            tokio::select! {
                biased;
                () = stop.cut() => {}
                ended = converse(stream, &shared) => if let Err(error) = ended {
                    tracing::debug!(%client, %error, "DNS connection ended");
                },
            }
        });
    }
}

async fn converse(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    loop {
        let length = match tokio::time::timeout(IDLE, stream.read_u16()).await {
            Ok(Ok(length)) => length,
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok(()),
        };
        let mut packet = vec![0; usize::from(length)];
        tokio::time::timeout(IDLE, stream.read_exact(&mut packet)).await??;
        let reply = match shared.decide(&packet, Transport::Tcp) {
            Verdict::Ignore => None,
            Verdict::Reply(reply) => Some(reply),
            Verdict::Forward { limit } => shared.forward(&packet, Transport::Tcp, limit).await,
        };
        let Some(reply) = reply else { return Ok(()) };
        tokio::time::timeout(IDLE, stream.write_all(&framed(&reply)?)).await??;
    }
}
