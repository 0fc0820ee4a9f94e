//! A small Kubernetes-style API over the store: kubectl and kube clients work against it.
//!
//! ```text
//! let store = Arc::new(EmbeddedStore::open(&dir.join("store.redb"))?);
//! let server = ApiServer::start(Config::new(store, tasks)).await?;
//! let client = kube::Client::new(server.router(), "default");           // in process, trusted
//! server.serve(listener, server.tls_config(certificate)?, stop).await?;  // HTTPS, authenticated
//! ```

mod api;
mod apply;
mod auth;
mod background;
mod cache;
pub mod config;
mod discovery;
mod http_api;
mod kinds;
mod meta;
mod openapi;
mod patch;
mod protobuf;
mod request;
mod schema;
mod selector;
mod server;
mod status;
mod strategy;
mod table;

pub use config::{Config, Warnings};
pub use server::{ApiServer, ServeError, StartError};
