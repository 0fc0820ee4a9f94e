//! Counts of the DNS proxy, under Istio's names.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Registered once, in a registry with the prefix `istio_agent`.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub(crate) requests: Counter,
    pub(crate) upstream_requests: Counter,
    pub(crate) upstream_failures: Counter,
    pub(crate) upstream_seconds: Histogram,
    pub(crate) refused: Counter,
}

impl Metrics {
    /// Registers `dns_requests`, `dns_upstream_requests`, `dns_upstream_failures`, `dns_upstream_request_duration_seconds` and
    /// our own `dns_refused`.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Counter::default(),
            upstream_requests: Counter::default(),
            upstream_failures: Counter::default(),
            upstream_seconds: Histogram::new([0.001, 0.005, 0.01, 0.1, 1.0, 5.0]),
            refused: Counter::default(),
        };
        registry.register("dns_requests", "DNS requests", metrics.requests.clone());
        registry.register(
            "dns_upstream_requests",
            "DNS requests forwarded",
            metrics.upstream_requests.clone(),
        );
        registry.register(
            "dns_upstream_failures",
            "DNS requests that no upstream resolver answered",
            metrics.upstream_failures.clone(),
        );
        registry.register(
            "dns_upstream_request_duration_seconds",
            "Time that upstream resolvers took",
            metrics.upstream_seconds.clone(),
        );
        registry.register(
            "dns_refused",
            "DNS requests failed at once because too many were being forwarded",
            metrics.refused.clone(),
        );
        metrics
    }
}
