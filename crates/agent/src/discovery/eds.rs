//! Which endpoints to ask for: those that the clusters in force name.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use prost::Message;

use crate::cache::Entry;

/// Endpoint names of the clusters, and which of them the control plane has told.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    names: HashMap<Arc<str>, Use>,
    /// Of clusters whose endpoints have another name than they, which few have.
    elsewhere: HashMap<Arc<str>, Arc<str>>,
    /// Names that the control plane has not told of.
    awaited: usize,
}

#[derive(Debug, Default)]
struct Use {
    clusters: u32,
    /// One of them is the cluster of that name.
    own: bool,
    seen: bool,
}

/// What to ask for and what to drop.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) added: BTreeSet<Arc<str>>,
    pub(super) dropped: BTreeSet<Arc<str>>,
}

impl Wanted {
    /// Follows a change of clusters. One that cannot be read keeps what it named.
    pub(super) fn follow(&mut self, upserts: &[Entry], removed: &[Arc<str>]) -> Change {
        let mut change = Change::default();
        for name in removed {
            self.set(name, None, &mut change);
        }
        for entry in upserts {
            let Ok(cluster) = Cluster::decode(entry.body.clone()) else { continue };
            self.set(&entry.name, endpoints_of(cluster), &mut change);
        }
        change
    }

    /// A cluster takes its endpoints under this name from now on, if under any.
    fn set(&mut self, cluster: &Arc<str>, endpoints: Option<String>, change: &mut Change) {
        let own = self.names.get(cluster).is_some_and(|uses| uses.own);
        let former = if own { Some(cluster) } else { self.elsewhere.get(cluster) }.cloned();
        if endpoints.as_deref() == former.as_deref() {
            return;
        }
        self.elsewhere.remove(cluster);
        if own && let Some(uses) = self.names.get_mut(cluster) {
            uses.own = false;
        }
        match endpoints {
            Some(endpoints) if *endpoints == **cluster => self.hold(cluster, true, change),
            Some(endpoints) => {
                let known = self.names.get_key_value(endpoints.as_str());
                let endpoints = known.map_or_else(|| endpoints.as_str().into(), |(name, _)| Arc::clone(name));
                self.hold(&endpoints, false, change);
                self.elsewhere.insert(Arc::clone(cluster), endpoints);
            }
            None => {}
        }
        if let Some(former) = former {
            self.release(former, change);
        }
    }

    fn hold(&mut self, name: &Arc<str>, own: bool, change: &mut Change) {
        let uses = self.names.entry(Arc::clone(name)).or_default();
        uses.clusters += 1;
        uses.own |= own;
        if uses.clusters == 1 {
            self.awaited += 1;
            if !change.dropped.remove(name) {
                change.added.insert(Arc::clone(name));
            }
        }
    }

    fn release(&mut self, name: Arc<str>, change: &mut Change) {
        let Some(uses) = self.names.get_mut(&name) else { return };
        uses.clusters -= 1;
        if uses.clusters > 0 {
            return;
        }
        if !uses.seen {
            self.awaited -= 1;
        }
        self.names.remove(&name);
        if !change.added.remove(&name) {
            change.dropped.insert(name);
        }
    }

    /// The control plane told of these, be it that they do not exist.
    pub(super) fn seen<'a>(&mut self, upserts: impl Iterator<Item = &'a str>, removed: &'a [Arc<str>]) {
        for name in upserts.chain(removed.iter().map(|name| &**name)) {
            if let Some(uses) = self.names.get_mut(name)
                && !std::mem::replace(&mut uses.seen, true)
            {
                self.awaited -= 1;
            }
        }
    }

    /// Whether all have been told.
    pub(super) fn complete(&self) -> bool {
        self.awaited == 0
    }

    /// Whether a cluster has its endpoints under this name.
    pub(super) fn names(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// All names, without doubles.
    pub(super) fn all(&self) -> Vec<Arc<str>> {
        self.names.keys().cloned().collect()
    }
}

fn endpoints_of(cluster: Cluster) -> Option<String> {
    let Some(ClusterDiscoveryType::Type(kind)) = cluster.cluster_discovery_type else { return None };
    if kind != DiscoveryType::Eds as i32 {
        return None;
    }
    let named = cluster.eds_cluster_config.map(|config| config.service_name).filter(|name| !name.is_empty());
    Some(named.unwrap_or(cluster.name))
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::cluster::v3::cluster::EdsClusterConfig;

    use super::*;

    fn cluster(name: &str, kind: DiscoveryType, service: &str) -> Entry {
        let cluster = Cluster {
            name: name.into(),
            cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind as i32)),
            eds_cluster_config: Some(EdsClusterConfig { service_name: service.into(), ..Default::default() }),
            ..Default::default()
        };
        Entry { name: name.into(), version: "1".into(), body: cluster.encode_to_vec().into() }
    }

    fn change(added: &[&str], dropped: &[&str]) -> Change {
        let names = |list: &[&str]| list.iter().map(|name| Arc::from(*name)).collect();
        Change { added: names(added), dropped: names(dropped) }
    }

    #[test]
    fn endpoints_are_asked_for_as_clusters_come_and_dropped_as_they_go() {
        let mut wanted = Wanted::default();
        let all = [
            cluster("a", DiscoveryType::Eds, ""),
            cluster("b", DiscoveryType::Eds, "other"),
            cluster("c", DiscoveryType::OriginalDst, ""),
        ];
        assert_eq!(wanted.follow(&all, &[]), change(&["a", "other"], &[]));
        assert!(!wanted.complete());
        wanted.seen(["a"].into_iter(), &["other".into()]);
        assert!(wanted.complete());
        assert_eq!(wanted.follow(&all, &[]), Change::default(), "the same again");
        assert!(wanted.complete());
        let gone = wanted.follow(&[cluster("a", DiscoveryType::Static, "")], &["b".into()]);
        assert_eq!(gone, change(&[], &["a", "other"]));
        let unreadable = Entry { name: "a".into(), version: "2".into(), body: vec![0xff].into() };
        assert_eq!(wanted.follow(&[unreadable], &[]), Change::default());
        assert!(wanted.all().is_empty() && wanted.complete());
    }

    #[test]
    fn endpoints_of_two_clusters_are_dropped_with_the_second() {
        let mut wanted = Wanted::default();
        let shared = |name| cluster(name, DiscoveryType::Eds, "one");
        assert_eq!(wanted.follow(&[shared("a"), shared("b")], &[]), change(&["one"], &[]));
        assert_eq!(wanted.follow(&[], &["a".into()]), Change::default());
        // One goes as another comes: nothing is asked for or dropped.
        assert_eq!(wanted.follow(&[shared("c")], &["b".into()]), Change::default());
        assert!(!wanted.complete() && wanted.names("one"));
        assert_eq!(wanted.follow(&[], &["c".into()]), change(&[], &["one"]));
        assert!(wanted.complete());
    }
}
