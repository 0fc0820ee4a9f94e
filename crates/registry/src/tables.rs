//! One cluster's objects as its API server reports them, and the indexes over them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isthmus_model::Namespace;
use isthmus_resources::convert::{Lookup, SERVICE_NAME_LABEL};
use isthmus_resources::{Kind, Object, Resource, istio, kubernetes};

/// Kind, namespace and name of an object.
pub(crate) type ObjectKey = (Kind, Option<Namespace>, Arc<str>);

/// A Pod named by a slice of a service: namespace, pod, service, slice.
type PodUse = (Namespace, Arc<str>, Arc<str>, Arc<str>);

/// One cluster's objects.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    objects: BTreeMap<ObjectKey, Object>,
    listed: BTreeSet<Kind>,
    pod_uses: BTreeSet<PodUse>,
    slices: BTreeSet<(Namespace, Arc<str>, Arc<str>)>,
    pods_on: BTreeSet<(Arc<str>, Namespace, Arc<str>)>,
}

macro_rules! typed {
    ($get:ident, $all:ident, $kind:ident, $content:ty) => {
        pub(crate) fn $get(&self, namespace: &Namespace, name: &str) -> Option<&Arc<Resource<$content>>> {
            match self.objects.get(&(Kind::$kind, Some(namespace.clone()), Arc::from(name)))? {
                Object::$kind(object) => Some(object),
                _ => None,
            }
        }

        pub(crate) fn $all(&self, namespace: &Namespace) -> impl Iterator<Item = &Arc<Resource<$content>>> {
            self.within(Kind::$kind, namespace).filter_map(|object| match object {
                Object::$kind(object) => Some(object),
                _ => None,
            })
        }
    };
}

impl Tables {
    typed!(service, services, Service, kubernetes::Service);
    typed!(pod, pods, Pod, kubernetes::Pod);
    typed!(workload_entry, workload_entries, WorkloadEntry, istio::WorkloadEntry);

    /// Puts an object, and returns the one that it replaces.
    pub(crate) fn put(&mut self, object: Object) -> Option<Object> {
        let meta = object.meta();
        let key = (object.kind(), meta.namespace.clone(), Arc::clone(&meta.name));
        let old = self.objects.insert(key, object.clone());
        if let Some(old) = &old {
            self.unindex(old);
        }
        self.index(&object);
        old
    }

    /// Takes an object away.
    pub(crate) fn take(&mut self, key: &ObjectKey) -> Option<Object> {
        let old = self.objects.remove(key)?;
        self.unindex(&old);
        Some(old)
    }

    /// Notes that the complete list of a kind was seen; true the first time.
    pub(crate) fn mark_listed(&mut self, kind: Kind) -> bool {
        self.listed.insert(kind)
    }

    /// Whether the complete list of a kind was ever seen.
    pub(crate) fn is_listed(&self, kind: Kind) -> bool {
        self.listed.contains(&kind)
    }

    /// All keys of a kind.
    pub(crate) fn keys(&self, kind: Kind) -> impl Iterator<Item = &ObjectKey> {
        self.objects
            .range((kind, None, Arc::from(""))..)
            .map(|(key, _)| key)
            .take_while(move |key| key.0 == kind)
    }

    /// All objects of a kind.
    pub(crate) fn all(&self, kind: Kind) -> impl Iterator<Item = &Object> {
        self.objects
            .range((kind, None, Arc::from(""))..)
            .take_while(move |(key, _)| key.0 == kind)
            .map(|(_, object)| object)
    }

    /// All objects of a kind in one namespace.
    pub(crate) fn within(&self, kind: Kind, namespace: &Namespace) -> impl Iterator<Item = &Object> {
        let namespace = namespace.clone();
        self.objects
            .range((kind, Some(namespace.clone()), Arc::from(""))..)
            .take_while(move |(key, _)| key.0 == kind && key.1.as_ref() == Some(&namespace))
            .map(|(_, object)| object)
    }

    /// A namespace.
    pub(crate) fn namespace(&self, name: &str) -> Option<&Arc<Resource<kubernetes::Namespace>>> {
        match self.objects.get(&(Kind::Namespace, None, Arc::from(name)))? {
            Object::Namespace(object) => Some(object),
            _ => None,
        }
    }

