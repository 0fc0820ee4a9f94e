//! Port 15012: gRPC over TLS. A client certificate is verified when one is shown; handlers find it in the request's extensions.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use isthmus_lifecycle::{Signal, TaskGroup};
use isthmus_tls::{PeerCertificate, Terminator, TlsStream};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tower::Service as _;

use crate::caller::{Bearer, Peer};

/// A handshake that takes longer is a stranger's or a dead host's.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at once for each core. A handshake is work for a core: with many more under way than cores, all would end late.
const HANDSHAKES_PER_CORE: usize = 16;
/// Whoever has not finished by then goes on beside the others: a client that says one byte and no more holds up nobody.
const TURN: Duration = Duration::from_millis(250);
/// Connections that have not finished their handshake; more wait in the kernel's backlog, so that a flood cannot take all memory.
const UNKNOWN: usize = 2048;
/// Connections that may wait to be accepted: all proxies of a control plane reconnect at once when it comes back. The kernel bounds it by
/// `net.core.somaxconn`.
const BACKLOG: u32 = 4096;
/// Bytes of responses that wait in HTTP/2 for a client's socket: each stream keeps room for as many frames as ever waited.
const UNSENT: usize = 16 * 1024;
/// Istio's keepalive: ping after 30 s of silence, give up after 10 s more.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

/// Listens, and makes `address` the one that it really is: a port of 0 is the system's choice.
///
/// # Errors
/// When one cannot listen there; the error names the flag.
pub fn bind(address: &mut SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    let listener = listen(*address).with_context(|| format!("{flag} {address}: cannot listen there"))?;
    *address = listener.local_addr()?;
    Ok(listener)
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts until told to stop, then lets open connections finish.
///
/// # Errors
/// When the listening socket fails for good.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<Terminator>,
    routes: axum::Router,
    tasks: TaskGroup,
) -> std::io::Result<()> {
    let stop = tasks.signal();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let handshakes = Arc::new(Semaphore::new(cores * HANDSHAKES_PER_CORE));
    let unknown = Arc::new(Semaphore::new(UNKNOWN));
    loop {
        let permit = tokio::select! {
            biased; // stopping beats accepting
            () = stop.stopping() => return Ok(()),
            permit = Arc::clone(&unknown).acquire_owned() => permit,
        };
        let accepted = tokio::select! {
            biased;
            () = stop.stopping() => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, or a client that left: neither ends the listener.
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let (tls, routes, stop) = (Arc::clone(&tls), routes.clone(), stop.clone());
        let (connections, turns) = (tasks.clone(), Arc::clone(&handshakes));
        tasks.spawn_many(async move {
            let Some((stream, certificate)) = Box::pin(handshake(stream, address, &tls, &turns)).await else {
                return;
            };
            drop(permit);
            // A task of its own: what the handshake needed is not kept for as long as the connection lives.
            connections.spawn_many(connection(stream, address, certificate, routes, stop));
        });
    }
}

async fn handshake(
    stream: TcpStream,
    address: SocketAddr,
    tls: &Terminator,
    turns: &Semaphore,
) -> Option<(TlsStream<TcpStream>, Option<Arc<PeerCertificate>>)> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%address, %error, "TCP_NODELAY not set");
    }
    // Nobody's turn begins before its first byte is there.
    let spoke = tokio::time::timeout(HANDSHAKE, stream.readable()).await;
    if !matches!(spoke, Ok(Ok(()))) {
        tracing::debug!(%address, "control-plane client said nothing");
        return None;
    }
    let turn = turns.acquire().await;
    let shaking = tls.accept(stream, HANDSHAKE);
    tokio::pin!(shaking);
    let shaken = match tokio::time::timeout(TURN, shaking.as_mut()).await {
        Ok(shaken) => shaken,
        Err(_) => {
            drop(turn);
            shaking.await
        }
    };
    match shaken {
        Ok(shaken) => Some(shaken),
        Err(error) => {
            tracing::info!(%address, %error, "control-plane client refused");
            None
        }
    }
}

/// Not `async` itself: what its arguments become is kept once, for as long as the connection lives.
fn connection(
    stream: TlsStream<TcpStream>,
    address: SocketAddr,
    certificate: Option<Arc<PeerCertificate>>,
    routes: axum::Router,
    stop: Signal,
) -> impl Future<Output = ()> {
    let service = tower::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
        let bearer = Bearer::of(request.headers());
        request.extensions_mut().insert(Peer { certificate: certificate.clone(), address, bearer });
        let mut routes = routes.clone();
        async move { routes.call(request).await }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1)
        .max_concurrent_streams(64)
        .max_frame_size(16 * 1024)
        .max_send_buf_size(UNSENT);
    let mut connection =
        Box::pin(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)));
    async move {
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stop.stopping() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection.as_mut() => ended,
                    () = stop.cut() => Ok(()),
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%address, %error, "control-plane connection ended");
        }
    }
}
