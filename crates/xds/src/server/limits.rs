//! Bounds on what one client can take.

use std::time::Duration;

/// Bounds of a server.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open streams in all.
    pub streams: usize,
    /// Open streams of one identity. A restarting host opens a new one before the old one is known to be dead, and a host that
    /// serves many workloads has one for each.
    pub streams_per_identity: usize,
    /// From the start of a stream to its first request.
    pub first_request: Duration,
    /// One request's size in bytes (gRPC's usual 4 MiB).
    pub request_bytes: usize,
    /// A stream of this age is closed, to spread clients over replicas and to see their certificates again; ±10 %. None: never.
    pub max_age: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams: 100_000,
            streams_per_identity: 256,
            first_request: Duration::from_secs(10),
            request_bytes: 4 * 1024 * 1024,
            max_age: Some(Duration::from_secs(30 * 60)),
        }
    }
}
