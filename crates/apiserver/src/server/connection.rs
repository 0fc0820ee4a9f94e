//! TLS connections: the handshake, the certificate's identity, HTTP/1.1 and HTTP/2.

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use isthmus_lifecycle::{Drain, OnFailure, Signal, TaskGroup};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ResolvesServerCert, WebPkiClientVerifier};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::{ApiServer, ServeError};
use crate::auth::Identity;
use crate::http_api::Caller;

/// A client that has not finished its handshake by then is dropped.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections at a time.
const CONNECTIONS: usize = 4096;
/// How long running requests may take to end once told to stop.
const GRACE: Duration = Duration::from_secs(2);

pub(super) fn tls_config(
    roots: &[CertificateDer<'static>],
    certificate: Arc<dyn ResolvesServerCert>,
) -> Result<Arc<rustls::ServerConfig>, ServeError> {
    let bad = |error: &dyn std::fmt::Display| ServeError::Tls(error.to_string());
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier: Arc<dyn ClientCertVerifier> = if roots.is_empty() {
        WebPkiClientVerifier::no_client_auth()
    } else {
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root.clone()).map_err(|error| bad(&error))?;
        }
        WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .map_err(|error| bad(&error))?
    };
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(&error))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

pub(super) async fn serve(
    server: &ApiServer,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    stop: Signal,
) -> Result<(), ServeError> {
    let acceptor = TlsAcceptor::from(tls);
    let drain = Drain::new();
    let connections = TaskGroup::new("api connections", drain.clone());
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let (stream, peer) = tokio::select! {
            biased;
            () = stop.stopping() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) if is_transient(&error) => {
                    tracing::warn!(%error, "accepting an API connection failed, going on");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
                Err(error) => return Err(error.into()),
            },
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!(%peer, limit = CONNECTIONS, "too many API connections, one is refused");
            continue;
        };
        let (acceptor, server, signal) = (acceptor.clone(), server.clone(), connections.signal());
        connections.spawn("connection", OnFailure::Log, async move {
            let _place = place;
            if let Err(error) = connection(&server, acceptor, stream, &signal).await {
                tracing::debug!(%peer, error, "an API connection ended");
            }
            Ok::<(), std::convert::Infallible>(())
        });
    }
    tokio::join!(drain.graceful(GRACE), async {
        connections.finished().await;
        drain.immediate();
    });
    Ok(())
}

/// Errors of one connection or of a moment, not of the listener.
fn is_transient(error: &std::io::Error) -> bool {
    // EMFILE and ENFILE: too many open files.
    matches!(error.raw_os_error(), Some(24 | 23))
        || matches!(
            error.kind(),
            std::io::ErrorKind::ConnectionAborted
                | std::io::ErrorKind::ConnectionReset
                | std::io::ErrorKind::Interrupted
        )
}

async fn connection(
    server: &ApiServer,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    signal: &Signal,
) -> Result<(), String> {
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream))
        .await
        .map_err(|_| "the TLS handshake took too long".to_string())?
        .map_err(|error| error.to_string())?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let identity = match certificate {
        None => None,
        Some(certificate) => Some(
            Identity::of_certificate(certificate)
                .ok_or_else(|| "the client certificate has no common name".to_string())?,
        ),
    };
    let service = TowerToHyperService::new(server.router_of(Caller::Remote(identity)));
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(30));
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(15))
        .max_concurrent_streams(250);
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = signal.stopping() => {
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                ended = serving.as_mut() => ended,
                () = signal.cut() => Ok(()),
            }
        }
    };
    ended.map_err(|error| error.to_string())
}
