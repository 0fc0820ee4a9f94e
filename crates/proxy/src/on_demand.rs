//! Clusters that are fetched when a connection names them.
//!
//! A gateway on demand holds the hashes of all names that it may pass on ([`names`]), and clusters and endpoints of those that are
//! in use. A name that is not exported is refused at once, without a request to anyone. The first connection to one that is asks
//! for its cluster and waits; all that come meanwhile wait for the same answer, bounded in number and time. A cluster that no
//! connection has used for a while is given back.

pub(crate) mod names;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use isthmus_sni::name_hash;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::access::{Flag, Refusal};
use crate::cluster::Cluster;
use crate::metrics::Metrics;
use crate::shared::Shared;
use names::Names;

/// Asks the control plane for clusters with their endpoints. Called by the proxy from its connections: it must not block.
pub trait Demand: Send + Sync {
    /// Asks for a cluster. The answer comes as any other resource, absence as a removal.
    fn want(&self, cluster: &Arc<str>);
    /// Gives clusters back: they leave what the proxy is told of. Answers those that are to leave the proxy too.
    fn give_back(&self, clusters: &[Arc<str>]) -> Vec<Arc<str>>;
}

/// Bounds of fetching on demand.
#[derive(Clone, Copy, Debug)]
pub struct OnDemandLimits {
    /// Longest wait of a connection for the control plane's answer.
    pub wait: Duration,
    /// Connections that wait at the same time.
    pub waiting: usize,
    /// Names that are asked for at the same time.
    pub asked: usize,
    /// A cluster without a connection for so long is given back.
    pub unused: Duration,
}

impl Default for OnDemandLimits {
    fn default() -> Self {
        Self {
            wait: Duration::from_secs(5),
            waiting: 4096,
            asked: 1024,
            unused: Duration::from_secs(15 * 60),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Awaited,
    Arrived,
    Absent,
}

/// A name that was asked for.
struct Asked {
    answer: Arc<watch::Sender<Answer>>,
    waiting: usize,
}

/// What is fetched, and for whom.
pub(crate) struct OnDemand {
    demand: Arc<dyn Demand>,
    limits: OnDemandLimits,
    metrics: Arc<Metrics>,
    asked: Mutex<HashMap<Arc<str>, Asked>>,
    waiting: AtomicUsize,
    /// When each fetched cluster was last used, in seconds since `began`.
    used: RwLock<HashMap<Arc<str>, AtomicU64>>,
    began: Instant,
}

/// One connection's place among those that wait.
struct Waiting<'a> {
    on_demand: &'a OnDemand,
    name: Arc<str>,
    answer: Arc<watch::Sender<Answer>>,
}

impl OnDemand {
    pub(crate) fn new(demand: Arc<dyn Demand>, limits: OnDemandLimits, metrics: Arc<Metrics>) -> Self {
        Self {
            demand,
            limits,
            metrics,
            asked: Mutex::default(),
            waiting: AtomicUsize::new(0),
            used: RwLock::default(),
            began: Instant::now(),
        }
    }

    /// Clusters that were fetched before this proxy began: they count as used now.
    pub(crate) fn restored(&self, names: &[Arc<str>]) {
        let now = self.now();
        self.change_used(|used| {
            used.extend(names.iter().map(|name| (Arc::clone(name), AtomicU64::new(now))));
        });
    }

    /// A cluster is there now.
    pub(crate) fn arrived(&self, name: &Arc<str>) {
        if self.answered(name, Answer::Arrived) {
            let now = AtomicU64::new(self.now());
            self.change_used(|used| {
                used.insert(Arc::clone(name), now);
            });
        }
    }

    /// A cluster does not exist (any longer).
    pub(crate) fn absent(&self, name: &str) {
        self.answered(name, Answer::Absent);
        if self.used.read().contains_key(name) {
            self.change_used(|used| {
                used.remove(name);
            });
        }
    }

    fn change_used(&self, change: impl FnOnce(&mut HashMap<Arc<str>, AtomicU64>)) {
        let mut used = self.used.write();
        change(&mut used);
        self.metrics.fetched(used.len());
    }

    fn answered(&self, name: &str, answer: Answer) -> bool {
        let asked = self.asked.lock().remove(name);
        asked.is_some_and(|asked| {
            asked.answer.send_replace(answer);
            true
        })
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_secs()
    }

