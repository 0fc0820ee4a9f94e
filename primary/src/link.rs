//! Links with other control planes: Peer objects say which, the hub in `isthmus_federation` keeps them, snapshots say what is exported.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use isthmus_federation::hub::{Io, Parts};
use isthmus_federation::{Connector, Dial, Directory, Federation, Me, Metrics, Options, PeerConfig, Service};
use isthmus_kube::watch::{Watch, watch};
use isthmus_kube::{ApiError, Cluster};
use isthmus_lifecycle::{Clock, Signal, TaskGroup};
use isthmus_model::status::PeerStatus;
use isthmus_model::{ClusterId, PeerChange};
use isthmus_process::SharedRegistry;
use isthmus_registry::{Snapshot, exports, own_gateways};
use isthmus_resources::{Event, Kind};
use isthmus_tls::{ClientCertificate, Expected, Identity, client_config};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch as value};
use tokio::time::Instant;

use crate::caller::Peer;
use crate::config::Config;

/// To connect to one gateway and shake hands through it.
const CONNECT: Duration = Duration::from_secs(5);
/// How often the states of links are looked at, to be written where they changed.
const STATUS: Duration = Duration::from_secs(2);
/// How often a state that did not change is written again, with the time of the last frame.
const REFRESH: Duration = Duration::from_secs(60);

/// All links of this control plane.
#[derive(Clone)]
pub struct Links {
    hub: Federation,
    cluster: Cluster,
    own: ClusterId,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links").field("hub", &self.hub).field("own", &self.own).finish_non_exhaustive()
    }
}

impl Links {
    /// Starts the hub with the links that are there; their last good records are the first changes.
    ///
    /// # Errors
    /// When the API server cannot be read or the folder for last good records cannot be made.
    pub async fn build(
        config: &Config,
        cluster: &Cluster,
        identity: &Identity,
        clock: Arc<dyn Clock>,
        metrics: &SharedRegistry,
        tasks: &TaskGroup,
    ) -> anyhow::Result<(Self, mpsc::Receiver<(ClusterId, PeerChange)>)> {
        let last_good = Directory::new(config.data_dir.join("peers"))
            .context("the folder for peers' last good records")?;
        let (hub, changes) = Federation::new(Parts {
            me: Me {
                mesh_id: config.mesh_id().into(),
                cluster: config.cluster.clone(),
                revision: config.revision.clone().into(),
                network: config.network.clone(),
            },
            options: Options::default(),
            last_good: Arc::new(last_good),
            clock: Arc::clone(&clock),
            connector: connector(identity.clone()),
            metrics: metrics.register(Metrics::register),
            tasks: tasks.clone(),
        });
        let links = Self { hub, cluster: cluster.clone(), own: config.cluster.clone(), clock };
        links.read().await.context("reading Peers")?;
        Ok((links, changes))
    }

    /// Clusters that we are linked with.
    #[must_use]
    pub fn known(&self) -> Vec<ClusterId> {
        self.hub.status().iter().filter_map(|peer| peer.cluster.parse().ok()).collect()
    }

    /// The gRPC service for peers that call us.
    #[must_use]
    pub fn service(&self) -> Service {
        Service::new(self.hub.clone(), |extensions| {
            let certificate = extensions.get::<Peer>().and_then(|peer| peer.certificate.as_ref());
            certificate.map(|one| one.dns_names.iter().map(ToString::to_string).collect()).unwrap_or_default()
        })
    }

    /// States of all links.
    #[must_use]
    pub fn status(&self) -> Vec<PeerStatus> {
        self.hub.status()
    }

    /// Follows Peers, states exports, writes states.
    pub fn start(&self, snapshots: value::Receiver<Arc<Snapshot>>, tasks: &TaskGroup) {
        let (events, receive) = mpsc::channel(64);
        let kinds = vec![Kind::Peer];
        watch(
            &self.cluster,
            Watch { id: self.own.clone(), kinds, events, findings: None, ready: None },
            tasks,
        );
        tasks.spawn_infallible("peers", self.clone().follow(receive, tasks.signal()));
        tasks.spawn_infallible("exports", self.clone().export(snapshots, tasks.signal()));
        tasks.spawn_infallible("peer states", self.clone().write_states(tasks.signal()));
    }

    async fn follow(self, mut events: mpsc::Receiver<Event>, stop: Signal) {
        let mut retry = false;
        loop {
            let again =
                tokio::time::sleep(if retry { Duration::from_secs(1) } else { Duration::from_secs(3600) });
            tokio::select! {
                () = stop.stopping() => return,
                event = events.recv() => if event.is_none() { return },
                () = again => {}
            }
            retry = false;
            if let Err(error) = self.read().await {
                tracing::warn!(%error, "peers not read, links stay as they are");
                retry = true;
            }
        }
    }

