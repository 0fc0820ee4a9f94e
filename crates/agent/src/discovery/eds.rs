//! Which endpoints to ask for: those that the clusters in force name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use prost::Message;

use crate::cache::Entry;

/// Endpoint names by cluster, and which of them the control plane has told.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    by_cluster: BTreeMap<Arc<str>, String>,
    seen: BTreeSet<String>,
}

/// What to ask for and what to drop.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) added: Vec<String>,
    pub(super) dropped: Vec<String>,
}

impl Wanted {
    /// Follows a change of clusters. One that cannot be read keeps what it named.
    pub(super) fn follow(&mut self, upserts: &[Entry], removed: &[Arc<str>]) -> Change {
        let before = self.names().into_iter().collect::<BTreeSet<_>>();
        for name in removed {
            self.by_cluster.remove(name);
        }
        for entry in upserts {
            let Ok(cluster) = Cluster::decode(entry.body.clone()) else { continue };
            match endpoints_of(cluster) {
                Some(endpoints) => drop(self.by_cluster.insert(entry.name.as_str().into(), endpoints)),
                None => drop(self.by_cluster.remove(entry.name.as_str())),
            }
        }
        let after = self.names().into_iter().collect::<BTreeSet<_>>();
        let dropped: Vec<String> = before.difference(&after).cloned().collect();
        for name in &dropped {
            self.seen.remove(name);
        }
        Change { added: after.difference(&before).cloned().collect(), dropped }
    }

    /// The control plane told of these, be it that they do not exist.
    pub(super) fn seen<'a>(&mut self, upserts: impl Iterator<Item = &'a str>, removed: &[Arc<str>]) {
        self.seen.extend(upserts.map(str::to_string));
        self.seen.extend(removed.iter().map(|name| name.to_string()));
    }

    /// Whether all have been told.
    pub(super) fn complete(&self) -> bool {
        self.by_cluster.values().all(|name| self.seen.contains(name))
    }

    /// All names, without doubles.
    pub(super) fn names(&self) -> Vec<String> {
        self.by_cluster.values().cloned().collect::<BTreeSet<_>>().into_iter().collect()
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

    #[test]
    fn endpoints_are_asked_for_as_clusters_come_and_dropped_as_they_go() {
        let mut wanted = Wanted::default();
        let change = wanted.follow(
            &[
                cluster("a", DiscoveryType::Eds, ""),
                cluster("b", DiscoveryType::Eds, "other"),
                cluster("c", DiscoveryType::OriginalDst, ""),
            ],
            &[],
        );
        assert_eq!(change, Change { added: vec!["a".into(), "other".into()], dropped: vec![] });
        assert!(!wanted.complete());
        wanted.seen(["a"].into_iter(), &["other".into()]);
        assert!(wanted.complete());
        let change = wanted.follow(&[cluster("a", DiscoveryType::Static, "")], &["b".into()]);
        assert_eq!(change, Change { added: vec![], dropped: vec!["a".into(), "other".into()] });
        let unreadable = Entry { name: "a".into(), version: "2".into(), body: vec![0xff].into() };
        assert_eq!(wanted.follow(&[unreadable], &[]), Change::default());
    }
}