    /// All nodes.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Resource<kubernetes::Node>> {
        self.all(Kind::Node).filter_map(|object| match object {
            Object::Node(node) => Some(&**node),
            _ => None,
        })
    }

    /// Slices of a service.
    pub(crate) fn slices(
        &self,
        namespace: &Namespace,
        service: &Arc<str>,
    ) -> impl Iterator<Item = &Arc<Resource<kubernetes::EndpointSlice>>> {
        let (namespace, service) = (namespace.clone(), Arc::clone(service));
        self.slices
            .range((namespace.clone(), Arc::clone(&service), Arc::from(""))..)
            .take_while(move |entry| entry.0 == namespace && entry.1 == service)
            .filter_map(|(namespace, _, slice)| {
                match self.objects.get(&(Kind::EndpointSlice, Some(namespace.clone()), Arc::clone(slice)))? {
                    Object::EndpointSlice(slice) => Some(slice),
                    _ => None,
                }
            })
    }

    /// Services whose slices name a Pod.
    pub(crate) fn services_with_pod(&self, namespace: &Namespace, pod: &Arc<str>) -> BTreeSet<Arc<str>> {
        self.pod_uses
            .range((namespace.clone(), Arc::clone(pod), Arc::from(""), Arc::from(""))..)
            .take_while(|entry| entry.0 == *namespace && entry.1 == *pod)
            .map(|entry| Arc::clone(&entry.2))
            .collect()
    }

    /// Pods of a node.
    pub(crate) fn pods_on(&self, node: &Arc<str>) -> Vec<(Namespace, Arc<str>)> {
        let lowest = (Arc::clone(node), crate::lowest_namespace(), Arc::from(""));
        self.pods_on
            .range(lowest..)
            .take_while(|entry| entry.0 == *node)
            .map(|entry| (entry.1.clone(), Arc::clone(&entry.2)))
            .collect()
    }

    fn index(&mut self, object: &Object) {
        let Some(namespace) = object.meta().namespace.clone() else { return };
        match object {
            Object::EndpointSlice(slice) => {
                let Some(service) = service_of(slice) else { return };
                self.slices.insert((namespace.clone(), Arc::clone(&service), Arc::clone(&slice.meta.name)));
                self.pod_uses.extend(pod_uses(&namespace, &service, slice));
            }
            Object::Pod(pod) => {
                let node = Arc::clone(&pod.spec.node);
                self.pods_on.insert((node, namespace, Arc::clone(&pod.meta.name)));
            }
            _ => {}
        }
    }

    fn unindex(&mut self, object: &Object) {
        let Some(namespace) = object.meta().namespace.clone() else { return };
        match object {
            Object::EndpointSlice(slice) => {
                let Some(service) = service_of(slice) else { return };
                self.slices.remove(&(namespace.clone(), Arc::clone(&service), Arc::clone(&slice.meta.name)));
                for pod_use in pod_uses(&namespace, &service, slice) {
                    self.pod_uses.remove(&pod_use);
                }
            }
            Object::Pod(pod) => {
                let node = Arc::clone(&pod.spec.node);
                self.pods_on.remove(&(node, namespace, Arc::clone(&pod.meta.name)));
            }
            _ => {}
        }
    }
}

impl Lookup for Tables {
    fn pod(&self, namespace: &str, name: &str) -> Option<&Resource<kubernetes::Pod>> {
        Self::pod(self, &Namespace::new(namespace).ok()?, name).map(|pod| &**pod)
    }

    fn node(&self, name: &str) -> Option<&Resource<kubernetes::Node>> {
        match self.objects.get(&(Kind::Node, None, Arc::from(name)))? {
            Object::Node(node) => Some(node),
            _ => None,
        }
    }
}

/// The service that a slice belongs to.
pub(crate) fn service_of(slice: &Resource<kubernetes::EndpointSlice>) -> Option<Arc<str>> {
    slice.meta.labels.get(SERVICE_NAME_LABEL).map(Arc::from)
}

fn pod_uses(
    namespace: &Namespace,
    service: &Arc<str>,
    slice: &Resource<kubernetes::EndpointSlice>,
) -> Vec<PodUse> {
    let pods = slice.spec.endpoints.iter().filter_map(|endpoint| endpoint.pod.as_ref());
    pods.map(|(_, pod)| {
        (namespace.clone(), Arc::clone(pod), Arc::clone(service), Arc::clone(&slice.meta.name))
    })
    .collect()
}
