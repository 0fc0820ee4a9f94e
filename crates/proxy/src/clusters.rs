//! All clusters with their endpoints: alive, or stored until a connection needs them.
//!
//! A live cluster with four endpoints takes about 5 KB, its messages 1 KB. A proxy knows many services and calls few: what was
//! checked stays as the message that it came as, whose bytes the last-good cache holds too, until a connection asks for it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use parking_lot::{Mutex, RwLock};

use crate::cluster::Cluster;
use crate::resolve;
use crate::resource::assignment::Assignment;
use crate::resource::cluster::{ClusterConfig, Kind};
use crate::resource::tls::Configurations;
use crate::resource::{Checked, decode};
use crate::shared::Shared;

/// Clusters by name, endpoints by EDS name.
#[derive(Default)]
pub(crate) struct Clusters {
    slots: RwLock<Slots>,
    /// Clusters may come later than their endpoints.
    listings: RwLock<HashMap<Arc<str>, Listing>>,
    /// Held by whoever changes something: no cluster wakes with endpoints of yesterday.
    changing: Mutex<()>,
}

#[derive(Default)]
struct Slots {
    by_name: HashMap<Arc<str>, Slot>,
    /// Under which name those clusters take their endpoints that do not take them under their own.
    elsewhere: HashMap<Arc<str>, Arc<str>>,
    /// The same the other way round: a change looks at the clusters that it is about.
    others: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
}

enum Slot {
    Live(Arc<Cluster>),
    /// Sound, and of EDS.
    Stored(Bytes),
}

/// Endpoints of clusters that live, or of clusters that are stored.
#[derive(Clone)]
enum Listing {
    Live(Arc<Assignment>),
    Stored(Bytes),
}

impl Slots {
    fn get(&self, name: &str) -> Option<&Slot> {
        self.by_name.get(name)
    }

    fn live(&self, name: &str) -> Option<Arc<Cluster>> {
        match self.get(name)? {
            Slot::Live(cluster) => Some(Arc::clone(cluster)),
            Slot::Stored(_) => None,
        }
    }

    fn put(&mut self, name: &Arc<str>, kind: &Kind, slot: Slot) {
        self.leave(name);
        if let Kind::Eds(service) = kind
            && service != name
        {
            self.elsewhere.insert(Arc::clone(name), Arc::clone(service));
            self.others.entry(Arc::clone(service)).or_default().insert(Arc::clone(name));
        }
        self.by_name.insert(Arc::clone(name), slot);
    }

    /// A cluster no longer takes its endpoints under another name than its own. That name, if it did.
    fn leave(&mut self, name: &str) -> Option<Arc<str>> {
        let service = self.elsewhere.remove(name)?;
        if let Some(users) = self.others.get_mut(&service) {
            users.remove(name);
            if users.is_empty() {
                self.others.remove(&service);
            }
        }
        Some(service)
    }

    /// Names of clusters that take their endpoints under this name.
    fn users<'a>(&'a self, service: &'a str) -> impl Iterator<Item = &'a str> {
        let own = self.by_name.get(service).is_some_and(|slot| match slot {
            Slot::Stored(_) => !self.elsewhere.contains_key(service),
            Slot::Live(cluster) => matches!(&cluster.config.kind, Kind::Eds(of) if **of == *service),
        });
        let others = self.others.get(service).into_iter().flatten();
        own.then_some(service).into_iter().chain(others.map(|name| &**name))
    }
}

impl Listing {
    fn compile(body: &Bytes) -> Checked<Arc<Assignment>> {
        let load: ClusterLoadAssignment = decode(body)?;
        Assignment::compile(&load, false).map(Arc::new)
    }

    /// Ready for use; what is stored was found to be sound.
    fn assignment(&self) -> Option<Arc<Assignment>> {
        match self {
            Self::Live(assignment) => Some(Arc::clone(assignment)),
            Self::Stored(body) => Self::compile(body).ok(),
        }
    }
}

impl Clusters {
    /// The cluster of this name, which lives from now on.
    pub(crate) fn get(&self, shared: &Shared, name: &str) -> Option<Arc<Cluster>> {
        match self.slots.read().get(name)? {
            Slot::Live(cluster) => return Some(Arc::clone(cluster)),
            Slot::Stored(_) => {}
        }
        let _changing = self.changing.lock();
        let (name, body) = match self.slots.read().by_name.get_key_value(name)? {
            (_, Slot::Live(cluster)) => return Some(Arc::clone(cluster)),
            (name, Slot::Stored(body)) => (Arc::clone(name), body.clone()),
        };
        let cluster = self.wake(&shared.tls, &name, &body)?;
        if let Kind::Eds(service) = &cluster.config.kind
            && let Some(listing) = self.listings.write().get_mut(service)
            && let Some(assignment) = listing.assignment()
        {
            *listing = Listing::Live(assignment);
        }
        self.slots.write().by_name.insert(name, Slot::Live(Arc::clone(&cluster)));
        Some(cluster)
    }

    /// The cluster of this name, if it lives.
    pub(crate) fn live(&self, name: &str) -> Option<Arc<Cluster>> {
        self.slots.read().live(name)
    }

