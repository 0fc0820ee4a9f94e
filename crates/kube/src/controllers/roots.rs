//! ConfigMap `istio-ca-root-cert` of each namespace: the roots of the mesh, as Istio's agents and Pods mount them.
//!
//! Its other keys are left alone. What somebody else keeps changing is put right less and less eagerly, so that two control planes over
//! one cluster do not spend their time on each other.

use std::collections::BTreeMap;
use std::time::Duration;

use isthmus_lifecycle::TaskGroup;
use isthmus_model::{ClusterId, Labels};
use isthmus_resources::mesh::Mesh;
use isthmus_resources::{Change, Event, Kind, Object};
use serde_json::json;
use tokio::sync::{mpsc, watch as value};
use tokio::time::Instant;

use crate::api::ApiError;
use crate::client::Cluster;
use crate::config_maps::{self, Data};
use crate::watch::{Watch, watch};

/// The ConfigMap's name.
pub const ROOT_CONFIG_MAP: &str = "istio-ca-root-cert";
/// Its key, with certificates in PEM.
pub const ROOT_KEY: &str = "root-cert.pem";
/// Kubernetes' own namespaces, and those of its parts: no Pod of a mesh runs there.
const IGNORED: [&str; 4] = ["kube-node-lease", "kube-public", "kube-system", "local-path-storage"];
/// Between two rounds of writing.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest wait before one that failed, or that somebody else keeps changing, is written again.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts it; ends with the task group's drain. `mesh` says which namespaces belong to the mesh.
pub fn run(cluster: &Cluster, id: ClusterId, roots: String, mesh: value::Receiver<Mesh>, tasks: &TaskGroup) {
    let (events, namespaces) = mpsc::channel(64);
    watch(cluster, Watch { id, kinds: vec![Kind::Namespace], events, findings: None, ready: None }, tasks);
    let (tell, maps) = mpsc::channel(64);
    let following = cluster.clone();
    let stop = tasks.signal();
    tasks.spawn_infallible("watch of root certificates", async move {
        tokio::select! {
            biased;
            () = stop.stopping() => {}
            () = following.follow_config_maps(None, ROOT_CONFIG_MAP, tell) => {}
        }
    });
    let writer = Writer {
        cluster: cluster.clone(),
        roots,
        mesh,
        namespaces: None,
        maps: None,
        tried: BTreeMap::new(),
    };
    let stop = tasks.signal();
    tasks.spawn_infallible("root certificates", async move {
        tokio::select! {
            biased;
            () = stop.stopping() => {}
            () = writer.run(namespaces, maps) => {}
        }
    });
}

struct Writer {
    cluster: Cluster,
    roots: String,
    mesh: value::Receiver<Mesh>,
    /// Namespaces with their labels; none until they were listed.
    namespaces: Option<BTreeMap<String, Labels>>,
    /// Whether each namespace's ConfigMap says what it should; none until they were listed.
    maps: Option<BTreeMap<String, bool>>,
    /// How often each was written in vain, and when it may be written again.
    tried: BTreeMap<String, (u32, Instant)>,
}

