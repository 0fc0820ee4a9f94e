//! Snapshot and proxy view to Envoy resources and name tables, each encoded once.
//!
//! Translation is pure: [`Translator::view`] reads a snapshot and a proxy and gives all resources of that proxy. What was
//! encoded for the same inputs is shared, between snapshots and between proxies: clusters and assignments by the addresses of
//! their inputs ([`cache`]), whole lists by class of proxy ([`class`]), views by what they are joined from.

mod access_log;
mod cache;
mod class;
mod cluster;
mod config;
mod destination;
mod encoded;
mod endpoint;
mod gateway;
mod grpc;
mod inbound;
mod listener;
mod lists;
mod names;
pub mod node;
mod outbound;
mod rbac;
mod routes;
mod scope;
pub mod settings;
mod view;
mod wire;

pub use access_log::AccessLog;
pub use destination::full_host;
pub use gateway::conflicts::{Conflicts, gateway_conflicts};
pub use settings::{ControlPlane, Defaults, MeshSettings, OutboundPolicy, Proxy, ProxyKind};
pub use view::Translator;
