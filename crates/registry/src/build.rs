//! Computing what was touched into the next snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isthmus_model::{ClusterId, NetworkId};
use isthmus_resources::{Kind, Object};

use crate::allocate::Allocator;
use crate::config::NamespaceConfig;
use crate::registry::{CONFIG_KINDS, CORE_KINDS, Dirty, Registry};
use crate::snapshot::{
    Changes, Gateways, NamespaceView, PeerView, ServiceKey, Snapshot, Workload, WorkloadKey, WorkloadKind,
};

impl Registry {
    /// The next snapshot: the latest with what was touched computed again. Values that come out equal keep their `Arc`.
    pub(crate) fn build(&mut self) -> (Snapshot, Changes) {
        let dirty = std::mem::take(&mut self.dirty);
        let mut next = (*self.latest).clone();
        let mut changes = Changes::default();
        next.number += 1;
        if dirty.mesh {
            let root = self.mesh.config.root_namespace.as_ref().unwrap_or(&self.settings.system_namespace);
            next.root_namespace = root.clone();
            next.mesh = Arc::clone(&self.mesh);
            changes.mesh = true;
        }
        let mut allocator = std::mem::take(&mut self.allocator);
        for key in &dirty.services {
            self.rebuild_service(key, &mut allocator, &mut next, &mut changes);
        }
        self.allocator = allocator;
        for key in &dirty.workloads {
            self.rebuild_workload(key, &mut next, &mut changes);
        }
        self.rebuild_config(&dirty, &mut next, &mut changes);
        if dirty.gateways {
            let declared = self.declared_gateways();
            let gateways = Gateways { all: self.looked_up(&declared), declared };
            if gateways != *next.gateways {
                next.gateways = Arc::new(gateways);
                changes.networks = true;
            }
        }
        if dirty.knowledge || dirty.gateways {
            self.rebuild_knowledge(&mut next, &mut changes);
        }
        (next, changes)
    }

    fn rebuild_service(
        &self,
        key: &ServiceKey,
        allocator: &mut Allocator,
        next: &mut Snapshot,
        changes: &mut Changes,
    ) {
        let Some((service, endpoints)) = self.merge(key, allocator) else {
            if next.services.remove(key).is_some() {
                changes.services.insert(key.clone());
            }
            if next.endpoints.remove(key).is_some() {
                changes.endpoints.insert(key.clone());
            }
            allocator.release(key.host.as_str());
            return;
        };
        if service.service.auto_addresses.is_empty() || service.imported_from.is_empty() {
            allocator.release(key.host.as_str());
        }
        if next.services.get(key).is_none_or(|old| **old != service) {
            next.services.insert(key.clone(), Arc::new(service));
            changes.services.insert(key.clone());
        }
        if next.endpoints.get(key).is_none_or(|old| **old != *endpoints) {
            next.endpoints.insert(key.clone(), endpoints.into());
            changes.endpoints.insert(key.clone());
        }
    }

    fn rebuild_workload(&self, key: &WorkloadKey, next: &mut Snapshot, changes: &mut Changes) {
        let new = self.read_workload(key);
        let old = next.workloads.get(key).cloned();
        if old.as_deref() == new.as_ref() {
            return;
        }
        match new {
            Some(new) => next.workloads.insert(new),
            None => next.workloads.remove(key),
        }
        changes.workloads.insert(key.clone());
    }

    fn read_workload(&self, key: &WorkloadKey) -> Option<Workload> {
        let tables = self.sources.get(&key.cluster)?;
        let network = self.default_network(&key.cluster);
        let reader = self.reader(&key.cluster, &network);
        match key.kind {
            WorkloadKind::Pod => reader.pod(&key.namespace, tables.pod(&key.namespace, &key.name)?),
            WorkloadKind::Entry => {
                let entry = tables.workload_entry(&key.namespace, &key.name)?;
                Some(reader.entry(&key.namespace, entry))
            }
        }
    }

