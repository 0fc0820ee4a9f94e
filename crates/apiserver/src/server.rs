//! The server: started over a store, used in process or served over TLS.

mod connection;
mod install;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use http::Request;
use isthmus_lifecycle::{OnFailure, Signal};
use isthmus_store::StoreError;
use parking_lot::RwLock;
use rustls::server::ResolvesServerCert;
use tokio::net::TcpListener;

use crate::api::Api;
use crate::auth::token::Signer;
use crate::auth::{CONTROL_PLANE, Identity};
use crate::background;
use crate::cache::Cache;
use crate::config::Config;
use crate::http_api::{Caller, Handler};
use crate::kinds::Kinds;
use crate::openapi::Documents;

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
    handler: Arc<Handler>,
}

impl ApiServer {
    /// Reads the store, installs the definitions, starts the background parts in the configured task group.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let kinds = Arc::new(Kinds::new());
        let signer =
            Signer::load(config.signing_key.as_deref(), &config.store, config.issuer.clone()).await?;
        let cache = Cache::load(Arc::clone(&config.store), Arc::clone(&kinds)).await?;
        let tasks = config.tasks.clone();
        let following = Arc::clone(&cache).follow(tasks.signal());
        tasks.spawn("api cache", OnFailure::Stop, async move {
            following.await;
            Ok::<(), StoreError>(())
        });
        let api = Arc::new(Api { store: Arc::clone(&config.store), cache, kinds, signer, config });
        install::install(&api).await?;
        tasks.spawn_infallible("api collector", background::run(Arc::clone(&api), tasks.signal()));
        let handler = Handler { api, openapi: Documents::default(), debug: RwLock::new(None) };
        Ok(Self { handler: Arc::new(handler) })
    }

    /// The API for use in this process, as the control plane: `kube::Client::new(server.router(), "default")`.
    pub fn router(&self) -> Router {
        self.router_as("isthmus:control-plane", &[CONTROL_PLANE])
    }

    /// The API for use in this process as any user; for tests and tools. Group `system:masters` may do everything.
    pub fn router_as(&self, user: &str, groups: &[&str]) -> Router {
        self.router_of(Caller::Trusted(Identity::new(user, groups)))
    }

    fn router_of(&self, caller: Caller) -> Router {
        let handler = Arc::clone(&self.handler);
        Router::new()
            .fallback(move |request: Request<Body>| Arc::clone(&handler).handle(caller.clone(), request))
    }

    /// Serves these paths to admins too, for requests under `/debug/`.
    pub fn mount_debug(&self, router: Router) {
        *self.handler.debug.write() = Some(router);
    }

    /// TLS settings for [`ApiServer::serve`]: this certificate, client certificates optional and checked against the
    /// configured roots.
    pub fn tls_config(
        &self,
        certificate: Arc<dyn ResolvesServerCert>,
    ) -> Result<Arc<rustls::ServerConfig>, ServeError> {
        connection::tls_config(&self.handler.api.config.client_roots, certificate)
    }

    /// Serves HTTPS until told to stop; running watches are cut then.
    pub async fn serve(
        &self,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        stop: Signal,
    ) -> Result<(), ServeError> {
        connection::serve(self, listener, tls, stop).await
    }
}