impl Writer {
    async fn run(
        mut self,
        mut namespaces: mpsc::Receiver<Event>,
        mut maps: mpsc::Receiver<config_maps::Change>,
    ) {
        loop {
            let due = self.due();
            tokio::select! {
                Some(event) = namespaces.recv() => self.namespace(event.change),
                Some(change) = maps.recv() => self.map(change),
                Ok(()) = self.mesh.changed() => drop(self.mesh.borrow_and_update()),
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.write().await;
                    tokio::time::sleep(PAUSE).await;
                }
                else => return,
            }
        }
    }

    fn namespace(&mut self, change: Change) {
        let labelled = |object: &Object| {
            let meta = object.meta();
            (!meta.deleting).then(|| (meta.name.to_string(), meta.labels.clone()))
        };
        match change {
            Change::Listed(Kind::Namespace, all) => {
                self.namespaces = Some(all.iter().filter_map(labelled).collect());
            }
            Change::Applied(object) => {
                let Some(all) = &mut self.namespaces else { return };
                match labelled(&object) {
                    Some((name, labels)) => drop(all.insert(name, labels)),
                    None => drop(all.remove(&*object.meta().name)),
                }
            }
            Change::Removed(_, _, name) => {
                if let Some(all) = &mut self.namespaces {
                    all.remove(&*name);
                }
                self.tried.remove(&*name);
            }
            Change::Listed(..) => {}
        }
    }

    fn map(&mut self, change: config_maps::Change) {
        let roots = &self.roots;
        let good = |data: &Data| data.get(ROOT_KEY) == Some(roots);
        match change {
            config_maps::Change::Listed(all) => {
                self.maps =
                    Some(all.iter().map(|(namespace, data)| (namespace.clone(), good(data))).collect());
            }
            config_maps::Change::Put(namespace, data) => {
                let good = good(&data);
                if let Some(maps) = &mut self.maps {
                    maps.insert(namespace, good);
                }
            }
            config_maps::Change::Gone(namespace) => {
                if let Some(maps) = &mut self.maps {
                    maps.remove(&namespace);
                }
            }
        }
    }

    /// Namespaces whose ConfigMap is missing or wrong, with whether it is there.
    fn wanting(&self) -> Vec<(String, bool)> {
        let (Some(namespaces), Some(maps)) = (&self.namespaces, &self.maps) else { return Vec::new() };
        let mesh = self.mesh.borrow();
        let all = namespaces
            .iter()
            .filter(|(name, labels)| !IGNORED.contains(&name.as_str()) && mesh.config.discovers(labels));
        let wrong = all.filter(|(name, _)| maps.get(*name) != Some(&true));
        wrong.map(|(name, _)| (name.clone(), maps.contains_key(name))).collect()
    }

    /// When the next one may be written; none while there is nothing to write.
    fn due(&self) -> Option<Instant> {
        let now = Instant::now();
        let when = |name: &str| self.tried.get(name).map_or(now, |(_, again)| *again);
        self.wanting().iter().map(|(name, _)| when(name)).min()
    }

    async fn write(&mut self) {
        let now = Instant::now();
        let mut told = false;
        for (namespace, there) in self.wanting() {
            let (times, again) = self.tried.get(&namespace).copied().unwrap_or((0, now));
            if again > now {
                continue;
            }
            // It is good for now; an event will say if it is not.
            let wait = PAUSE * 2_u32.saturating_pow(times.min(6));
            self.tried.insert(namespace.clone(), (times.saturating_add(1), now + wait.min(PATIENCE)));
            match self.put(&namespace, there).await {
                Ok(()) => {
                    if times == 5 {
                        tracing::warn!(
                            namespace,
                            "somebody else keeps changing ConfigMap {ROOT_CONFIG_MAP}; does another CA serve this cluster?"
                        );
                    }
                    if let Some(maps) = &mut self.maps {
                        maps.insert(namespace.clone(), true);
                    }
                }
                // Of many that have one cause the first is told.
                Err(error) if told => tracing::debug!(%error, "root certificates not written"),
                Err(error) => {
                    told = true;
                    tracing::warn!(%error, "root certificates not written");
                }
            }
        }
        // What stayed good for long has no history.
        let maps = &self.maps;
        let good = |name: &str| maps.as_ref().is_some_and(|maps| maps.get(name) == Some(&true));
        self.tried.retain(|name, (_, again)| !good(name) || *again + PATIENCE > now);
    }

    async fn put(&self, namespace: &str, there: bool) -> Result<(), ApiError> {
        let data = json!({ ROOT_KEY: self.roots });
        if !there {
            let object = json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": ROOT_CONFIG_MAP, "namespace": namespace, "labels": {"istio.io/config": "true"}},
                "data": data,
            });
            match self.cluster.create(Kind::ConfigMap, object).await {
                Err(ApiError::AlreadyExists { .. }) => {}
                // The namespace is gone.
                Ok(_) | Err(ApiError::NotFound { .. }) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        let patch = json!({ "data": data });
        match self.cluster.merge(Kind::ConfigMap, Some(namespace), ROOT_CONFIG_MAP, None, patch).await {
            // Deleted meanwhile, which an event says.
            Ok(_) | Err(ApiError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
