//! One peer: owns its table and its stream, and is the only one to pass its changes on, so that they keep their order.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{BoxStream, FuturesUnordered};
use isthmus_model::export::PeerChange;
use isthmus_model::name::ClusterId;
use isthmus_proto::federation::Frame;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{Over, Seen, Shared};
use crate::imports::Imports;
use crate::link::{Ended, Link, Role};
use crate::peer::PeerConfig;

/// Frames of ours that the connection has not taken yet.
pub(super) const OUTGOING: usize = 16;
/// Refusals that a status shows.
const SHOWN: usize = 20;
/// The age of a silent peer is kept on disk this often.
const SAVE_AGE: Duration = Duration::from_secs(60);

/// What comes in.
pub(super) type Incoming = BoxStream<'static, Result<Frame, Status>>;

/// A stream that has just opened.
pub(super) struct Arrival {
    pub(super) role: Role,
    /// DNS names that TLS has verified.
    pub(super) presented: Vec<String>,
    pub(super) incoming: Incoming,
    pub(super) out: mpsc::Sender<Frame>,
    /// Where the calling side waits for the end.
    pub(super) over: Option<Over>,
}

/// A stream and its protocol state.
struct Live {
    link: Link,
    incoming: Incoming,
    out: mpsc::Sender<Frame>,
    over: Option<Over>,
    /// The connection is not taking frames at the moment.
    blocked: bool,
}

/// A stream that has or has not said hello.
type Greeting = Pin<Box<dyn Future<Output = (Live, Option<Result<Frame, Status>>)> + Send>>;

pub(super) struct Actor {
    shared: Arc<Shared>,
    config: watch::Receiver<PeerConfig>,
    arriving: mpsc::Receiver<Arrival>,
    live: watch::Sender<bool>,
    seen: Arc<Mutex<Seen>>,
    removed: CancellationToken,
    name: ClusterId,
    imports: Imports,
    current: Option<Live>,
    greetings: FuturesUnordered<Greeting>,
    saved_at: Instant,
    /// Whether what is shown of it may be out of date.
    changed: bool,
}

/// What woke the actor.
enum Wake {
    Stop,
    Removed,
    Config,
    Arrival(Arrival),
    Greeted(Box<Live>, Option<Result<Frame, Status>>),
    Incoming(Option<Result<Frame, Status>>),
    Room,
    Log,
    Tick,
}

impl Actor {
    pub(super) fn new(
        shared: Arc<Shared>,
        config: watch::Receiver<PeerConfig>,
        arriving: mpsc::Receiver<Arrival>,
        live: watch::Sender<bool>,
        seen: Arc<Mutex<Seen>>,
        removed: CancellationToken,
    ) -> Self {
        let present = config.borrow().clone();
        let imports = Imports::new(present.cluster.clone(), present.owner(), shared.parts.options.limits);
        Self {
            shared,
            config,
            arriving,
            live,
            seen,
            removed,
            name: present.cluster,
            imports,
            current: None,
            greetings: FuturesUnordered::new(),
            saved_at: Instant::now(),
            changed: true,
        }
    }