    /// The cluster of this name, to look at: one that is stored stays so.
    pub(crate) fn look(&self, shared: &Shared, name: &str) -> Option<Arc<Cluster>> {
        let body = match self.slots.read().get(name)? {
            Slot::Live(cluster) => return Some(Arc::clone(cluster)),
            Slot::Stored(body) => body.clone(),
        };
        self.wake(&shared.tls, &name.into(), &body)
    }

    /// Whether there is one of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.slots.read().get(name).is_some()
    }

    /// All names, in order.
    pub(crate) fn names(&self) -> Vec<Arc<str>> {
        let mut names: Vec<Arc<str>> = self.slots.read().by_name.keys().cloned().collect();
        names.sort_unstable();
        names
    }

    fn wake(&self, tls: &Configurations, name: &Arc<str>, body: &Bytes) -> Option<Arc<Cluster>> {
        // It was compiled once when it came.
        let config = ClusterConfig::compile(name, body, tls).ok()?;
        let cluster = Arc::new(Cluster::new(config, None));
        self.assign(&cluster);
        Some(cluster)
    }

    fn assign(&self, cluster: &Arc<Cluster>) {
        if let Kind::Eds(service) = &cluster.config.kind
            && let Some(assignment) = self.listings.read().get(service).and_then(Listing::assignment)
        {
            cluster.assign(&assignment);
        }
    }

    /// Takes a cluster over.
    pub(crate) fn put(&self, shared: &Shared, name: &Arc<str>, body: &Bytes) -> Checked<()> {
        let config = ClusterConfig::compile(name, body, &shared.tls)?;
        let _changing = self.changing.lock();
        let former = self.live(name);
        if former.is_none() && matches!(config.kind, Kind::Eds(_)) {
            self.slots.write().put(name, &config.kind, Slot::Stored(body.clone()));
            return Ok(());
        }
        let cluster = Arc::new(Cluster::new(config, former.as_deref()));
        self.assign(&cluster);
        for host in cluster.ejected() {
            shared.outliers.watch(&cluster, &host);
        }
        resolve::start(shared, &cluster);
        self.slots.write().put(name, &cluster.config.kind, Slot::Live(Arc::clone(&cluster)));
        Ok(())
    }

    /// Forgets a cluster, and its endpoints when no other has them.
    pub(crate) fn remove(&self, name: &str) {
        let _changing = self.changing.lock();
        let mut slots = self.slots.write();
        let elsewhere = slots.leave(name);
        let service = match slots.by_name.remove(name) {
            Some(Slot::Live(cluster)) if !matches!(cluster.config.kind, Kind::Eds(_)) => return,
            Some(_) => elsewhere.as_deref().unwrap_or(name),
            None => return,
        };
        if slots.users(service).next().is_none() {
            self.listings.write().remove(service);
        }
    }

    /// Takes endpoints over.
    pub(crate) fn put_endpoints(&self, name: &Arc<str>, body: &Bytes) -> Checked<()> {
        let assignment = Listing::compile(body)?;
        let _changing = self.changing.lock();
        let users = self.users(name);
        for cluster in &users {
            cluster.assign(&assignment);
        }
        let listing =
            if users.is_empty() { Listing::Stored(body.clone()) } else { Listing::Live(assignment) };
        self.listings.write().insert(Arc::clone(name), listing);
        Ok(())
    }

    /// Endpoints are unknown again.
    pub(crate) fn remove_endpoints(&self, name: &str) {
        let _changing = self.changing.lock();
        self.listings.write().remove(name);
        for cluster in self.users(name) {
            cluster.forget_endpoints();
        }
    }

    /// Live clusters that take their endpoints under this name: usually the one of that name.
    fn users(&self, service: &str) -> Vec<Arc<Cluster>> {
        let slots = self.slots.read();
        slots.users(service).filter_map(|name| slots.live(name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_one_cluster_finds_who_shares_its_endpoints_among_any_number() {
        let (mut slots, stored) = (Slots::default(), || Slot::Stored(Bytes::new()));
        let (name, service) =
            (|number: u32| Arc::from(format!("c{number}")), |number: u32| format!("s{number}"));
        for number in 0..40_000 {
            slots.put(&name(number), &Kind::Eds(service(number / 2).into()), stored());
        }
        for number in (0..40_000).step_by(2) {
            let (one, two, of) = (name(number), name(number + 1), service(number / 2));
            assert_eq!(slots.users(&of).collect::<Vec<_>>(), [&*one, &*two]);
            assert_eq!(slots.leave(&one).as_deref(), Some(&*of));
            slots.by_name.remove(&one);
            assert_eq!(slots.users(&of).collect::<Vec<_>>(), [&*two]);
            // From now on under its own name.
            slots.put(&two, &Kind::Eds(Arc::clone(&two)), stored());
            assert_eq!((slots.users(&of).count(), slots.users(&two).next()), (0, Some(&*two)));
        }
        assert!(slots.elsewhere.is_empty() && slots.others.is_empty());
    }
}
