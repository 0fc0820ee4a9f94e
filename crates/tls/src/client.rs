//! The connecting side.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use isthmus_model::{SpiffeId, TrustDomain};
use rustls::client::{ResolvesClientCert, Resumption, Tls12Resumption, UnbufferedClientConnection};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};
use rustls_pki_types::{ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::identity::Identity;
use crate::peer::PeerCertificate;
use crate::refused::{HandshakeError, Refused};
use crate::sessions::Sessions;
use crate::verify::Servers;
use crate::{handshake, stream};

/// Whom a client wants to reach.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Expected {
    /// One of these workloads. An empty set accepts nobody.
    Spiffe(Arc<BTreeSet<SpiffeId>>),
    /// Any workload of this trust domain.
    AnyInDomain(TrustDomain),
    /// A server with this DNS name (or IP address), vouched for by the own domain's roots.
    ServerName(Arc<str>),
    /// A server with this DNS name, vouched for by the roots of this domain.
    ServerNameIn(Arc<str>, TrustDomain),
}

/// Whether to show the own certificate when asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientCertificate {
    /// The leaf of the moment, if there is one.
    Send,
    /// Stay anonymous.
    Omit,
}

/// A client configuration that follows the identity. The server name (SNI) is given at each connection and is not
/// what is verified: `expected` is.
#[must_use]
pub fn client_config(
    identity: &Identity,
    expected: Expected,
    alpn: &[&[u8]],
    certificate: ClientCertificate,
) -> Arc<ClientConfig> {
    let servers = Arc::new(Servers { identity: identity.clone(), expected });
    Arc::new(config(identity, servers, alpn, certificate))
}

fn config(
    identity: &Identity,
    servers: Arc<Servers>,
    alpn: &[&[u8]],
    certificate: ClientCertificate,
) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(crate::provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has cipher suites for TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(servers);
    let mut config = match certificate {
        ClientCertificate::Send => builder.with_client_cert_resolver(Arc::new(CurrentLeaf(identity.clone()))),
        ClientCertificate::Omit => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.resumption = Resumption::disabled();
    config
}

/// Begins mutual TLS as a client, on the data path: sessions are resumed, and the streams are made for moving bytes.
#[derive(Debug)]
pub struct Originator {
    config: Arc<ClientConfig>,
    servers: Arc<Servers>,
}

impl Originator {
    /// One that follows the identity. The parameters are those of [`client_config`].
    #[must_use]
    pub fn new(
        identity: &Identity,
        expected: Expected,
        alpn: &[&[u8]],
        certificate: ClientCertificate,
    ) -> Self {
        let servers = Arc::new(Servers { identity: identity.clone(), expected });
        let mut config = config(identity, Arc::clone(&servers), alpn, certificate);
        let sessions = Arc::new(Sessions::new(identity.clone()));
        config.resumption = Resumption::store(sessions).tls12_resumption(Tls12Resumption::Disabled);
        config.enable_secret_extraction = true;
        Self { config: Arc::new(config), servers }
    }

    /// Shakes hands, as [`connect`].
    ///
    /// # Errors
    /// As [`connect`].
    pub async fn connect<S>(
        &self,
        mut stream: S,
        server_name: ServerName<'static>,
        timeout: Duration,
    ) -> Result<(stream::TlsStream<S>, Arc<PeerCertificate>), HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let machine = UnbufferedClientConnection::new(Arc::clone(&self.config), server_name)
            .map_err(HandshakeError::Protocol)?;
        let shaken = handshake::shake(machine, &mut stream, |connection| {
            let (leaf, above) =
                connection.peer_certificates().and_then(<[_]>::split_first).ok_or(Refused::NoCertificate)?;
            Ok(self.servers.judge(leaf, above, UnixTime::now())?)
        });
        let (begun, peer) =
            tokio::time::timeout(timeout, shaken).await.map_err(|_| HandshakeError::Timeout(timeout))??;
        Ok((stream::TlsStream::new(stream, begun).map_err(HandshakeError::Protocol)?, peer))
    }
}

#[derive(Debug)]
pub(crate) struct CurrentLeaf(pub(crate) Identity);

impl ResolvesClientCert for CurrentLeaf {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.with(|now| now.leaf.as_ref().map(|leaf| leaf.certified()))
    }

    fn has_certs(&self) -> bool {
        self.0.with(|now| now.leaf.is_some())
    }
}

/// Shakes hands. With TLS 1.3 a server that refuses our certificate does so after this returned: the first read fails
/// then, with an alert.
///
/// # Errors
/// When the peer is not whom we expect, refuses us, is not a TLS server or is too slow.
pub async fn connect<S>(
    stream: S,
    config: &Arc<ClientConfig>,
    server_name: ServerName<'static>,
    timeout: Duration,
) -> Result<(TlsStream<S>, PeerCertificate), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = TlsConnector::from(Arc::clone(config)).connect(server_name, stream);
    let stream =
        tokio::time::timeout(timeout, handshake).await.map_err(|_| HandshakeError::Timeout(timeout))??;
    let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).ok_or(Refused::NoCertificate)?;
    let peer = PeerCertificate::parse(leaf).map_err(Refused::from)?;
    Ok((stream, peer))
}