    pub(super) async fn run(mut self) {
        self.restore().await;
        let signal = self.shared.parts.tasks.signal();
        let mut log = self.shared.log_moved.subscribe();
        let mut ticks = interval(self.tick_length());
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.say();
            if std::mem::take(&mut self.changed) {
                self.show();
            }
            let wake = tokio::select! {
                biased;
                () = signal.stopping() => Wake::Stop,
                () = self.removed.cancelled() => Wake::Removed,
                changed = self.config.changed() => if changed.is_ok() { Wake::Config } else { Wake::Stop },
                Some(arrival) = self.arriving.recv() => Wake::Arrival(arrival),
                Some((live, first)) = self.greetings.next() => Wake::Greeted(Box::new(live), first),
                _ = ticks.tick() => Wake::Tick,
                wake = stream(&mut self.current) => wake,
                _ = log.changed() => Wake::Log,
            };
            match wake {
                Wake::Stop => {
                    self.leave("this control plane is stopping").await;
                    self.save(true).await;
                    return;
                }
                Wake::Removed => {
                    self.leave("the link was removed").await;
                    self.forget().await;
                    return;
                }
                Wake::Config => self.reconfigure().await,
                Wake::Arrival(arrival) => self.greet(arrival),
                Wake::Greeted(live, first) => self.greeted(*live, first).await,
                Wake::Incoming(frame) => self.heard(frame).await,
                Wake::Room | Wake::Log => {}
                Wake::Tick => self.tick().await,
            }
        }
    }

    fn tick_length(&self) -> Duration {
        Duration::from_millis(self.shared.parts.options.timing.heartbeat.clamp(20, 2_000) / 2)
    }

    fn now_ms(&self) -> u64 {
        self.shared.parts.clock.unix_millis()
    }

    fn file(&self) -> String {
        format!("peer-{}", self.name)
    }

    /// The last good state, at once.
    async fn restore(&mut self) {
        let (store, file) = (Arc::clone(&self.shared.parts.last_good), self.file());
        let owner = self.config.borrow().owner();
        let loaded = tokio::task::spawn_blocking(move || store.load(&file)).await;
        let problem = match loaded {
            Ok(Ok(None)) => return,
            Ok(Ok(Some(bytes))) => {
                match Imports::load(self.name.clone(), owner, self.shared.parts.options.limits, &bytes) {
                    Ok(imports) => {
                        let age_ms = imports.heard_ms().map(|heard| self.now_ms().saturating_sub(heard));
                        tracing::info!(peer = %self.name, records = imports.len(), ?age_ms, "serving last good imports");
                        let changes = imports.replay();
                        self.imports = imports;
                        self.pass_on(changes).await;
                        return;
                    }
                    Err(error) => error.to_string(),
                }
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::error!(peer = %self.name, error = problem, "last good imports are lost, waiting for the peer");
    }

    /// Writes the table when it has changed, or when a silent table's age has not been written for long.
    async fn save(&mut self, now: bool) {
        let since = self.saved_at.elapsed();
        let due = self.imports.is_dirty() && (now || since >= self.shared.parts.options.save);
        if !due && !(self.imports.heard_ms().is_some() && (now || since >= SAVE_AGE)) {
            return;
        }
        self.saved_at = Instant::now();
        let (store, file, bytes) =
            (Arc::clone(&self.shared.parts.last_good), self.file(), self.imports.save());
        let saved = tokio::task::spawn_blocking(move || store.save(&file, &bytes)).await;
        if let Ok(Err(error)) = saved {
            tracing::error!(peer = %self.name, %error, "cannot save the last good imports, a restart would lose them");
        }
    }

    /// The link is gone by its operator's will: so are its records.
    async fn forget(&mut self) {
        let (store, file) = (Arc::clone(&self.shared.parts.last_good), self.file());
        let removed = tokio::task::spawn_blocking(move || store.remove(&file)).await;
        if let Ok(Err(error)) = removed {
            tracing::error!(peer = %self.name, %error, "cannot remove the saved imports of a removed link");
        }
        self.pass_on(vec![PeerChange::Unlinked]).await;
        self.shared.parts.metrics.forget(&self.name);
    }

    async fn reconfigure(&mut self) {
        let config = self.config.borrow_and_update().clone();
        self.seen.lock().dials = !config.gateways.is_empty();
        self.leave("the link was changed").await;
        self.greetings.clear();
        if config.owner() != *self.imports.owner() {
            // Another revision or mesh under the same name is another owner: what the old one said is not its word.
            tracing::warn!(peer = %self.name, "the link's peer is another one now, its records start anew");
            self.pass_on(vec![PeerChange::Unlinked]).await;
            self.imports = Imports::new(self.name.clone(), config.owner(), self.shared.parts.options.limits);
            self.save(true).await;
        }
    }

    fn new_link(&self, role: Role, presented: Vec<String>) -> Link {
        let parts = &self.shared.parts;
        let config = self.config.borrow().clone();
        let options = &parts.options;
        Link::new(role, parts.me.clone(), config, presented, options.timing, options.limits, self.now_ms())
    }

    /// Waits for a new stream's hello beside the present stream.
    fn greet(&mut self, arrival: Arrival) {
        let Arrival { role, presented, incoming, out, over } = arrival;
        let mut link = self.new_link(role, presented);
        let hello = link.next(&self.shared.log.lock(), &self.imports, self.now_ms());
        let limit = Duration::from_millis(self.shared.parts.options.timing.hello);
        let mut live = Live { link, incoming, out, over, blocked: false };
        self.greetings.push(Box::pin(async move {
            let first = timeout(limit, async {
                if let Some(hello) = hello {
                    // A failure shows as the end of what comes in.
                    let _ = live.out.send(hello).await;
                }
                live.incoming.next().await
            });
            let first =
                first.await.unwrap_or_else(|_| Some(Err(Status::deadline_exceeded("no hello in time"))));
            (live, first)
        }));
    }

    async fn greeted(&mut self, mut live: Live, first: Option<Result<Frame, Status>>) {
        let frame = match first {
            Some(Ok(frame)) => frame,
            Some(Err(status)) => return self.lost(live, ended_by(&status)),
            None => {
                return self.lost(live, Ended::Closed("the peer closed the stream before its hello".into()));
            }
        };
        let now = self.now_ms();
        let heard = live.link.frame(frame, &mut self.imports, now);
        if let Some(ended) = heard.ended {
            self.flush(&mut live);
            return self.lost(live, ended);
        }
        if let Some(current) = &self.current
            && current.link.role() != live.link.role()
            && self.called_by(&current.link) < self.called_by(&live.link)
        {
            // Both sides call: one of the two streams must be the one, and both sides choose alike.
            live.link.leave("another stream of this link is open");
            self.flush(&mut live);
            return self.lost(live, Ended::Closed("another stream of this link is open".into()));
        }
        self.leave("a newer stream of this link took over").await;
        tracing::info!(peer = %self.name, called = live.link.role() == Role::Dialing, "federation stream open");
        self.shared.parts.metrics.opened(&self.name);
        self.current = Some(live);
        self.live.send_replace(true);
        self.changed = true;
        let mut seen = self.seen.lock();
        (seen.refused, seen.error) = (false, None);
    }

    /// The cluster that made the call.
    fn called_by(&self, link: &Link) -> ClusterId {
        match link.role() {
            Role::Dialing => self.shared.parts.me.cluster.clone(),
            Role::Accepting => self.name.clone(),
        }
    }

    async fn heard(&mut self, frame: Option<Result<Frame, Status>>) {
        let now = self.now_ms();
        let Some(live) = &mut self.current else { return };
        let heard = match frame {
            Some(Ok(frame)) => live.link.frame(frame, &mut self.imports, now),
            Some(Err(status)) => return self.drop_current(ended_by(&status)),
            None => return self.drop_current(Ended::Closed("the peer closed the stream".into())),
        };
        self.shared.parts.metrics.changed(&self.name, heard.changes.len());
        self.changed |= heard.changes.contains(&PeerChange::Synced);
        self.pass_on(heard.changes).await;
        if let Some(ended) = heard.ended {
            self.drop_current(ended);
        }
    }

    async fn tick(&mut self) {
        self.changed = true;
        let now = self.now_ms();
        if let Some(ended) = self.current.as_mut().and_then(|live| live.link.tick(now)) {
            self.drop_current(ended);
        }
        self.save(false).await;
    }

    async fn pass_on(&mut self, changes: Vec<PeerChange>) {
        let signal = self.shared.parts.tasks.signal();
        for change in changes {
            tokio::select! {
                // A closed channel means that the program is stopping, and what is not passed on then is on disk.
                _ = self.shared.events.send((self.name.clone(), change)) => {}
                () = signal.stopping() => return,
            }
        }
    }

    /// Ends the present stream in order.
    async fn leave(&mut self, reason: &str) {
        let Some(mut live) = self.current.take() else { return };
        live.link.leave(reason);
        self.flush(&mut live);
        self.changed = true;
        self.live.send_replace(false);
        finish(live, Ended::Closed(reason.to_string()));
    }

    fn drop_current(&mut self, ended: Ended) {
        if let Some(mut live) = self.current.take() {
            self.flush(&mut live);
            self.changed = true;
            self.live.send_replace(false);
            self.lost(live, ended);
        }
    }

    fn lost(&mut self, live: Live, ended: Ended) {
        tracing::warn!(peer = %self.name, reason = %ended, "no federation stream, keeping what is known");
        if self.current.is_none() {
            self.changed = true;
            let mut seen = self.seen.lock();
            seen.refused = matches!(ended, Ended::Refused(_));
            seen.error = Some(match &ended {
                Ended::Refused(reason) | Ended::Closed(reason) => reason.clone(),
            });
        }
        finish(live, ended);
    }

    /// Sends what the connection takes.
    fn say(&mut self) {
        if let Some(mut live) = self.current.take() {
            self.flush(&mut live);
            self.current = Some(live);
        }
    }

    fn flush(&self, live: &mut Live) {
        let log = self.shared.log.lock();
        let now = self.now_ms();
        live.blocked = false;
        loop {
            match live.out.try_reserve() {
                Ok(permit) => match live.link.next(&log, &self.imports, now) {
                    Some(frame) => permit.send(frame),
                    None => return,
                },
                Err(mpsc::error::TrySendError::Full(())) => {
                    live.blocked = true;
                    return;
                }
                // What comes in ends too.
                Err(mpsc::error::TrySendError::Closed(())) => return,
            }
        }
    }

    fn show(&self) {
        let mut seen = self.seen.lock();
        seen.connected = self.current.is_some();
        seen.synced = self.imports.is_synced();
        seen.heard_ms = self.imports.heard_ms();
        seen.services = self.imports.services() as u64;
        let mut refusals: VecDeque<String> =
            self.imports.refusals().map(|(key, reason)| format!("{key}: {reason}")).collect();
        let count = refusals.len();
        refusals.truncate(SHOWN);
        if count > SHOWN {
            refusals.push_back(format!("and {} more", count - SHOWN));
        }
        seen.refusals = refusals.into();
        let connected = seen.connected;
        drop(seen);
        self.shared.status_moved.send_modify(|times| *times += 1);
        self.shared.parts.metrics.table(&self.name, connected, self.imports.len(), count);
    }
}

/// Tells the caller of a stream that it is over; dropping what goes out closes it.
fn finish(live: Live, ended: Ended) {
    let Live { incoming, out, over, .. } = live;
    drop(out);
    if let Some(over) = over {
        let _ = over.send((ended, incoming));
    }
}

/// What the present stream does next: something comes in, or it takes frames again after it did not.
async fn stream(current: &mut Option<Live>) -> Wake {
    let Some(Live { incoming, out, blocked, .. }) = current else { return std::future::pending().await };
    let room = async {
        // Closed shows as the end of what comes in.
        if !*blocked || out.reserve().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        frame = incoming.next() => Wake::Incoming(frame),
        () = room => Wake::Room,
    }
}

fn ended_by(status: &Status) -> Ended {
    match status.code() {
        tonic::Code::PermissionDenied | tonic::Code::Unauthenticated => {
            Ended::Refused(status.message().to_string())
        }
        code => Ended::Closed(format!("stream lost: {code:?}: {}", status.message())),
    }
}
