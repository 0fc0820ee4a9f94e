//! Sources to snapshots: one task owns the registry; events come in by channels, snapshots go out by a watch.

mod names;
mod pace;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use isthmus_lifecycle::Signal;
use isthmus_model::{ClusterId, Hostname, PeerChange};
use isthmus_registry::{Registry, Snapshot};
use isthmus_resources::Event;
use isthmus_resources::mesh::Mesh;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::files;
use names::Names;
use pace::Pace;

/// Events that arrive within this time of each other make one snapshot. Short: a single change is told at once.
const QUIET: Duration = Duration::from_millis(5);
/// Even when events keep coming, the first of them waits no longer than this, unless snapshots follow each other fast ([`pace`]).
const AT_MOST: Duration = Duration::from_millis(20);

/// The task that owns the registry.
pub struct Pipeline {
    registry: Registry,
    allocations: PathBuf,
    events: mpsc::Receiver<Event>,
    peers: mpsc::Receiver<(ClusterId, PeerChange)>,
    mesh: watch::Receiver<Mesh>,
    out: watch::Sender<Arc<Snapshot>>,
    streams: Box<dyn Fn() -> usize + Send>,
    names: Names,
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("registry", &self.registry).finish_non_exhaustive()
    }
}

impl Pipeline {
    /// A pipeline over these sources. Addresses that were given to imported hosts are read from `allocations`.
    ///
    /// # Errors
    /// When the allocations are there and unreadable: starting without them would move every imported host.
    pub fn new(
        mut registry: Registry,
        allocations: PathBuf,
        events: mpsc::Receiver<Event>,
        peers: mpsc::Receiver<(ClusterId, PeerChange)>,
        mut mesh: watch::Receiver<Mesh>,
    ) -> anyhow::Result<Self> {
        registry.set_mesh(mesh.borrow_and_update().clone());
        if let Some(text) = files::read(&allocations)? {
            let kept: BTreeMap<Hostname, Ipv4Addr> = serde_json::from_slice(&text).with_context(|| {
                format!(
                    "{}: not a table of allocated addresses; remove it to allocate anew",
                    allocations.display()
                )
            })?;
            registry.allocator_mut().restore(kept);
        }
        let out = watch::Sender::new(registry.snapshot());
        let (streams, names) = (Box::new(|| 0), Names::new());
        Ok(Self { registry, allocations, events, peers, mesh, out, streams, names })
    }

    /// Snapshots as they are published.
    #[must_use]
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.out.subscribe()
    }

    /// Says how many streams each snapshot goes to: the more, the further apart snapshots are while changes keep coming.
    pub fn paced_by(&mut self, streams: impl Fn() -> usize + Send + 'static) {
        self.streams = Box::new(streams);
    }

    /// Knows of a link before its peer speaks.
    pub fn link(&mut self, peer: &ClusterId) {
        self.registry.link(peer);
    }

    /// Runs until told to stop, or until both sources are gone.
    ///
    /// # Errors
    /// When allocations cannot be stored: going on would hand out addresses that a restart forgets.
    pub async fn run(mut self, stop: Signal) -> anyhow::Result<()> {
        let mut pace = Pace::new();
        loop {
            let more = tokio::select! {
                biased; // stopping beats working
                () = stop.stopping() => return Ok(()),
                more = self.next() => more,
            };
            if !more {
                return Ok(());
            }
            let earliest = pace.earliest();
            let latest = earliest.max(Instant::now() + AT_MOST);
            loop {
                let until = earliest.max(Instant::now() + QUIET).min(latest);
                match tokio::time::timeout_at(until, self.next()).await {
                    Ok(true) if Instant::now() < latest => {}
                    _ => break,
                }
            }
            if self.publish()? {
                pace.made((self.streams)());
            }
        }
    }

    /// Applies the next event; false when there will be none.
    async fn next(&mut self) -> bool {
        tokio::select! {
            event = self.events.recv() => match event {
                Some(event) => self.registry.apply(event),
                None => return false,
            },
            change = self.peers.recv() => match change {
                Some((peer, change)) => {
                    if let Err(refused) = self.registry.apply_peer(&peer, change) {
                        tracing::warn!(%peer, error = %refused, "record of a peer refused");
                    }
                }
                None => return false,
            },
            Ok(()) = self.mesh.changed() => self.registry.set_mesh(self.mesh.borrow_and_update().clone()),
            found = self.names.next() => for (name, addresses) in found {
                self.registry.found(&name, addresses);
            },
        }
        true
    }

    /// Makes a snapshot; false when nothing that a proxy could see changed.
    fn publish(&mut self) -> anyhow::Result<bool> {
        let published = self.registry.publish();
        if self.registry.allocator_mut().take_changed() {
            let text = serde_json::to_vec_pretty(self.registry.allocator().assignments())?;
            files::write(&self.allocations, &text)?;
        }
        let Some((snapshot, _)) = published else { return Ok(false) };
        self.names.want(self.registry.gateway_names());
        self.out.send_replace(snapshot);
        Ok(true)
    }
}
