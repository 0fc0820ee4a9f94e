//! MeshConfig and MeshNetworks, as istiod reads them: from files that flags name, else from ConfigMap `istio` (`istio-REVISION` of
//! another revision than `default`) of the system namespace. Read anew whenever they change.

mod document;

use std::time::Duration;

use anyhow::Context as _;
use isthmus_kube::Cluster;
use isthmus_kube::config_maps::{Change, Data};
use isthmus_kube::mesh::SYSTEM_NAMESPACE;
use isthmus_lifecycle::TaskGroup;
use isthmus_model::TrustDomain;
use isthmus_model::status::DocumentStatus;
use isthmus_process::SharedRegistry;
use isthmus_resources::mesh::{Mesh, MeshConfig, Networks};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{mpsc, watch};

use crate::config::Config;
use document::Document;

/// How often files are looked at.
const FILES: Duration = Duration::from_secs(1);

/// Reads what the mesh is configured with.
pub struct Reader {
    config: Document<MeshConfig>,
    networks: Document<Networks>,
    cluster: Cluster,
    /// The ConfigMap.
    name: String,
    start: Option<Start>,
    metrics: Metrics,
    mesh: watch::Sender<Mesh>,
    report: watch::Sender<Vec<DocumentStatus>>,
}

/// What holds from the start to the end: certificates and links are made with it.
struct Start {
    trust_domain: TrustDomain,
    mesh_id: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Name {
    document: &'static str,
}

#[derive(Clone, Debug, Default)]
struct Metrics {
    refused: Family<Name, Gauge>,
    refusals: Family<Name, Counter>,
    not_in_force: Family<Name, Gauge>,
}

impl Metrics {
    fn register(registry: &mut prometheus_client::registry::Registry) -> Self {
        let metrics = Self::default();
        let sub = registry.sub_registry_with_prefix("isthmus_mesh_document");
        sub.register(
            "refused",
            "Whether what stands there is refused, and what was good before is in force",
            metrics.refused.clone(),
        );
        sub.register("refusals", "Times that a document was refused", metrics.refusals.clone());
        sub.register(
            "fields_not_in_force",
            "Fields that are set and not in force",
            metrics.not_in_force.clone(),
        );
        metrics
    }
}

impl Reader {
    /// The first reading. A document that is bad is as it was when it was last good, in this data folder.
    ///
    /// # Errors
    /// When a document cannot be read and was never good here.
    pub async fn open(config: &Config, cluster: &Cluster, metrics: &SharedRegistry) -> anyhow::Result<Self> {
        let name = match config.revision.as_str() {
            "default" => "istio".to_string(),
            revision => format!("istio-{revision}"),
        };
        let place = format!("ConfigMap {SYSTEM_NAMESPACE}/{name}");
        let kept = |name: &str| config.data_dir.join(name);
        let mut reader = Self {
            config: Document::new(
                ("MeshConfig", "mesh"),
                config.mesh_config.clone(),
                &place,
                kept("mesh-config.yaml"),
                MeshConfig::read,
            ),
            networks: Document::new(
                ("MeshNetworks", "meshNetworks"),
                config.mesh_networks.clone(),
                &place,
                kept("mesh-networks.yaml"),
                Networks::read,
            ),
            cluster: cluster.clone(),
            name,
            start: None,
            metrics: metrics.register(Metrics::register),
            mesh: watch::Sender::default(),
            report: watch::Sender::default(),
        };
        let data = if reader.by_api() {
            let found = cluster.config_map(SYSTEM_NAMESPACE, &reader.name).await;
            found.with_context(|| format!("{place} (deploy/kubernetes/primary.yaml allows this)"))?
        } else {
            None
        };
        reader.config.open(data.as_ref()).await?;
        reader.networks.open(data.as_ref()).await?;
        Ok(reader)
    }

    /// Settles what holds from the start to the end, from flags, else from MeshConfig.
    pub fn settle(&mut self, config: &mut Config) {
        let read = &self.config.good;
        if let (None, Some(domain)) = (&config.trust_domain, &read.trust_domain) {
            config.trust_domain = Some(domain.clone());
        }
        if config.mesh_id.is_none() && !read.default_config.mesh_id.is_empty() {
            config.mesh_id = Some(read.default_config.mesh_id.clone());
        }
        self.start =
            Some(Start { trust_domain: config.trust_domain(), mesh_id: config.mesh_id().to_string() });
        self.tell();
    }

