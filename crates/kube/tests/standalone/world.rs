//! An API server in process, over a store in a directory of its own.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use isthmus_apiserver::{ApiServer, Config};
use isthmus_kube::watch::{Watch, WatchStatus, watch};
use isthmus_kube::{ApiError, Cluster};
use isthmus_lifecycle::{Drain, Readiness, TaskGroup};
use isthmus_resources::{Change, Event, Kind, Object};
use isthmus_store::EmbeddedStore;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Longest wait for anything; only a failing test takes it.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct World {
    /// As the control plane: what the code under test uses.
    pub(crate) cluster: Cluster,
    /// As a person who may do everything.
    pub(crate) admin: Cluster,
    pub(crate) tasks: TaskGroup,
    _dir: tempfile::TempDir,
}

pub(crate) async fn world() -> World {
    with_crds(isthmus_resources::crds()).await
}

pub(crate) async fn with_crds(crds: Vec<Value>) -> World {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(EmbeddedStore::open(&dir.path().join("store.redb")).unwrap());
    let tasks = TaskGroup::new("test", Drain::new());
    let mut config = Config::new(store, tasks.clone());
    config.crds = crds;
    let server = ApiServer::start(config).await.unwrap();
    let admin = Cluster::in_process(server.router_as("admin", &["system:masters"]));
    World { cluster: Cluster::in_process(server.router()), admin, tasks, _dir: dir }
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.drain().immediate();
    }
}

/// Waits for a future that must complete.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(PATIENCE, future).await;
    outcome.unwrap_or_else(|_| panic!("{what} did not happen within {PATIENCE:?}"))
}

/// Events of one watch.
pub(crate) struct Events {
    pub(crate) receive: mpsc::Receiver<Event>,
    pub(crate) status: Arc<WatchStatus>,
}

impl World {
    pub(crate) fn watch(&self, kinds: &[Kind]) -> Events {
        self.watch_with(kinds, None, None)
    }

    pub(crate) fn watch_with(
        &self,
        kinds: &[Kind],
        readiness: Option<&Readiness>,
        findings: Option<mpsc::Sender<isthmus_kube::conditions::Finding>>,
    ) -> Events {
        let (events, receive) = mpsc::channel(64);
        let watched = Watch {
            id: "east".parse().unwrap(),
            kinds: kinds.to_vec(),
            events,
            findings,
            ready: readiness.map(|readiness| readiness.hold("watch")),
        };
        Events { status: watch(&self.cluster, watched, &self.tasks), receive }
    }

    pub(crate) async fn create(&self, kind: Kind, object: Value) -> Value {
        self.admin.create(kind, object).await.unwrap()
    }

    pub(crate) async fn namespace(&self, name: &str) {
        self.admin.ensure_namespace(name).await.unwrap();
    }

    pub(crate) async fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<Value> {
        self.admin.get(kind, Some(namespace), name).await.unwrap()
    }

    /// An Istio object of the networking group.
    pub(crate) async fn networking(&self, kind: Kind, namespace: &str, name: &str, spec: Value) -> Value {
        let object = networking(kind, namespace, name, spec);
        self.admin.put(kind, object).await.unwrap()
    }
}

pub(crate) fn networking(kind: Kind, namespace: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": kind.api_version(), "kind": kind.to_string(),
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    })
}

impl Events {
    pub(crate) async fn next(&mut self) -> Change {
        soon("an event", self.receive.recv()).await.expect("the watch runs").change
    }

    /// The first applied or listed object for which `pick` has an answer.
    pub(crate) async fn find<T>(&mut self, what: &str, mut pick: impl FnMut(&Object) -> Option<T>) -> T {
        let search = async {
            loop {
                let found = match self.next().await {
                    Change::Applied(object) => pick(&object),
                    Change::Listed(_, list) => list.iter().find_map(&mut pick),
                    Change::Removed(..) => None,
                };
                if let Some(found) = found {
                    return found;
                }
            }
        };
        soon(what, search).await
    }

    /// Waits until an object of this name is removed.
    pub(crate) async fn removal(&mut self, what: &str, wanted: &str) {
        let search = async {
            loop {
                if let Change::Removed(_, _, name) = self.next().await
                    && &*name == wanted
                {
                    return;
                }
            }
        };
        soon(what, search).await;
    }
}

pub(crate) fn is_conflict(error: &ApiError) -> bool {
    matches!(error, ApiError::Conflict { .. })
}