    fn touch(&self, name: &str) {
        if let Some(used) = self.used.read().get(name) {
            used.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Asks for a cluster, or joins those that wait for it.
    fn ask(&self, name: &str) -> Result<Waiting<'_>, Refusal> {
        if self.waiting.load(Ordering::Relaxed) >= self.limits.waiting {
            return Err(Refusal::new(Flag::Overflow, "too many connections wait for their clusters"));
        }
        let mut asked = self.asked.lock();
        let (name, answer, first) = if let Some((known, entry)) = asked.get_key_value(name) {
            (Arc::clone(known), Arc::clone(&entry.answer), false)
        } else if asked.len() >= self.limits.asked {
            return Err(Refusal::new(Flag::Overflow, "too many clusters are asked for"));
        } else {
            let answer = Arc::new(watch::Sender::new(Answer::Awaited));
            let name: Arc<str> = name.into();
            asked.insert(Arc::clone(&name), Asked { answer: Arc::clone(&answer), waiting: 0 });
            (name, answer, true)
        };
        if let Some(entry) = asked.get_mut(&name) {
            entry.waiting += 1;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // Under the lock, so that giving up and asking anew reach the control plane in their order.
        if first {
            self.metrics.asked();
            self.demand.want(&name);
        }
        Ok(Waiting { on_demand: self, name, answer })
    }

    /// Gives back what no connection used for long, again and again; `leave` takes it out of the proxy.
    pub(crate) async fn give_back_unused(&self, shared: &Shared, leave: impl Fn(&[Arc<str>])) {
        let mut pause = tokio::time::interval((self.limits.unused / 4).max(Duration::from_millis(100)));
        loop {
            pause.tick().await;
            let oldest = self.now().saturating_sub(self.limits.unused.as_secs());
            let is_old = |used: &AtomicU64| used.load(Ordering::Relaxed) < oldest;
            let old: Vec<Arc<str>> = {
                let used = self.used.read();
                used.iter().filter(|(_, used)| is_old(used)).map(|(name, _)| Arc::clone(name)).collect()
            };
            let idle = |name: &Arc<str>| {
                shared.tables.clusters.live(name).is_none_or(|cluster| cluster.active() == 0)
            };
            let unused: HashSet<Arc<str>> = old.into_iter().filter(idle).collect();
            if unused.is_empty() {
                continue;
            }
            self.change_used(|used| used.retain(|name, _| !unused.contains(name)));
            tracing::debug!(clusters = unused.len(), "unused clusters given back");
            // In this order: a connection that comes in between asks for it anew.
            leave(&self.demand.give_back(&unused.into_iter().collect::<Vec<_>>()));
        }
    }
}

impl Waiting<'_> {
    async fn answer(&self) -> Answer {
        let mut answer = self.answer.subscribe();
        let answered = answer.wait_for(|answer| *answer != Answer::Awaited);
        match tokio::time::timeout(self.on_demand.limits.wait, answered).await {
            Ok(Ok(answer)) => *answer,
            Ok(Err(_)) | Err(_) => Answer::Awaited,
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.on_demand.waiting.fetch_sub(1, Ordering::Relaxed);
        let mut asked = self.on_demand.asked.lock();
        // An entry of this name that is not ours was asked for anew.
        let ours = asked.get_mut(&self.name).filter(|entry| Arc::ptr_eq(&entry.answer, &self.answer));
        let Some(entry) = ours else { return };
        entry.waiting -= 1;
        if entry.waiting == 0 {
            // Nobody waits any longer, and no answer came.
            asked.remove(&self.name);
            // It never came: there is nothing to leave the proxy.
            drop(self.on_demand.demand.give_back(std::slice::from_ref(&self.name)));
        }
    }
}

/// Whether a server name may pass by a chain that serves a table of names; waits for a table that has not come yet.
pub(crate) async fn is_exported(shared: &Shared, table: &str, server_name: &str) -> bool {
    let hash = name_hash(server_name);
    let names: &Names = &shared.names;
    if let Some(known) = names.has(table, hash) {
        return known;
    }
    let Some(on_demand) = shared.on_demand.get() else { return false };
    if on_demand.waiting.fetch_add(1, Ordering::Relaxed) >= on_demand.limits.waiting {
        on_demand.waiting.fetch_sub(1, Ordering::Relaxed);
        return false;
    }
    let known = tokio::time::timeout(on_demand.limits.wait, names.known(table, hash)).await;
    on_demand.waiting.fetch_sub(1, Ordering::Relaxed);
    known.unwrap_or(false)
}

/// The cluster of this name, fetched if need be. None: it does not exist.
pub(crate) async fn cluster(shared: &Shared, name: &str) -> Result<Option<Arc<Cluster>>, Refusal> {
    let Some(on_demand) = shared.on_demand.get() else { return Ok(shared.cluster(name)) };
    if let Some(cluster) = shared.cluster(name) {
        on_demand.touch(name);
        return Ok(Some(cluster));
    }
    let waiting = on_demand.ask(name).inspect_err(|_| shared.metrics.refused("on_demand_overflow"))?;
    // It may have come between the look and the question.
    if let Some(cluster) = shared.cluster(name) {
        on_demand.arrived(&waiting.name);
        return Ok(Some(cluster));
    }
    match waiting.answer().await {
        Answer::Arrived => Ok(shared.cluster(name)),
        Answer::Absent => {
            shared.metrics.refused("on_demand_absent");
            Ok(None)
        }
        Answer::Awaited => {
            shared.metrics.refused("on_demand_timeout");
            let within = on_demand.limits.wait.as_millis();
            let detail =
                format!("cluster {name:?} is not known: no answer from the control plane within {within} ms");
            Err(Refusal::new(Flag::NoCluster, detail))
        }
    }
}
