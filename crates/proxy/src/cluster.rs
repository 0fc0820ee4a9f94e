//! A cluster in use: its configuration, its endpoints of the moment, and what was learnt of them.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use arc_swap::{ArcSwapOption, Guard};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::balance::pool::Rules;
use crate::balance::{Endpoint, Host, Level, Pool};
use crate::resource::assignment::{Address, Assignment};
use crate::resource::cluster::{ClusterConfig, Kind};

/// Live state of a cluster. A changed configuration makes a new one, which inherits hosts and endpoints.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) config: ClusterConfig,
    /// None: not known yet, which is not the same as none.
    pool: ArcSwapOption<Pool>,
    arrived: Notify,
    members: Mutex<Members>,
    rotation: AtomicUsize,
    active: Arc<AtomicU32>,
    /// The workload's port refused a connection and has not taken one since.
    refusing: AtomicBool,
}

#[derive(Debug, Default)]
struct Members {
    assignment: Option<Arc<Assignment>>,
    hosts: HashMap<SocketAddr, Arc<Host>>,
    levels: Vec<Level>,
}

/// Counts a connection of a cluster while it lives.
#[derive(Debug)]
pub(crate) struct Occupied(Arc<AtomicU32>);

impl Cluster {
    /// A cluster that inherits what `former`, of the same name, knew.
    pub(crate) fn new(config: ClusterConfig, former: Option<&Self>) -> Self {
        let cluster = Self {
            config,
            pool: ArcSwapOption::empty(),
            arrived: Notify::new(),
            members: Mutex::default(),
            rotation: AtomicUsize::new(0),
            active: former.map(|former| Arc::clone(&former.active)).unwrap_or_default(),
            refusing: AtomicBool::new(false),
        };
        if let Some(former) = former {
            cluster.members.lock().hosts.clone_from(&former.members.lock().hosts);
        }
        match &cluster.config.kind {
            Kind::Static(assignment) => cluster.assign(&Arc::new(assignment.clone())),
            // What was resolved or sent for the same name before stays in force until there is news.
            Kind::Dns(_) | Kind::Eds(_) => {
                let same = former.filter(|former| former.config.kind == cluster.config.kind);
                let known = same.and_then(|former| former.members.lock().assignment.clone());
                if let Some(assignment) = known {
                    cluster.assign(&assignment);
                }
            }
            Kind::OriginalDestination => {}
        }
        cluster
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.config.name
    }

    /// Takes over endpoints. Those with host names are left out: clusters that resolve give addresses.
    pub(crate) fn assign(&self, assignment: &Arc<Assignment>) {
        let mut members = self.members.lock();
        let mut hosts = HashMap::new();
        let mut levels: Vec<Level> = Vec::new();
        for group in &assignment.groups {
            let endpoints = group.endpoints.iter().filter_map(|listed| {
                let Address::Ip(address) = listed.address else { return None };
                let known = || members.hosts.get(&address).cloned().unwrap_or_else(|| Host::new(address));
                let host = hosts.entry(address).or_insert_with(known);
                Some(Arc::new(Endpoint {
                    host: Arc::clone(host),
                    weight: listed.weight,
                    healthy: listed.healthy,
                    transport: self.config.transport_of(listed),
                    workload: listed.workload.clone(),
                    locality: Arc::clone(&group.locality),
                    priority: group.priority,
                    passed: ArcSwapOption::empty(),
                }))
            });
            let endpoints: Vec<Arc<Endpoint>> = endpoints.collect();
            let priority = group.priority as usize;
            while levels.len() <= priority {
                levels.push(Level::default());
            }
            levels[priority].localities.push((group.weight, endpoints));
        }
        *members = Members { assignment: Some(Arc::clone(assignment)), hosts, levels };
        self.arrange(&members);
    }

    /// Forgets endpoints: they are unknown again.
    pub(crate) fn forget_endpoints(&self) {
        *self.members.lock() = Members::default();
        self.pool.store(None);
    }

    /// Arranges anew, after an ejection or a readmission.
    fn rearrange(&self) {
        let members = self.members.lock();
        if members.assignment.is_some() {
            self.arrange(&members);
        }
    }

    fn arrange(&self, members: &Members) {
        let pool = Pool::arrange(&members.levels, self.rules(members), &HashSet::new());
        self.pool.store(Some(Arc::new(pool)));
        self.arrived.notify_waiters();
    }

