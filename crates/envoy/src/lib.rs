//! Snapshot and proxy view to Envoy resources and name tables, each encoded once.
//!
//! Translation is pure: [`Translator::view`] reads a snapshot and a proxy and gives all resources of that proxy. What was
//! encoded for the same inputs is shared, between snapshots and between proxies.

pub mod settings;
mod view;

pub use settings::{ControlPlane, MeshSettings, OutboundPolicy, Proxy, ProxyKind};
pub use view::Translator;
