//! The data path: listeners, mutual TLS, TCP routing, balancing, outlier ejection, authorization, telemetry.
//!
//! A [`Proxy`] is configured by Envoy resources alone. Sidecars and gateways are the same engine: a listener finds the filter
//! chain of a connection ([`chains`]), the chain may terminate mutual TLS and authorize, its cluster picks endpoints until one
//! answers ([`upstream`]), and the two streams are joined ([`relay`]). HTTP will come in beside the TCP filter, in the chain.
//!
//! What it cannot see: a workload that is stopped (SIGSTOP) behind a live agent still has its connections accepted by the
//! kernel. Its agent's health probe, with a time-out, is what finds it; the control plane then takes the endpoint out.

mod access;
mod balance;
mod chains;
mod cluster;
pub mod config;
mod connect;
mod detect;
mod inspect;
mod listening;
mod metrics;
pub mod proxy;
mod relay;
mod resolve;
mod resource;
mod serve;
mod shared;
mod stream;
mod upstream;

pub use config::{Config, HostResolver, Limits, MARK, Netfilter, Node, OriginalDestination, Resolve};
pub use proxy::{BuildError, Proxy, Rejection, RunError};
