//! Merging per-cluster tables into numbered immutable snapshots and differences.

pub mod allocate;
pub mod config;
pub mod shared;
pub mod snapshot;

pub use snapshot::{
    Changes, Gateways, MeshService, NamespaceView, PeerState, PeerView, ServiceKey, Snapshot,
    TrafficDistribution, Workload, WorkloadKey, WorkloadKind,
};
