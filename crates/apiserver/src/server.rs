//! The server: started over a store, used in process or served over TLS.

use std::sync::Arc;

use axum::Router;
use isthmus_lifecycle::Signal;
use isthmus_store::StoreError;
use rustls::server::ResolvesServerCert;
use tokio::net::TcpListener;

use crate::config::Config;

/// The server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store failed.
    #[error("reading the store failed")]
    Store(#[from] StoreError),
    /// A definition to install is not valid.
    #[error("installing {name} failed: {reason}")]
    Install {
        /// The object.
        name: String,
        /// Why.
        reason: String,
    },
    /// The signing key is not a P-256 key in PKCS #8 PEM.
    #[error("the signing key of ServiceAccount tokens is not usable: {0}")]
    SigningKey(String),
}

/// Serving ended with an error.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The client roots or the TLS settings are not usable.
    #[error("the TLS settings are not usable: {0}")]
    Tls(String),
    /// The listener failed.
    #[error("accepting connections failed")]
    Accept(#[from] std::io::Error),
}

/// A Kubernetes-style API over a store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ApiServer {
    config: Arc<Config>,
}

impl ApiServer {
    /// Reads the store, installs the definitions, starts the background parts in the configured task group.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        Ok(Self { config: Arc::new(config) })
    }

    /// The API for use in this process, as the control plane: `kube::Client::new(server.router(), "default")`.
    #[must_use]
    pub fn router(&self) -> Router {
        self.router_as("isthmus:control-plane", &[])
    }

    /// The API for use in this process as any user; for tests and tools. Group `system:masters` may do everything.
    #[must_use]
    pub fn router_as(&self, _user: &str, _groups: &[&str]) -> Router {
        Router::new()
    }

    /// Serves these paths to admins too, for requests under `/debug/`.
    pub fn mount_debug(&self, _router: Router) {}

    /// TLS settings for [`ApiServer::serve`]: this certificate, client certificates optional and checked against the
    /// configured roots.
    pub fn tls_config(
        &self,
        _certificate: Arc<dyn ResolvesServerCert>,
    ) -> Result<Arc<rustls::ServerConfig>, ServeError> {
        Err(ServeError::Tls(format!("{:?}", self.config)))
    }

    /// Serves HTTPS until told to stop; running watches are cut then.
    pub async fn serve(
        &self,
        _listener: TcpListener,
        _tls: Arc<rustls::ServerConfig>,
        stop: Signal,
    ) -> Result<(), ServeError> {
        stop.stopping().await;
        Ok(())
    }
}
