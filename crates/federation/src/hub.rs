//! All peers of one control plane.

mod actor;
mod connector;
mod dial;
mod service;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use isthmus_lifecycle::{Backoff, Clock, TaskGroup};
use isthmus_model::export::{NetworkGateway, PeerChange, ServiceExport};
use isthmus_model::name::ClusterId;
use isthmus_model::status::PeerStatus;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

pub use connector::{Connector, Dial, Io};
pub use service::Service;

use crate::imports::Limits;
use crate::last_good::LastGood;
use crate::link::Timing;
use crate::log::Log;
use crate::metrics::Metrics;
use crate::peer::{Me, PeerConfig};

/// Changes on their way to the registry.
const EVENTS: usize = 1024;
/// Streams of one peer that wait to be looked at.
const ARRIVALS: usize = 4;

/// How a hub behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Times of the protocol.
    pub timing: Timing,
    /// What one peer may make us hold.
    pub limits: Limits,
    /// Delays between calls.
    pub backoff: Backoff,
    /// How often a changed table is written to disk.
    pub save: Duration,
    /// To connect, TLS included.
    pub connect_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timing: Timing::default(),
            limits: Limits::default(),
            backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(15)),
            save: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(10),
        }
    }
}

/// What a hub is made of.
pub struct Parts {
    /// Who we are.
    pub me: Me,
    /// How it behaves.
    pub options: Options,
    /// Where imports stay across restarts.
    pub last_good: Arc<dyn LastGood>,
    /// Tells ages.
    pub clock: Arc<dyn Clock>,
    /// How peers are called.
    pub connector: Connector,
    /// Counters.
    pub metrics: Metrics,
    /// Where its tasks run.
    pub tasks: TaskGroup,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("me", &self.me).field("options", &self.options).finish_non_exhaustive()
    }
}

struct Shared {
    parts: Parts,
    log: Mutex<Log>,
    log_moved: watch::Sender<u64>,
    status_moved: watch::Sender<u64>,
    peers: Mutex<BTreeMap<ClusterId, Peer>>,
    leaving: Mutex<BTreeMap<ClusterId, watch::Receiver<bool>>>,
    events: mpsc::Sender<(ClusterId, PeerChange)>,
}

/// One peer, from outside its task.
struct Peer {
    config: watch::Sender<PeerConfig>,
    arrivals: mpsc::Sender<actor::Arrival>,
    seen: Arc<Mutex<Seen>>,
    removed: CancellationToken,
    gone: watch::Receiver<bool>,
}

/// What a peer's task shows of itself.
#[derive(Debug, Default)]
struct Seen {
    connected: bool,
    refused: bool,
    dials: bool,
    synced: bool,
    heard_ms: Option<u64>,
    services: u64,
    refusals: Vec<String>,
    error: Option<String>,
}

/// The hub. Cheap to clone.
#[derive(Clone)]
pub struct Federation(Arc<Shared>);

impl std::fmt::Debug for Federation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Federation").field("peers", &self.0.peers.lock().len()).finish_non_exhaustive()
    }
}

impl Federation {
    /// A hub without peers, and its changes. They must be read: a full channel stops the reading of streams.
    #[must_use]
    pub fn new(parts: Parts) -> (Self, mpsc::Receiver<(ClusterId, PeerChange)>) {
        let (events, changes) = mpsc::channel(EVENTS);
        let epoch = rand::random_range(1..=u64::MAX);
        let shared = Shared {
            log: Mutex::new(Log::new(parts.me.owner(), epoch)),
            log_moved: watch::Sender::new(0),
            status_moved: watch::Sender::new(0),
            peers: Mutex::default(),
            leaving: Mutex::default(),
            events,
            parts,
        };
        (Self(Arc::new(shared)), changes)
    }