    fn rules(&self, members: &Members) -> Rules {
        Rules {
            overprovisioning: members.assignment.as_ref().map_or(140, |a| a.overprovisioning),
            panic: self.config.panic,
            weighted_localities: self.config.weighted_localities,
        }
    }

    /// Waits until endpoints are known, if only as none.
    pub(crate) async fn known(&self) {
        loop {
            let arrived = self.arrived.notified();
            if self.pool.load().is_some() {
                return;
            }
            arrived.await;
        }
    }

    /// The endpoint for a connection that failed at those `tried`. None: no endpoint may be used, or none is known.
    pub(crate) fn pick(&self, tried: &HashSet<SocketAddr>) -> Option<Arc<Endpoint>> {
        if tried.is_empty() {
            let pool: Guard<Option<Arc<Pool>>> = self.pool.load();
            return pool.as_ref()?.pick(self.config.policy, &self.rotation).cloned();
        }
        let members = self.members.lock();
        let pool = Pool::arrange(&members.levels, self.rules(&members), tried);
        pool.pick(self.config.policy, &self.rotation).cloned()
    }

    /// An endpoint that is ejected, for when no other may be used: to fail for certain helps nobody.
    pub(crate) fn last_resort(&self, tried: &HashSet<SocketAddr>) -> Option<Arc<Endpoint>> {
        let mut ejected = self.endpoints();
        ejected.retain(|endpoint| {
            let out = endpoint.host.ejected_until().is_some();
            endpoint.healthy && out && !tried.contains(&endpoint.address())
        });
        if ejected.is_empty() {
            return None;
        }
        Some(ejected.swap_remove(rand::random_range(0..ejected.len())))
    }

    /// Takes an ejected host back, since it answers.
    pub(crate) fn readmit(&self, host: &Host) {
        host.readmit(Instant::now());
        self.rearrange();
        tracing::info!(cluster = %self.name(), endpoint = %host.address, "endpoint readmitted");
    }

    /// Counts a connection, unless the cluster has as many as it may.
    pub(crate) fn occupy(&self) -> Option<Occupied> {
        let most = self.config.max_connections.unwrap_or(u32::MAX);
        if self.active.fetch_add(1, Ordering::Relaxed) >= most {
            self.active.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Occupied(Arc::clone(&self.active)))
    }

    pub(crate) fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// The endpoint at this address, while the cluster lists it.
    pub(crate) fn endpoint(&self, address: SocketAddr) -> Option<Arc<Endpoint>> {
        self.endpoints().into_iter().find(|endpoint| endpoint.address() == address)
    }

    /// All endpoints, usable or not.
    pub(crate) fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        let members = self.members.lock();
        let all = members.levels.iter().flat_map(|level| &level.localities);
        all.flat_map(|(_, endpoints)| endpoints.iter().cloned()).collect()
    }

    /// Percent of the load for each priority; none while endpoints are unknown.
    pub(crate) fn loads(&self) -> Option<Vec<u32>> {
        self.pool.load().as_ref().map(|pool| pool.loads())
    }

    /// Ejects a host, unless too many are out already. The time when it may be tried again.
    pub(crate) fn eject(&self, host: &Arc<Host>, now: Instant) -> Option<Instant> {
        let outlier = self.config.outlier?;
        {
            let members = self.members.lock();
            if !members.hosts.get(&host.address).is_some_and(|known| Arc::ptr_eq(known, host)) {
                return None;
            }
            let out = members.hosts.values().filter(|host| host.ejected_until().is_some()).count();
            let within = (out + 1) * 100 <= members.hosts.len() * outlier.max_percent as usize;
            if !(within || outlier.always_one && out == 0) || !host.eject(&outlier, now) {
                return None;
            }
        }
        self.rearrange();
        host.ejected_until()
    }

    /// Notes whether the workload's own port takes connections.
    pub(crate) fn set_refusing(&self, refusing: bool) {
        if self.refusing.load(Ordering::Relaxed) != refusing {
            self.refusing.store(refusing, Ordering::Relaxed);
        }
    }

    pub(crate) fn is_refusing(&self) -> bool {
        self.refusing.load(Ordering::Relaxed)
    }

    /// Hosts that are out; whoever takes the cluster over watches them.
    pub(crate) fn ejected(&self) -> Vec<Arc<Host>> {
        let members = self.members.lock();
        members.hosts.values().filter(|host| host.ejected_until().is_some()).cloned().collect()
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
