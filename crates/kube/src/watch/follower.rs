//! One kind's watch.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use isthmus_lifecycle::{Backoff, Guard, Signal};
use isthmus_model::ClusterId;
use isthmus_resources::{Change, Event, Kind, Object};
use kube::api::{Api, ApiResource, GroupVersionKind};
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::Value;
use tokio::sync::mpsc;

use super::item::{Item, OfNode, OfPod, Shape, Whole};
use super::table::{Judged, Key, Table};
use super::{Rejection, WatchStatus};
use crate::client::{Cluster, chain};
use crate::conditions::Finding;

/// How long an absent kind waits until it is looked for again.
const ABSENT: Duration = Duration::from_secs(5);
/// Waits after the API server could not say what it serves.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// Nobody receives any more.
struct Closed;

pub(super) struct Follower {
    pub(super) cluster: Cluster,
    pub(super) id: ClusterId,
    pub(super) kind: Kind,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) findings: Option<mpsc::Sender<Finding>>,
    pub(super) status: Arc<WatchStatus>,
    pub(super) ready: Option<Arc<Option<Guard>>>,
    pub(super) table: Table,
}

/// A list that is not complete yet.
#[derive(Default)]
struct Listing {
    good: Vec<Object>,
    rejected: Vec<Rejection>,
}

impl Follower {
    pub(super) async fn run(mut self, stop: Signal) {
        let following = self.follow();
        tokio::select! {
            biased;
            () = stop.stopping() => {}
            _ = following => {}
        }
    }

    async fn follow(&mut self) -> Result<(), Closed> {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            let version = self.installed().await?;
            match self.kind {
                Kind::Pod => self.watch::<OfPod>(version).await?,
                Kind::Node => self.watch::<OfNode>(version).await?,
                _ => self.watch::<Whole>(version).await?,
            }
            // Uninstalled while it was watched, or not yet served although it is named.
            backoff.wait().await;
        }
    }

    /// The version in which the kind is served; waits for it to be installed.
    async fn installed(&mut self) -> Result<&'static str, Closed> {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            match self.cluster.served(self.kind).await {
                Ok(Some(version)) => return Ok(version),
                Ok(None) => {
                    // The API server's own word: there is no such kind, so there are none of it.
                    if !self.status.is_listed(self.kind) || !self.table.is_empty() {
                        tracing::info!(kind = %self.kind, cluster = %self.id, "kind is not installed");
                        self.listed(Listing::default()).await?;
                    }
                    backoff.reset();
                    tokio::time::sleep(ABSENT).await;
                }
                Err(error) => {
                    self.failed(&error.to_string());
                    backoff.wait().await;
                }
            }
            if self.events.is_closed() {
                return Err(Closed);
            }
        }
    }

    /// Lists and follows until the API server says that there is no such kind.
    async fn watch<S: Shape>(&mut self, version: &str) -> Result<(), Closed> {
        let names = self.kind.names();
        let gvk = GroupVersionKind::gvk(names.group, version, names.kind);
        let resource = ApiResource::from_gvk_with_plural(&gvk, names.plural);
        let api: Api<Item<S>> = Api::all_with(self.cluster.client().clone(), &resource);
        let mut stream = watcher(api, watcher::Config::default()).default_backoff().boxed();
        let mut listing = Listing::default();
        while let Some(outcome) = stream.next().await {
            match outcome {
                Ok(watcher::Event::Init) => listing = Listing::default(),
                Ok(watcher::Event::InitApply(item)) => self.listing(&mut listing, self.value(item))?,
                Ok(watcher::Event::InitDone) => self.listed(std::mem::take(&mut listing)).await?,
                Ok(watcher::Event::Apply(item)) => self.applied(self.value(item)).await?,
                Ok(watcher::Event::Delete(item)) => {
                    let (namespace, name) = item.place();
                    self.removed(namespace, name).await?;
                }
                Err(error) if is_absent(&error) => return Ok(()),
                Err(error) => self.failed(&chain(&error)),
            }
        }
        Ok(())
    }

    /// The object with the type that items of lists lack.
    fn value<S>(&self, item: Item<S>) -> Value {
        let mut value = item.object;
        if let Some(members) = value.as_object_mut() {
            members.insert("apiVersion".to_string(), Value::String(self.kind.api_version()));
            members.insert("kind".to_string(), Value::String(self.kind.to_string()));
        }
        value
    }

    fn listing(&self, listing: &mut Listing, value: Value) -> Result<(), Closed> {
        let judged = self.table.judge(self.kind, value);
        self.report(&judged)?;
        match judged {
            Judged::Good { object, .. } => listing.good.push(object),
            Judged::Bad { key, rejection, .. } => {
                listing.good.extend(self.table.get(&key).cloned());
                listing.rejected.push(rejection);
            }
        }
        Ok(())
    }

    async fn listed(&mut self, listing: Listing) -> Result<(), Closed> {
        let Listing { good, rejected } = listing;
        self.status.listed(self.kind, &rejected);
        let objects = self.table.replace(good);
        let (count, rejected) = (objects.len(), rejected.len());
        tracing::debug!(kind = %self.kind, count, rejected, cluster = %self.id, "listed");
        self.send(Change::Listed(self.kind, objects)).await?;
        self.ready = None;
        Ok(())
    }

    async fn applied(&mut self, value: Value) -> Result<(), Closed> {
        let judged = self.table.judge(self.kind, value);
        self.report(&judged)?;
        match judged {
            Judged::Good { key, object, unchanged, .. } => {
                self.status.accepted(self.kind, &key.to_string());
                self.table.insert(object.clone());
                if !unchanged {
                    self.send(Change::Applied(object)).await?;
                }
            }
            Judged::Bad { rejection, .. } => self.status.rejected(self.kind, rejection),
        }
        Ok(())
    }

    async fn removed(&mut self, namespace: &str, name: &str) -> Result<(), Closed> {
        let key = Key::new(namespace, name);
        self.status.accepted(self.kind, &key.to_string());
        // An object that was never good was never sent either.
        let Some(object) = self.table.remove(&key) else { return Ok(()) };
        let meta = object.meta();
        let change = Change::Removed(self.kind, meta.namespace.clone(), Arc::clone(&meta.name));
        self.send(change).await
    }

    fn failed(&self, problem: &str) {
        if self.status.failed(self.kind, problem) {
            tracing::warn!(kind = %self.kind, cluster = %self.id, error = problem, "watch lost, last state stays");
        } else {
            tracing::debug!(kind = %self.kind, cluster = %self.id, error = problem, "watch lost");
        }
    }

    async fn send(&self, change: Change) -> Result<(), Closed> {
        self.events.send(Event { cluster: self.id.clone(), change }).await.map_err(|_| Closed)
    }

    /// Hands on what should stand in the object's status. A full queue is no reason to hold up the mesh.
    fn report(&self, judged: &Judged) -> Result<(), Closed> {
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

/// Whether the API server says that it has no such kind, in the version that was asked for.
fn is_absent(error: &watcher::Error) -> bool {
    matches!(
        error,
        watcher::Error::InitialListFailed(kube::Error::Api(status))
            | watcher::Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 404
    )
}