    /// States all links. New ones begin with their last good state at once; changed ones connect anew; of those that are no longer
    /// there all records go ([`PeerChange::Unlinked`]).
    pub fn set_peers(&self, configs: Vec<PeerConfig>) {
        let mut peers = self.0.peers.lock();
        let wanted: BTreeMap<ClusterId, PeerConfig> =
            configs.into_iter().map(|config| (config.cluster.clone(), config)).collect();
        let gone: Vec<ClusterId> = peers.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        for name in gone {
            if let Some(peer) = peers.remove(&name) {
                tracing::info!(peer = %name, "link removed");
                peer.removed.cancel();
                self.0.leaving.lock().insert(name, peer.gone);
            }
        }
        self.0.status_moved.send_modify(|times| *times += 1);
        for (name, config) in wanted {
            match peers.get(&name) {
                Some(peer) => {
                    peer.config.send_if_modified(|present| {
                        let changed = *present != config;
                        *present = config;
                        changed
                    });
                }
                None => {
                    tracing::info!(peer = %name, calls = !config.gateways.is_empty(), "link added");
                    let peer = self.start(config);
                    peers.insert(name, peer);
                }
            }
        }
    }

    /// States all our exports: what is not among them is withdrawn by our word. Call it only once the sources are complete; until
    /// then peers keep what they have.
    pub fn set_exports(&self, services: &[ServiceExport], gateways: &[NetworkGateway]) {
        let first = {
            let mut log = self.0.log.lock();
            let first = !log.is_complete();
            let stated = log.state(services, gateways);
            for (key, size) in &stated.too_large {
                tracing::error!(%key, size, "an export is too large to be told; peers keep what they have of it");
            }
            if !first && stated.upserted + stated.withdrawn == 0 {
                return;
            }
            tracing::debug!(upserted = stated.upserted, withdrawn = stated.withdrawn, "exports changed");
            first
        };
        self.0.log_moved.send_modify(|times| *times += 1);
        if first {
            tracing::info!(services = services.len(), gateways = gateways.len(), "exports are complete");
        }
    }

    /// Changes whenever [`Federation::status`] may read differently: for writers of status.
    #[must_use]
    pub fn status_moved(&self) -> watch::Receiver<u64> {
        self.0.status_moved.subscribe()
    }

    /// All links, by cluster name.
    #[must_use]
    pub fn status(&self) -> Vec<PeerStatus> {
        let now = self.0.parts.clock.unix_millis();
        let peers = self.0.peers.lock();
        peers.iter().map(|(name, peer)| status(name, &peer.seen.lock(), now)).collect()
    }

    fn start(&self, config: PeerConfig) -> Peer {
        let name = config.cluster.clone();
        let previous = self.0.leaving.lock().remove(&name);
        let seen = Arc::new(Mutex::new(Seen { dials: !config.gateways.is_empty(), ..Seen::default() }));
        let (arrivals, arriving) = mpsc::channel(ARRIVALS);
        let (gone, gone_seen) = watch::channel(false);
        let config = watch::Sender::new(config);
        let removed = CancellationToken::new();
        let live = watch::Sender::new(false);
        let calls = dial::Calls {
            shared: Arc::clone(&self.0),
            config: config.subscribe(),
            live: live.subscribe(),
            arrivals: arrivals.clone(),
            seen: Arc::clone(&seen),
            removed: removed.clone(),
        };
        let actor = actor::Actor::new(
            Arc::clone(&self.0),
            config.subscribe(),
            arriving,
            live,
            Arc::clone(&seen),
            removed.clone(),
        );
        let tasks = &self.0.parts.tasks;
        tasks.spawn_infallible("federation calls", calls.run());
        tasks.spawn_infallible("federation peer", async move {
            // A link that was removed and made again starts when the old one has said that it is gone.
            if let Some(mut previous) = previous {
                let _ = previous.wait_for(|gone| *gone).await;
            }
            actor.run().await;
            gone.send_replace(true);
        });
        Peer { config, arrivals, seen, removed, gone: gone_seen }
    }
}

fn status(name: &ClusterId, seen: &Seen, now_ms: u64) -> PeerStatus {
    let state = match seen {
        Seen { connected: true, .. } => "Connected",
        Seen { refused: true, .. } => "Refused",
        Seen { dials: true, .. } => "Connecting",
        _ => "Waiting",
    };
    PeerStatus {
        cluster: name.to_string(),
        state: state.to_string(),
        synced: seen.synced,
        age_ms: seen.heard_ms.map(|heard| now_ms.saturating_sub(heard)),
        services: seen.services,
        refusals: seen.refusals.clone(),
        error: seen.error.clone(),
    }
}

/// Told when a stream is over, with the reason and the rest of what comes in, which the caller may read to its end.
type Over = oneshot::Sender<(crate::link::Ended, actor::Incoming)>;
