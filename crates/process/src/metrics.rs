//! A metrics registry that parts register into, and its Prometheus text.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::registry::Registry;

/// Shared by the parts of one program.
#[derive(Debug, Clone, Default)]
pub struct SharedRegistry(Arc<Mutex<Registry>>);

impl SharedRegistry {
    /// Lets a part register its metrics.
    pub fn register<T>(&self, part: impl FnOnce(&mut Registry) -> T) -> T {
        part(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The OpenMetrics text.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        let registry = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing into a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
        text
    }

    /// `GET /metrics` and `GET /stats/prometheus`.
    pub fn router(&self) -> axum::Router {
        let (one, two) = (self.clone(), self.clone());
        let kind = [("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")];
        axum::Router::new()
            .route("/metrics", axum::routing::get(move || async move { (kind, one.encode()) }))
            .route("/stats/prometheus", axum::routing::get(move || async move { (kind, two.encode()) }))
    }
}
