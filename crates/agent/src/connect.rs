//! Reaching the control plane: several addresses, one name, TLS by the live identity.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use isthmus_tls::{ClientCertificate, Expected, HandshakeError, Identity};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use crate::state::Membership;

/// Time for one address: connection and handshake.
const PATIENCE: Duration = Duration::from_secs(5);
/// A silent peer is noticed after these two together.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_PATIENCE: Duration = Duration::from_secs(10);

/// Why no control plane is reached; one problem for each address.
#[derive(Debug, Error)]
#[error(
    "no control plane answers as {server_name}: {}; is it running, and is this host's way to it open?",
    problems.join("; ")
)]
pub struct ConnectError {
    server_name: Arc<str>,
    problems: Vec<String>,
}

/// Opens connections to the control plane. Cheap to clone; clones share which address answered last.
#[derive(Clone)]
pub struct Connector {
    shared: Arc<Shared>,
}

struct Shared {
    addresses: Vec<Arc<str>>,
    server_name: Arc<str>,
    name: ServerName<'static>,
    tls: Arc<ClientConfig>,
    mark: Option<u32>,
    preferred: AtomicUsize,
}

/// A server name that TLS cannot send.
#[derive(Debug, Error)]
#[error("the control plane's server name {0:?} is no DNS name")]
pub struct InvalidServerName(Arc<str>);

impl Connector {
    /// Connects as this identity (or anonymously while it has no leaf), to a server that proves `server_name`. `mark` goes on
    /// every socket, so that capture leaves them alone.
    ///
    /// # Errors
    /// When the server name is no DNS name.
    pub fn new(
        identity: &Identity,
        addresses: &[Arc<str>],
        server_name: &Arc<str>,
        mark: Option<u32>,
    ) -> Result<Self, InvalidServerName> {
        let name = ServerName::try_from(server_name.to_string())
            .map_err(|_| InvalidServerName(Arc::clone(server_name)))?;
        let expected = Expected::ServerName(Arc::clone(server_name));
        let tls = isthmus_tls::client_config(identity, expected, &[b"h2"], ClientCertificate::Send);
        let shared = Shared {
            addresses: addresses.to_vec(),
            server_name: Arc::clone(server_name),
            name,
            tls,
            mark,
            preferred: AtomicUsize::new(0),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// For a member.
    ///
    /// # Errors
    /// When the server name is no DNS name.
    pub fn for_member(
        identity: &Identity,
        membership: &Membership,
        mark: Option<u32>,
    ) -> Result<Self, InvalidServerName> {
        Self::new(identity, &membership.addresses, &membership.server_name, mark)
    }

    /// Name that the server must prove.
    #[must_use]
    pub fn server_name(&self) -> &Arc<str> {
        &self.shared.server_name
    }

    /// Tries the address that answered last, then the others in order.
    ///
    /// # Errors
    /// When none answers, with a reason for each.
    pub async fn connect(&self) -> Result<TlsStream<TcpStream>, ConnectError> {
        let shared = &self.shared;
        let first = shared.preferred.load(Ordering::Relaxed);
        let mut problems = Vec::new();
        for step in 0..shared.addresses.len() {
            let at = (first + step) % shared.addresses.len();
            let address = &shared.addresses[at];
            match self.connect_to(address).await {
                Ok(stream) => {
                    shared.preferred.store(at, Ordering::Relaxed);
                    return Ok(stream);
                }
                Err(problem) => problems.push(format!("{address}: {problem}")),
            }
        }
        if problems.is_empty() {
            problems.push("no address is known".to_string());
        }
        Err(ConnectError { server_name: Arc::clone(&shared.server_name), problems })
    }

    async fn connect_to(&self, address: &str) -> Result<TlsStream<TcpStream>, Problem> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let dial = async {
            let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            for resolved in tokio::net::lookup_host(address).await? {
                match self.dial(resolved).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) => last = error,
                }
            }
            Err(last)
        };
        let stream = tokio::time::timeout_at(deadline, dial).await.map_err(|_| Problem::Silent)??;
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        let (stream, _) =
            isthmus_tls::connect(stream, &self.shared.tls, self.shared.name.clone(), left).await?;
        Ok(stream)
    }

    async fn dial(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(mark) = self.shared.mark {
            isthmus_capture::mark(&socket, mark)?;
        }
        socket.set_nodelay(true)?;
        socket.connect(address).await
    }

    /// A gRPC channel that connects when first used, and again whenever its connection was lost.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.endpoint().connect_with_connector_lazy(self.clone())
    }

    /// A gRPC channel that is connected now.
    ///
    /// # Errors
    /// When no address answers.
    pub async fn open(&self) -> Result<Channel, tonic::transport::Error> {
        self.endpoint().connect_with_connector(self.clone()).await
    }

    fn endpoint(&self) -> Endpoint {
        // TLS is the connector's own business: the scheme only has to be one that tonic leaves alone.
        let uri = http::Uri::builder()
            .scheme("http")
            .authority(&*self.shared.server_name)
            .path_and_query("/")
            .build()
            .expect("a DNS name is an authority");
        Endpoint::from(uri)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_PATIENCE)
            .keep_alive_while_idle(true)
    }
}

/// What was wrong with one address.
#[derive(Debug, Error)]
enum Problem {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Silent,
}

impl tower::Service<http::Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect().await.map(TokioIo::new) })
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector")
            .field("addresses", &self.shared.addresses)
            .field("server_name", &self.shared.server_name)
            .finish_non_exhaustive()
    }
}
