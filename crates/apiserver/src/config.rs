//! What an API server is told.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use isthmus_lifecycle::{Clock, SystemClock, TaskGroup};
use isthmus_store::Store;
use rustls::pki_types::CertificateDer;
use serde_json::Value;

/// Texts for the `Warning` header of an answer to a write, from the object that was accepted.
pub type Warnings = Arc<dyn Fn(&Value) -> Vec<String> + Send + Sync>;

/// What an API server is told.
#[derive(Clone)]
pub struct Config {
    /// Where objects live.
    pub store: Arc<dyn Store>,
    /// Runs the background parts: the cache, garbage collection.
    pub tasks: TaskGroup,
    /// The time of creation stamps and tokens.
    pub clock: Arc<dyn Clock>,
    /// Where Services get their addresses from.
    pub service_cidr: Ipv4Net,
    /// The issuer named in ServiceAccount tokens, and their default audience.
    pub issuer: String,
    /// Key that signs ServiceAccount tokens: PKCS #8 PEM, P-256. When absent, one is made and kept in the store, so
    /// that replicas share it.
    pub signing_key: Option<String>,
    /// Roots of client certificates: common name is the user, organizations are the groups.
    pub client_roots: Vec<CertificateDer<'static>>,
    /// CustomResourceDefinitions to install or update at start.
    pub crds: Vec<Value>,
    /// Namespaces to create at start beside Kubernetes' own.
    pub namespaces: Vec<String>,
    /// What is accepted and not enforced.
    pub warnings: Warnings,
}

impl Config {
    /// Defaults: 10.96.0.0/16, no client roots, no CRDs, no warnings, namespace `istio-system`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, tasks: TaskGroup) -> Self {
        Self {
            store,
            tasks,
            clock: Arc::new(SystemClock),
            service_cidr: Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16),
            issuer: "https://kubernetes.default.svc".to_string(),
            signing_key: None,
            client_roots: Vec::new(),
            crds: Vec::new(),
            namespaces: vec!["istio-system".to_string()],
            warnings: Arc::new(|_| Vec::new()),
        }
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("store", &self.store)
            .field("service_cidr", &self.service_cidr)
            .field("issuer", &self.issuer)
            .field("client_roots", &self.client_roots.len())
            .field("crds", &self.crds.len())
            .finish_non_exhaustive()
    }
}
