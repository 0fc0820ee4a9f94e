//! Wire contracts: generated types of our own services and of Istio's small ones, and the unit in which encoded
//! resources travel from translation to streams.

pub mod resource;

/// Istio's certificate service.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]
pub mod istio_ca {
    include!("gen/istio.v1.auth.rs");
}

/// Istio's name table.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]
pub mod nds {
    include!("gen/istio.networking.nds.v1.rs");
}

/// How hosts enter the mesh.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]
pub mod join {
    include!("gen/isthmus.join.v1.rs");
}

/// The stream between control planes.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]
pub mod federation {
    include!("gen/isthmus.federation.v1.rs");
}

/// What only our own proxies ask for on their discovery streams.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]
pub mod discovery {
    include!("gen/isthmus.discovery.v1.rs");
}

/// Type URLs on our streams, with their `type.googleapis.com/` prefix.
pub mod type_url {
    /// Listeners.
    pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
    /// Clusters.
    pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
    /// Endpoints of clusters.
    pub const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
    /// Routes.
    pub const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
    /// Secrets.
    pub const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
    /// Istio's name table.
    pub const NAME_TABLE: &str = "type.googleapis.com/istio.networking.nds.v1.NameTable";
    /// Hashes of the server names that a gateway may pass on.
    pub const EXPORTED_NAMES: &str = "type.googleapis.com/isthmus.discovery.v1.ExportedNames";
    /// Istio's workload health reports (request only).
    pub const HEALTH: &str = "type.googleapis.com/istio.v1.HealthInformation";
}