    async fn read(&self) -> Result<(), ApiError> {
        let mut configs = Vec::new();
        for peer in self.cluster.peers().await? {
            let name = peer.meta.name.to_string();
            let cluster: ClusterId = match name.parse() {
                Ok(cluster) if cluster != self.own => cluster,
                Ok(_) => {
                    tracing::warn!(peer = %name, "this cluster is no peer of itself; delete that Peer");
                    continue;
                }
                Err(error) => {
                    tracing::warn!(peer = %name, %error, "Peer left out");
                    continue;
                }
            };
            let spec = &peer.spec;
            let secret =
                if spec.gateways.is_empty() { None } else { self.cluster.peer_secret(&name).await? };
            let revision = if spec.revision.is_empty() { "default" } else { &spec.revision };
            configs.push(PeerConfig {
                cluster,
                mesh_id: spec.mesh_id.as_str().into(),
                revision: revision.into(),
                gateways: spec.gateways.iter().map(|gateway| gateway.as_str().into()).collect(),
                secret: secret.map(Into::into),
                secret_sha256: (!spec.secret_sha256.is_empty()).then(|| spec.secret_sha256.as_str().into()),
            });
        }
        self.hub.set_peers(configs);
        Ok(())
    }

    /// States what is exported, while there is anybody to be told. Reading it out of a snapshot costs the more the larger the mesh is:
    /// while changes keep coming, it takes a tenth of a core.
    async fn export(self, mut snapshots: value::Receiver<Arc<Snapshot>>, stop: Signal) {
        let mut links = self.hub.status_moved();
        let mut stated = None;
        loop {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            links.borrow_and_update();
            let mut rest = Duration::ZERO;
            // Unknown is not empty: nothing is said of ourselves before everything has been read.
            if snapshot.is_complete() && stated != Some(snapshot.number) && !self.hub.status().is_empty() {
                let began = Instant::now();
                self.hub.set_exports(&exports(&snapshot, &self.own), &own_gateways(&snapshot, &self.own));
                stated = Some(snapshot.number);
                rest = began.elapsed() * 9;
            }
            tokio::select! {
                () = stop.stopping() => return,
                () = tokio::time::sleep(rest) => {}
            }
            tokio::select! {
                () = stop.stopping() => return,
                changed = snapshots.changed() => if changed.is_err() { return },
                moved = links.changed() => if moved.is_err() { return },
            }
        }
    }

    async fn write_states(self, stop: Signal) {
        let mut written: BTreeMap<String, (PeerStatus, Instant)> = BTreeMap::new();
        loop {
            tokio::select! {
                () = stop.stopping() => return,
                () = tokio::time::sleep(STATUS) => {}
            }
            let states = self.hub.status();
            written.retain(|cluster, _| states.iter().any(|state| state.cluster == *cluster));
            for mut state in states {
                // Ages change all the time; the object tells states, and now and then when the peer was last heard.
                let age = state.age_ms.take();
                let stands = written
                    .get(&state.cluster)
                    .is_some_and(|(before, at)| *before == state && at.elapsed() < REFRESH);
                if !stands && self.write_state(&state, age).await {
                    written.insert(state.cluster.clone(), (state, Instant::now()));
                }
            }
        }
    }

    async fn write_state(&self, state: &PeerStatus, age_ms: Option<u64>) -> bool {
        let heard = age_ms.map(|age| self.clock.now() - Duration::from_millis(age));
        let heard = heard.and_then(|time| jiff::Timestamp::try_from(time).ok());
        let status = isthmus_resources::peer::PeerStatus {
            state: state.state.clone(),
            synced: state.synced,
            last_heard: heard.map(|time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
            services: state.services,
            error: state.error.clone(),
            ..Default::default()
        };
        let outcome = self.cluster.write_peer_status(&state.cluster, &status).await;
        if let Err(error) = &outcome {
            tracing::warn!(peer = %state.cluster, %error, "state of a link not written");
        }
        outcome.is_ok()
    }
}

/// Calls a peer through its gateways: TLS by the peer's own name, both certificates verified.
fn connector(identity: Identity) -> Connector {
    Connector::new(move |dial: Dial| {
        let identity = identity.clone();
        async move { connect(&identity, &dial).await }
    })
}

async fn connect(identity: &Identity, dial: &Dial) -> io::Result<Box<dyn Io>> {
    let expected = Expected::ServerName(dial.server_name.as_str().into());
    let config = client_config(identity, expected, &[b"h2"], ClientCertificate::Send);
    let name = ServerName::try_from(dial.server_name.clone()).map_err(io::Error::other)?;
    let mut problems = Vec::new();
    for address in &dial.addresses {
        let attempt = async {
            let stream = TcpStream::connect(&**address).await?;
            stream.set_nodelay(true)?;
            let shaken = isthmus_tls::connect(stream, &config, name.clone(), CONNECT).await;
            Ok::<_, io::Error>(shaken.map_err(io::Error::other)?.0)
        };
        match tokio::time::timeout(CONNECT, attempt).await {
            Ok(Ok(stream)) => return Ok(Box::new(stream)),
            Ok(Err(error)) => problems.push(format!("{address}: {error}")),
            Err(_) => problems.push(format!("{address}: no answer within {} s", CONNECT.as_secs())),
        }
    }
    Err(io::Error::other(problems.join("; ")))
}
