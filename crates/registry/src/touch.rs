//! What an object is part of, and must be computed again with it.

use std::sync::Arc;

use isthmus_model::{ClusterId, Namespace};
use isthmus_resources::Object;
use isthmus_resources::convert::workload_labels;

use crate::config::is_config;
use crate::merge::entry_keys;
use crate::registry::Registry;
use crate::snapshot::{ServiceKey, WorkloadKey, WorkloadKind};
use crate::tables::service_of;
use crate::workload::label_network;

impl Registry {
    /// Marks everything that an object is part of.
    pub(crate) fn touch(&mut self, cluster: &ClusterId, object: &Object) {
        let own = *cluster == self.settings.cluster;
        let meta = object.meta();
        let Some(namespace) = meta.namespace.clone() else {
            match object {
                Object::Namespace(_) => self.touch_namespace(cluster, &meta.name),
                Object::Node(_) => {
                    // gateways by node port are at nodes' addresses
                    self.dirty.gateways = true;
                    let pods = self.sources[cluster].pods_on(&meta.name);
                    for (namespace, pod) in pods {
                        self.touch_pod(cluster, &namespace, &pod);
                    }
                }
                _ => {}
            }
            return;
        };
        match object {
            Object::Service(service) => {
                self.dirty.services.extend(self.kubernetes_key(&meta.name, &namespace));
                self.dirty.gateways |=
                    label_network(&service.meta.labels).is_some() || !self.mesh.networks.0.is_empty();
            }
            Object::EndpointSlice(slice) => {
                let service = service_of(slice);
                self.dirty
                    .services
                    .extend(service.and_then(|service| self.kubernetes_key(&service, &namespace)));
            }
            Object::Pod(pod) => {
                self.touch_pod(cluster, &namespace, &meta.name);
                self.dirty.services.extend(self.selecting(cluster, &namespace, &pod.meta.labels, false));
            }
            Object::WorkloadEntry(entry) => {
                let labels = workload_labels(meta, &entry.spec);
                self.dirty.services.extend(self.selecting(cluster, &namespace, &labels, true));
                self.touch_workload(cluster, &namespace, &meta.name, WorkloadKind::Entry);
            }
            Object::ServiceEntry(entry) if own => self.dirty.services.extend(entry_keys(entry)),
            _ if own && is_config(object.kind()) => {
                self.dirty.config.insert(namespace);
            }
            _ => {}
        }
    }

    fn touch_pod(&mut self, cluster: &ClusterId, namespace: &Namespace, pod: &Arc<str>) {
        self.touch_workload(cluster, namespace, pod, WorkloadKind::Pod);
        let tables = &self.sources[cluster];
        let services = tables.services_with_pod(namespace, pod);
        let labels = tables.pod(namespace, pod).map(|pod| pod.meta.labels.clone()).unwrap_or_default();
        let keys: Vec<_> =
            services.iter().filter_map(|service| self.kubernetes_key(service, namespace)).collect();
        self.dirty.services.extend(keys);
        self.dirty.services.extend(self.selecting(cluster, namespace, &labels, false));
    }

    pub(crate) fn touch_workload(
        &mut self,
        cluster: &ClusterId,
        namespace: &Namespace,
        name: &Arc<str>,
        kind: WorkloadKind,
    ) {
        let (cluster, namespace) = (cluster.clone(), namespace.clone());
        self.dirty.workloads.insert(WorkloadKey { cluster, namespace, name: Arc::clone(name), kind });
    }

    fn touch_namespace(&mut self, cluster: &ClusterId, name: &str) {
        let Ok(namespace) = Namespace::new(name) else { return };
        let services: Vec<ServiceKey> = self.sources[cluster]
            .services(&namespace)
            .filter_map(|service| self.kubernetes_key(&service.meta.name, &namespace))
            .collect();
        self.dirty.services.extend(services);
        if *cluster == self.settings.cluster {
            self.dirty.namespaces.insert(namespace);
        }
    }

    /// A change of the system namespace's network label moves every workload of the cluster.
    pub(crate) fn touch_network(&mut self, cluster: &ClusterId, old: Option<&Object>, new: Option<&Object>) {
        let network = |object: Option<&Object>| match object {
            Some(Object::Namespace(object))
                if *object.meta.name == *self.settings.system_namespace.as_str() =>
            {
                label_network(&object.meta.labels)
            }
            _ => None,
        };
        if network(old) == network(new) {
            return;
        }
        self.touch_workloads_and_services(cluster);
        self.dirty.gateways = true;
        self.dirty.knowledge = true;
    }

    /// The services that an object declares.
    pub(crate) fn declared_keys(&self, object: &Object) -> Vec<ServiceKey> {
        match object {
            Object::Service(service) => {
                let namespace = service.meta.namespace.as_ref();
                let key = namespace.and_then(|own| self.kubernetes_key(&service.meta.name, own));
                key.into_iter().collect()
            }
            Object::ServiceEntry(entry) => entry_keys(entry),
            _ => Vec::new(),
        }
    }
}