    fn rebuild_config(&self, dirty: &Dirty, next: &mut Snapshot, changes: &mut Changes) {
        let Some(tables) = self.sources.get(&self.settings.cluster) else {
            for namespace in &dirty.config {
                if next.config.remove(namespace).is_some() {
                    changes.config.insert(namespace.clone());
                }
            }
            for namespace in &dirty.namespaces {
                if next.namespaces.remove(namespace).is_some() {
                    changes.namespaces.insert(namespace.clone());
                }
            }
            return;
        };
        for namespace in &dirty.config {
            let old = next.config.get(namespace).cloned();
            let new = NamespaceConfig::gather(tables, namespace, &self.mesh.config, old.as_deref());
            let unchanged = match &old {
                Some(old) => new.same(old),
                None => new.is_empty(),
            };
            if unchanged {
                continue;
            }
            if new.is_empty() {
                next.config.remove(namespace);
            } else {
                next.config.insert(namespace.clone(), Arc::new(new));
            }
            changes.config.insert(namespace.clone());
        }
        for namespace in &dirty.namespaces {
            let new = tables.namespace(namespace.as_str()).map(|object| NamespaceView {
                labels: object.meta.labels.clone(),
                annotations: object.meta.annotations.clone(),
            });
            if next.namespaces.get(namespace).map(|old| &**old) == new.as_ref() {
                continue;
            }
            match new {
                Some(new) => next.namespaces.insert(namespace.clone(), Arc::new(new)),
                None => next.namespaces.remove(namespace),
            };
            changes.namespaces.insert(namespace.clone());
        }
    }

    fn rebuild_knowledge(&self, next: &mut Snapshot, changes: &mut Changes) {
        let networks: BTreeMap<ClusterId, NetworkId> =
            self.sources.keys().map(|cluster| (cluster.clone(), self.default_network(cluster))).collect();
        if networks != *next.networks {
            next.networks = Arc::new(networks);
            changes.networks = true;
        }
        let peers: BTreeMap<ClusterId, PeerView> = self
            .peers
            .iter()
            .map(|(id, peer)| (id.clone(), PeerView { state: peer.state, services: peer.exports.len() }))
            .collect();
        let synced: BTreeSet<ClusterId> =
            self.sources.keys().filter(|cluster| self.is_synced(cluster)).cloned().collect();
        if peers != *next.peers {
            next.peers = Arc::new(peers);
            changes.knowledge = true;
        }
        if synced != *next.synced {
            next.synced = Arc::new(synced);
            changes.knowledge = true;
        }
    }

    fn is_synced(&self, cluster: &ClusterId) -> bool {
        let tables = &self.sources[cluster];
        let config: &[Kind] = if *cluster == self.settings.cluster { &CONFIG_KINDS } else { &[] };
        CORE_KINDS.iter().chain(config).all(|kind| tables.is_listed(*kind))
    }

    /// A snapshot of the same tables, computed from nothing: what an incremental one must equal. Allocated addresses are taken
    /// from this registry's assignments.
    #[must_use]
    pub fn build_from_scratch(&self) -> Snapshot {
        let mut fresh = Self::new(self.settings.clone()).with_mesh((*self.mesh).clone());
        fresh.named.clone_from(&self.named);
        fresh.allocator.restore(self.allocator.assignments().iter().map(|(host, ip)| (host.clone(), *ip)));
        for (cluster, tables) in &self.sources {
            fresh.sources.insert(cluster.clone(), Default::default());
            let hidden = self.hidden.get(cluster).into_iter().flat_map(BTreeMap::values);
            for object in Kind::ALL.iter().flat_map(|kind| tables.all(*kind)).chain(hidden) {
                fresh.apply(isthmus_resources::Event {
                    cluster: cluster.clone(),
                    change: isthmus_resources::Change::Applied(Object::clone(object)),
                });
            }
            for kind in Kind::ALL.into_iter().filter(|kind| tables.is_listed(*kind)) {
                if let Some(tables) = fresh.sources.get_mut(cluster) {
                    tables.mark_listed(kind);
                }
            }
        }
        fresh.peers = self.peers.clone();
        fresh.dirty.services.extend(self.peers.values().flat_map(|peer| peer.exports.keys().cloned()));
        fresh.build().0
    }
}
