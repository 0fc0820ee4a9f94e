//! The data path: listeners, mutual TLS, TCP routing, balancing, outlier ejection, authorization, telemetry.
//!
//! A [`Proxy`] is configured by Envoy resources alone. Sidecars and gateways are the same engine: a listener finds the filter
//! chain of a connection ([`chains`]), the chain may terminate mutual TLS and authorize, its cluster picks endpoints until one
//! answers ([`upstream`]), and the two streams are joined ([`relay`]). HTTP will come in beside the TCP filter, in the chain.
//!
//! How failures are met, each before a byte of the client is lost where that is possible:
//!
//! | what fails | what is seen | what happens |
//! |---|---|---|
//! | a workload's host or proxy is gone | refused or no route | another endpoint, at once |
//! | its packets are dropped | connect timeout of the cluster | another endpoint |
//! | its proxy is stopped (SIGSTOP) | TLS handshake within the same timeout; at a gateway the answer to the ClientHello | another endpoint |
//! | the application alone is gone | its port refuses: the first client meets a reset, the next ones are refused before their handshake | the client's proxy goes elsewhere |
//! | it breaks off before its first byte | a reset | the client is told: what it sent may have been acted on; the endpoint's failure counts |
//! | several in a row | outlier detection | ejected; back after a probe, or as the last resort |
//!
//! What cannot be seen here: an application that is stopped behind a live agent. Its kernel goes on accepting and acknowledging, so
//! that nothing distinguishes it from a slow one. Its agent's health probe, with a time-out, finds it, and the control plane takes
//! the endpoint out.

mod access;
mod announced;
mod balance;
mod chains;
mod cluster;
mod clusters;
pub mod config;
mod connect;
mod detect;
mod flows;
mod inspect;
mod listening;
mod metrics;
mod on_demand;
pub mod proxy;
mod relay;
mod resolve;
mod resource;
mod serve;
mod shared;
mod stream;
mod upstream;

pub use config::{
    Config, HostResolver, Keepalive, Limits, MARK, Netfilter, Node, OriginalDestination, Resolve,
};
pub use flows::Networks;
pub use on_demand::{Demand, OnDemandLimits};
pub use proxy::{BuildError, ListeningSocket, Proxy, Rejection, RunError};
