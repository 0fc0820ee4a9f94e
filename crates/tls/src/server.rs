//! The accepting side.

use std::sync::Arc;
use std::time::Duration;

use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, UnbufferedServerConnection};
use rustls::sign::CertifiedKey;
use rustls::{CommonState, ServerConfig};
use rustls_pki_types::UnixTime;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::client::CurrentLeaf;
use crate::identity::Identity;
use crate::peer::PeerCertificate;
use crate::refused::{HandshakeError, Refused};
use crate::sessions::Tickets;
use crate::verify::Clients;
use crate::{handshake, stream};

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

fn config(identity: &Identity, clients: Arc<Clients>, alpn: &[&[u8]]) -> ServerConfig {
    let builder = ServerConfig::builder_with_provider(crate::provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has cipher suites for TLS 1.2 and 1.3");
    let builder = match clients.auth {
        ClientAuth::None => builder.with_no_client_auth(),
        ClientAuth::Required | ClientAuth::Optional => builder.with_client_cert_verifier(clients),
    };
    let mut config = builder.with_cert_resolver(Arc::new(CurrentLeaf(identity.clone())));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config
}

/// Accepts TLS, mutual where clients are asked. Its streams are made for moving bytes, and hold no buffer while nothing moves.
#[derive(Debug)]
pub struct Terminator {
    config: Arc<ServerConfig>,
    clients: Arc<Clients>,
}

impl Terminator {
    /// For the data path, following the identity: sessions are resumed.
    #[must_use]
    pub fn new(identity: &Identity, auth: ClientAuth, alpn: &[&[u8]]) -> Self {
        // Each connection leaves as many as it used.
        Self::with(identity, auth, alpn, |config| {
            config.ticketer = Arc::new(Tickets(identity.clone()));
            config.send_tls13_tickets = 1;
        })
    }

    /// For streams of control, following the identity: no session is ever resumed, each connection shakes hands in full.
    #[must_use]
    pub fn without_sessions(identity: &Identity, auth: ClientAuth, alpn: &[&[u8]]) -> Self {
        Self::with(identity, auth, alpn, |config| config.send_tls13_tickets = 0)
    }

    fn with(
        identity: &Identity,
        auth: ClientAuth,
        alpn: &[&[u8]],
        sessions: impl FnOnce(&mut ServerConfig),
    ) -> Self {
        let clients = Arc::new(Clients { identity: identity.clone(), auth });
        let mut config = config(identity, Arc::clone(&clients), alpn);
        config.enable_secret_extraction = true;
        sessions(&mut config);
        Self { config: Arc::new(config), clients }
    }

    /// Shakes hands with a client. The second value is its certificate, verified; none when it showed none and need not.
    ///
    /// # Errors
    /// When the client is refused, refuses us, does not speak TLS or is too slow.
    pub async fn accept<S>(
        &self,
        mut stream: S,
        timeout: Duration,
    ) -> Result<(stream::TlsStream<S>, Option<Arc<PeerCertificate>>), HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let machine =
            UnbufferedServerConnection::new(Arc::clone(&self.config)).map_err(HandshakeError::Protocol)?;
        let shaken = handshake::shake(machine, &mut stream, |connection| self.judge(connection));
        let (begun, peer) =
            tokio::time::timeout(timeout, shaken).await.map_err(|_| HandshakeError::Timeout(timeout))??;
        Ok((stream::TlsStream::new(stream, begun).map_err(HandshakeError::Protocol)?, peer))
    }

    /// Also of a session that began elsewhere: another listener of this identity may have asked less of its clients.
    fn judge(&self, connection: &CommonState) -> Result<Option<Arc<PeerCertificate>>, HandshakeError> {
        match (self.clients.auth, connection.peer_certificates().and_then(<[_]>::split_first)) {
            (ClientAuth::None, _) | (ClientAuth::Optional, None) => Ok(None),
            (ClientAuth::Required, None) => Err(Refused::NoCertificate.into()),
            (ClientAuth::Required | ClientAuth::Optional, Some((leaf, above))) => {
                Ok(Some(self.clients.judge(leaf, above, UnixTime::now())?))
            }
        }
    }
}

impl ResolvesServerCert for CurrentLeaf {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.with(|now| now.leaf.as_ref().map(|leaf| leaf.certified()))
    }
}
