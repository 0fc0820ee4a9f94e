//! Watching every kind that the mesh reads, into events.
//!
//! One task a kind: it lists, then follows changes, and lists anew when it lost its place. Objects are trimmed at the door. One
//! that cannot be read or is not valid is rejected by name, and its last good state stays in force. While the API server is
//! away nothing is sent: what was known stays known. Of a kind that the API server says it does not have there are no objects, until
//! it is installed.

mod follower;
mod item;
mod status;
mod table;

use std::sync::Arc;

use isthmus_lifecycle::{Guard, TaskGroup};
use isthmus_model::ClusterId;
use isthmus_resources::{Event, Kind};
use tokio::sync::mpsc;

use follower::Follower;
pub use status::{Rejection, WatchStatus};

use crate::client::Cluster;
use crate::conditions::Finding;

/// The kinds that a mesh is made of.
pub const MESH_KINDS: [Kind; 20] = [
    Kind::Namespace,
    Kind::Node,
    Kind::Service,
    Kind::Pod,
    Kind::EndpointSlice,
    Kind::DestinationRule,
    Kind::VirtualService,
    Kind::Gateway,
    Kind::ServiceEntry,
    Kind::WorkloadEntry,
    Kind::WorkloadGroup,
    Kind::Sidecar,
    Kind::PeerAuthentication,
    Kind::RequestAuthentication,
    Kind::AuthorizationPolicy,
    Kind::Telemetry,
    Kind::EnvoyFilter,
    Kind::ProxyConfig,
    Kind::WasmPlugin,
    Kind::Peer,
];

/// What to watch and where to send it.
pub struct Watch {
    /// Cluster that the events speak for.
    pub id: ClusterId,
    /// Kinds.
    pub kinds: Vec<Kind>,
    /// Where events go. A full channel makes the watches wait.
    pub events: mpsc::Sender<Event>,
    /// What objects say of themselves in their status, when this control plane writes that.
    pub findings: Option<mpsc::Sender<Finding>>,
    /// Held until every kind was listed once.
    pub ready: Option<Guard>,
}

/// Starts watching; ends with the task group's drain or when nobody receives any more.
pub fn watch(cluster: &Cluster, watch: Watch, tasks: &TaskGroup) -> Arc<WatchStatus> {
    let status = Arc::new(WatchStatus::new(&watch.kinds));
    let ready = Arc::new(watch.ready);
    for kind in watch.kinds {
        let follower = Follower {
            cluster: cluster.clone(),
            id: watch.id.clone(),
            kind,
            events: watch.events.clone(),
            findings: watch.findings.clone(),
            status: Arc::clone(&status),
            ready: Some(Arc::clone(&ready)),
            table: table::Table::default(),
        };
        tasks.spawn_infallible("watch", follower.run(tasks.signal()));
    }
    status
}
