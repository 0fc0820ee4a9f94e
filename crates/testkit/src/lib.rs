//! For tests only: a throw-away mesh CA, identities, log capture, free ports, hosts in namespaces, a real Kubernetes API server.

pub mod envoy;
pub mod kubernetes;
pub mod logs;
pub mod mesh_ca;
pub mod namespace;
pub mod net;

pub use kubernetes::Kubernetes;
pub use logs::Logs;
pub use mesh_ca::MeshCa;
pub use net::listener;
