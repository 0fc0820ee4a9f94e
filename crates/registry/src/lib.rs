//! Merging per-cluster tables into numbered immutable snapshots and differences.
//!
//! [`Registry`] takes what sources report ([`isthmus_resources::Event`] for each cluster, [`isthmus_model::PeerChange`] for each
//! peer), and publishes [`Snapshot`]s. Only what a change touches is computed again; everything else is shared with the snapshot
//! before, so that readers see by pointer what is unchanged.

pub mod allocate;
mod build;
pub mod config;
mod declared;
pub mod export;
mod merge;
mod mesh;
mod peer;
pub mod peer_auth;
mod registry;
pub mod shared;
pub mod snapshot;
mod tables;
mod touch;
mod workload;

use isthmus_model::Namespace;

pub use allocate::Allocator;
pub use config::NamespaceConfig;
pub use export::{exports, is_exported, own_gateways};
pub use peer::Refused;
pub use registry::{CONFIG_KINDS, CORE_KINDS, Registry, Settings};
pub use snapshot::{
    Changes, Gateways, MeshService, NamespaceView, PeerState, PeerView, ServiceKey, Snapshot,
    TrafficDistribution, Workload, WorkloadKey, WorkloadKind, Workloads,
};

/// A namespace that sorts before or at every other: no DNS label starts with a character below `0`.
pub(crate) fn lowest_namespace() -> Namespace {
    Namespace::new("0").unwrap_or_else(|_| unreachable!("a single digit is a DNS label"))
}
