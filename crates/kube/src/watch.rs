//! Watching every kind that the mesh reads, into events.
//!
//! One task a kind: it lists, then follows changes, and lists anew when it lost its place. Objects are trimmed at the door. One
//! that cannot be read or is not valid is rejected by name, and its last good state stays in force. While the API server is
//! away nothing is sent: what was known stays known.

mod status;
mod table;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use isthmus_lifecycle::{Guard, Signal, TaskGroup};
use isthmus_model::ClusterId;
use isthmus_resources::{Change, Event, Kind};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::Value;
use tokio::sync::mpsc;

pub use status::{Rejection, WatchStatus};
use table::{Judged, Table};

use crate::client::{Cluster, chain};
use crate::conditions::Finding;

/// How long an absent kind waits until it is looked for again.
const ABSENT: Duration = Duration::from_secs(10);

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
            table: Table::default(),
        };
        tasks.spawn_infallible("watch", follower.run(tasks.signal()));
    }
    status
}

/// Nobody receives any more.
struct Closed;

struct Follower {
    cluster: Cluster,
    id: ClusterId,
    kind: Kind,
    events: mpsc::Sender<Event>,
    findings: Option<mpsc::Sender<Finding>>,
    status: Arc<WatchStatus>,
    ready: Option<Arc<Option<Guard>>>,
    table: Table,
}

impl Follower {
    async fn run(mut self, stop: Signal) {
        let following = self.follow();
        tokio::select! {
            biased;
            () = stop.stopping() => {}
            _ = following => {}
        }
    }

    async fn follow(&mut self) -> Result<(), Closed> {
        let names = self.kind.names();
        let gvk = GroupVersionKind::gvk(names.group, names.versions[0], names.kind);
        let resource = ApiResource::from_gvk_with_plural(&gvk, names.plural);
        let api: Api<DynamicObject> = Api::all_with(self.cluster.client().clone(), &resource);
        let mut stream = watcher(api, watcher::Config::default()).default_backoff().boxed();
        let mut listing: Vec<Value> = Vec::new();
        while let Some(outcome) = stream.next().await {
            match outcome {
                Ok(watcher::Event::Init) => listing.clear(),
                Ok(watcher::Event::InitApply(object)) => listing.extend(self.value(object)),
                Ok(watcher::Event::InitDone) => {
                    let values = std::mem::take(&mut listing);
                    self.listed(values).await?;
                }
                Ok(watcher::Event::Apply(object)) => {
                    if let Some(value) = self.value(object) {
                        self.applied(value).await?;
                    }
                }
                Ok(watcher::Event::Delete(object)) => {
                    let namespace = object.metadata.namespace.unwrap_or_default();
                    let name = object.metadata.name.unwrap_or_default();
                    self.removed(&namespace, &name).await?;
                }
                Err(error) => self.failed(&error).await?,
            }
        }
        Ok(())
    }

    /// The object as JSON, with the type that items of lists lack.
    fn value(&self, object: DynamicObject) -> Option<Value> {
        match serde_json::to_value(object) {
            Ok(mut value) => {
                value["apiVersion"] = Value::String(self.kind.api_version());
                value["kind"] = Value::String(self.kind.to_string());
                if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
                    metadata.remove("managedFields");
                }
                Some(value)
            }
            Err(error) => {
                tracing::warn!(kind = %self.kind, %error, "object cannot be read");
                None
            }
        }
    }

    async fn listed(&mut self, values: Vec<Value>) -> Result<(), Closed> {
        let mut good = BTreeMap::new();
        let mut rejected = Vec::new();
        let count = values.len();
        for value in values {
            let judged = self.table.judge(self.kind, value);
            self.report(&judged).await?;
            match judged {
                Judged::Good { key, object, .. } => {
                    good.insert(key, object);
                }
                Judged::Bad { key, rejection, .. } => {
                    if let Some(last_good) = self.table.get(&key) {
                        good.insert(key, last_good.clone());
                    }
                    rejected.push(rejection);
                }
            }
        }
        self.status.listed(self.kind, &rejected);
        tracing::debug!(kind = %self.kind, count, rejected = rejected.len(), cluster = %self.id, "listed");
        let objects = good.values().cloned().collect();
        self.table.replace(good);
        self.send(Change::Listed(self.kind, objects)).await?;
        self.ready = None;
        Ok(())
    }

    async fn applied(&mut self, value: Value) -> Result<(), Closed> {
        let judged = self.table.judge(self.kind, value);
        self.report(&judged).await?;
        match judged {
            Judged::Good { key, object, unchanged, .. } => {
                self.status.accepted(self.kind, &key.to_string());
                self.table.insert(key, object.clone());
                if !unchanged {
                    self.send(Change::Applied(object)).await?;
                }
            }
            Judged::Bad { rejection, .. } => self.status.rejected(self.kind, rejection),
        }
        Ok(())
    }

    async fn removed(&mut self, namespace: &str, name: &str) -> Result<(), Closed> {
        let key = table::Key::new(namespace, name);
        self.status.accepted(self.kind, &key.to_string());
        // An object that was never good was never sent either.
        let Some(object) = self.table.remove(&key) else { return Ok(()) };
        let meta = object.meta();
        let change = Change::Removed(self.kind, meta.namespace.clone(), Arc::clone(&meta.name));
        self.send(change).await
    }

    async fn failed(&mut self, error: &watcher::Error) -> Result<(), Closed> {
        let absent = matches!(
            error,
            watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404
        );
        let problem = chain(error);
        if absent && !self.status.is_listed(self.kind) {
            // The API server's own word: there is no such kind, so there are none of it.
            tracing::info!(kind = %self.kind, cluster = %self.id, "kind is not installed");
            self.listed(Vec::new()).await?;
        }
        self.status.failed(self.kind, &problem);
        if absent {
            tokio::time::sleep(ABSENT).await;
        } else {
            tracing::warn!(kind = %self.kind, cluster = %self.id, error = %problem, "watch lost, last state stays");
        }
        Ok(())
    }

    async fn send(&self, change: Change) -> Result<(), Closed> {
        self.events.send(Event { cluster: self.id.clone(), change }).await.map_err(|_| Closed)
    }

    /// Hands on what should stand in the object's status. A full queue is no reason to hold up the mesh.
    async fn report(&self, judged: &Judged) -> Result<(), Closed> {
        if let (Some(findings), Judged::Good { finding, .. } | Judged::Bad { finding, .. }) =
            (&self.findings, judged)
            && let Some(finding) = finding
            && findings.try_send(finding.clone()).is_err()
        {
            tracing::debug!(kind = %self.kind, "status write left out, the queue is full");
        }
        if self.events.is_closed() { Err(Closed) } else { Ok(()) }
    }
}
