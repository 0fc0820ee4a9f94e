//! The configuration of the mesh itself: which namespaces belong to it, and what changes with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use isthmus_model::{ClusterId, Labels, Namespace};
use isthmus_resources::mesh::{Mesh, MeshConfig};
use isthmus_resources::{Kind, Meta, Object};

use crate::config::is_config;
use crate::registry::Registry;
use crate::snapshot::WorkloadKind;
use crate::tables::{ObjectKey, key_of};

/// Objects of namespaces that the mesh does not discover, as they would be if it did.
pub(crate) type Hidden = BTreeMap<ObjectKey, Object>;

impl Registry {
    /// The same, under the configuration of a mesh.
    #[must_use]
    pub fn with_mesh(mut self, mesh: Mesh) -> Self {
        self.set_mesh(mesh);
        self
    }

    /// Takes over another configuration of the mesh. Nothing is visible before [`Registry::publish`].
    pub fn set_mesh(&mut self, mesh: Mesh) {
        if *self.mesh == mesh {
            return;
        }
        let old = std::mem::replace(&mut self.mesh, Arc::new(mesh));
        self.dirty.mesh = true;
        self.ranges = self.mesh.networks.ranges();
        if old.config.discovery_selectors != self.mesh.config.discovery_selectors {
            self.discover_anew();
        }
        if reading(&old) != reading(&self.mesh) {
            self.touch_all();
        }
    }

    /// Takes an object, or keeps it aside while the mesh does not discover its namespace.
    pub(crate) fn receive(&mut self, cluster: &ClusterId, object: Object) {
        let namespace = match &object {
            Object::Namespace(namespace) => Namespace::new(&*namespace.meta.name).ok(),
            _ => None,
        };
        if self.discovers(cluster, object.meta()) {
            if let Some(hidden) = self.hidden.get_mut(cluster) {
                hidden.remove(&key_of(&object));
            }
            self.put(cluster, object);
        } else {
            let key = key_of(&object);
            self.remove(cluster, &key);
            self.hidden.entry(cluster.clone()).or_default().insert(key, object);
        }
        if let Some(namespace) = namespace {
            self.discover(cluster, &namespace);
        }
    }

    /// An object was deleted.
    pub(crate) fn gone(&mut self, cluster: &ClusterId, key: &ObjectKey) {
        if let Some(hidden) = self.hidden.get_mut(cluster) {
            hidden.remove(key);
        }
        self.remove(cluster, key);
        if key.0 == Kind::Namespace
            && let Ok(namespace) = Namespace::new(&*key.2)
        {
            self.discover(cluster, &namespace);
        }
    }

    /// Whether an object belongs to the mesh by its namespace. One whose namespace is not known yet has no labels.
    fn discovers(&self, cluster: &ClusterId, meta: &Meta) -> bool {
        match &meta.namespace {
            Some(namespace) => self.discovers_namespace(cluster, namespace),
            None => true,
        }
    }

    fn discovers_namespace(&self, cluster: &ClusterId, namespace: &Namespace) -> bool {
        let config = &self.mesh.config;
        if config.discovery_selectors.is_empty() {
            return true;
        }
        let known = self.sources.get(cluster).and_then(|tables| tables.namespace(namespace.as_str()));
        config.discovers(known.map_or(&Labels::default(), |known| &known.meta.labels))
    }

    /// Looks again whether the mesh discovers a namespace, and lets its objects in or out.
    fn discover(&mut self, cluster: &ClusterId, namespace: &Namespace) {
        let hidden = self.hidden.get(cluster).is_some_and(|hidden| !hidden.is_empty());
        if self.mesh.config.discovery_selectors.is_empty() && !hidden {
            return;
        }
        let inside = |object: &Object| object.meta().namespace.as_ref() == Some(namespace);
        if self.discovers_namespace(cluster, namespace) {
            let Some(hidden) = self.hidden.get_mut(cluster) else { return };
            let all = std::mem::take(hidden);
            let (shown, rest): (Hidden, Hidden) = all.into_iter().partition(|(_, object)| inside(object));
            *hidden = rest;
            for object in shown.into_values() {
                self.put(cluster, object);
            }
            return;
        }
        let Some(tables) = self.sources.get(cluster) else { return };
        let all = Kind::ALL.iter().flat_map(|kind| tables.within(*kind, namespace));
        let all: Vec<Object> = all.cloned().collect();
        for object in all {
            let key = key_of(&object);
            self.remove(cluster, &key);
            self.hidden.entry(cluster.clone()).or_default().insert(key, object);
        }
    }

    fn discover_anew(&mut self) {
        let clusters: Vec<ClusterId> = self.sources.keys().cloned().collect();
        for cluster in clusters {
            let tables = &self.sources[&cluster];
            let shown = Kind::ALL.iter().flat_map(|kind| tables.keys(*kind));
            let hidden = self.hidden.get(&cluster).into_iter().flat_map(BTreeMap::keys).cloned();
            let mut namespaces: Vec<Namespace> =
                shown.chain(hidden).filter_map(|(_, namespace, _)| namespace).collect();
            namespaces.sort();
            namespaces.dedup();
            for namespace in namespaces {
                self.discover(&cluster, &namespace);
            }
        }
    }

    /// Everything has to be read anew.
    fn touch_all(&mut self) {
        let clusters: Vec<ClusterId> = self.sources.keys().cloned().collect();
        for cluster in &clusters {
            self.touch_workloads_and_services(cluster);
            let tables = &self.sources[cluster];
            let config = Kind::ALL.into_iter().filter(|kind| is_config(*kind));
            let keys = config.flat_map(|kind| tables.keys(kind));
            self.dirty.config.extend(keys.filter_map(|(_, namespace, _)| namespace));
        }
        self.dirty.services.extend(self.peers.values().flat_map(|peer| peer.exports.keys().cloned()));
        self.dirty.gateways = true;
        self.dirty.knowledge = true;
    }

    /// Marks everything that is read with a cluster's network or trust domain.
    pub(crate) fn touch_workloads_and_services(&mut self, cluster: &ClusterId) {
        let tables = &self.sources[cluster];
        let declared = tables.all(Kind::Service).chain(tables.all(Kind::ServiceEntry));
        let services: Vec<_> = declared.flat_map(|object| self.declared_keys(object)).collect();
        let pods = tables.keys(Kind::Pod).map(|key| (key, WorkloadKind::Pod));
        let entries = tables.keys(Kind::WorkloadEntry).map(|key| (key, WorkloadKind::Entry));
        let workloads: Vec<(ObjectKey, WorkloadKind)> = pods.chain(entries).collect();
        self.dirty.services.extend(services);
        for ((_, namespace, name), kind) in workloads {
            if let Some(namespace) = namespace {
                self.touch_workload(cluster, &namespace, &name, kind);
            }
        }
    }
}

/// What objects are read with; the rest is for translation alone.
fn reading(mesh: &Mesh) -> Mesh {
    let MeshConfig {
        trust_domain,
        service_settings,
        default_service_export_to,
        default_virtual_service_export_to,
        default_destination_rule_export_to,
        ..
    } = mesh.config.clone();
    let config = MeshConfig {
        trust_domain,
        service_settings,
        default_service_export_to,
        default_virtual_service_export_to,
        default_destination_rule_export_to,
        ..MeshConfig::default()
    };
    Mesh { config, networks: mesh.networks.clone() }
}
