//! The data path: listeners, mutual TLS, TCP routing, balancing, outlier ejection, authorization, telemetry.

pub mod config;
pub mod proxy;

pub use config::{Config, HostResolver, Limits, MARK, Netfilter, Node, OriginalDestination, Resolve};
pub use proxy::{BuildError, Proxy, Rejection};