    /// What is in force, as it changes.
    #[must_use]
    pub fn mesh(&self) -> watch::Receiver<Mesh> {
        self.mesh.subscribe()
    }

    /// How each document is.
    #[must_use]
    pub fn report(&self) -> watch::Receiver<Vec<DocumentStatus>> {
        self.report.subscribe()
    }

    /// Reads changes until told to stop.
    pub fn follow(mut self, tasks: &TaskGroup) {
        let stop = tasks.signal();
        let (tell, mut said) = mpsc::channel(4);
        if self.by_api() {
            let (cluster, name, stop) = (self.cluster.clone(), self.name.clone(), tasks.signal());
            tasks.spawn_infallible("watch of the mesh's configuration", async move {
                tokio::select! {
                    biased;
                    () = stop.stopping() => {}
                    () = cluster.follow_config_maps(Some(SYSTEM_NAMESPACE), &name, tell) => {}
                }
            });
        }
        tasks.spawn_infallible("mesh configuration", async move {
            let mut look = tokio::time::interval(FILES);
            let by_file = self.config.file.is_some() || self.networks.file.is_some();
            loop {
                tokio::select! {
                    biased;
                    () = stop.stopping() => return,
                    Some(change) = said.recv() => self.changed(change),
                    _ = look.tick(), if by_file => {
                        let changed = [self.config.look().await, self.networks.look().await];
                        if changed.contains(&true) {
                            self.tell();
                        }
                    }
                }
            }
        });
    }

    fn by_api(&self) -> bool {
        self.config.file.is_none() || self.networks.file.is_none()
    }

    fn changed(&mut self, change: Change) {
        let data: Option<Data> = match change {
            Change::Listed(mut all) => all.remove(SYSTEM_NAMESPACE),
            Change::Put(_, data) => Some(data),
            Change::Gone(_) => None,
        };
        let changed = [self.config.said(data.as_ref()), self.networks.said(data.as_ref())];
        if changed.contains(&true) {
            self.tell();
        }
    }

    /// Hands on what is in force, and says what is not.
    fn tell(&mut self) {
        let mut config = self.config.good.clone();
        let mut report = [self.config.report(), self.networks.report()];
        if let Some(start) = &self.start {
            let late = "it holds from a start on, and --trust-domain and --mesh-id come first";
            if let Some(asked) = config.trust_domain.replace(start.trust_domain.clone())
                && asked != start.trust_domain
            {
                let say = format!("trustDomain {asked} (now {}; {late})", start.trust_domain);
                report[0].not_in_force.push(say);
            }
            let asked = &config.default_config.mesh_id;
            if !asked.is_empty() && *asked != start.mesh_id {
                let say = format!("defaultConfig.meshId {asked} (now {}; {late})", start.mesh_id);
                report[0].not_in_force.push(say);
            }
        }
        for one in &report {
            self.say(one);
        }
        let mesh = Mesh { config, networks: self.networks.good.clone() };
        self.mesh.send_if_modified(|known| {
            let changed = *known != mesh;
            *known = mesh;
            changed
        });
        self.report.send_replace(report.into());
    }

    fn say(&self, now: &DocumentStatus) {
        let before =
            self.report.borrow().iter().find(|one| one.name == now.name).cloned().unwrap_or_default();
        let name = if now.name == self.config.what { self.config.what } else { self.networks.what };
        let label = Name { document: name };
        self.metrics.refused.get_or_create(&label).set(i64::from(now.error.is_some()));
        let count = i64::try_from(now.not_in_force.len()).unwrap_or(i64::MAX);
        self.metrics.not_in_force.get_or_create(&label).set(count);
        if let Some(error) = now.error.as_ref().filter(|_| now.error != before.error) {
            self.metrics.refusals.get_or_create(&label).inc();
            tracing::warn!(
                document = name,
                source = now.source,
                error,
                "refused; what was good before stays in force"
            );
        }
        if now.error.is_none() && before.error.is_some() {
            tracing::info!(document = name, source = now.source, "good again, and in force");
        }
        if !now.not_in_force.is_empty() && now.not_in_force != before.not_in_force {
            let fields = now.not_in_force.join(", ");
            tracing::warn!(document = name, source = now.source, fields, "set and not in force");
        }
    }
}
