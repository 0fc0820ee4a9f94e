//! The accepting side.

use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::client::CurrentLeaf;
use crate::identity::Identity;
use crate::peer::PeerCertificate;
use crate::refused::{HandshakeError, Refused};
use crate::verify::Clients;

/// What a server asks of its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientAuth {
    /// A certificate that verifies.
    Required,
    /// None, or one that verifies. One that does not is refused.
    Optional,
    /// Clients are not asked.
    None,
}

/// A server configuration that follows the identity.
#[must_use]
pub fn server_config(identity: &Identity, auth: ClientAuth, alpn: &[&[u8]]) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(crate::provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has cipher suites for TLS 1.2 and 1.3");
    let builder = match auth {
        ClientAuth::None => builder.with_no_client_auth(),
        ClientAuth::Required | ClientAuth::Optional => {
            builder.with_client_cert_verifier(Arc::new(Clients { identity: identity.clone(), auth }))
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(CurrentLeaf(identity.clone())));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

impl ResolvesServerCert for CurrentLeaf {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.with(|now| now.leaf.as_ref().map(|leaf| leaf.certified()))
    }
}

/// Shakes hands with a client. The second value is its certificate, verified; none when it showed none and need not.
///
/// # Errors
/// When the client is refused, refuses us, does not speak TLS or is too slow.
pub async fn accept<S>(
    stream: S,
    config: &Arc<ServerConfig>,
    timeout: Duration,
) -> Result<(TlsStream<S>, Option<PeerCertificate>), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = TlsAcceptor::from(Arc::clone(config)).accept(stream);
    let stream =
        tokio::time::timeout(timeout, handshake).await.map_err(|_| HandshakeError::Timeout(timeout))??;
    let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let peer = leaf.map(PeerCertificate::parse).transpose().map_err(Refused::from)?;
    Ok((stream, peer))
}
