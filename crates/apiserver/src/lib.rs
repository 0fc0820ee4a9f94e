//! A small Kubernetes-style API over the store: kubectl and kube clients work against it.
//!
//! ```ignore
//! let store = Arc::new(EmbeddedStore::open(&dir.join("store.redb"))?);
//! let server = ApiServer::start(Config::new(store, tasks)).await?;
//! let client = kube::Client::new(server.router(), "default");           // in process, trusted
//! server.serve(listener, server.tls_config(certificate)?, stop).await?;  // HTTPS, authenticated
//! ```

pub mod config;
mod server;

pub use config::{Config, Warnings};
pub use server::{ApiServer, ServeError, StartError};
