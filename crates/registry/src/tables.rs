//! One cluster's objects as its API server reports them, and the indexes over them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isthmus_model::Namespace;
use isthmus_resources::convert::{Lookup, SERVICE_NAME_LABEL};
use isthmus_resources::index::{Keyed, Place};
use isthmus_resources::{Index, Kind, Object, Resource, istio, kubernetes};

/// Kind, namespace and name of an object.
pub(crate) type ObjectKey = (Kind, Option<Namespace>, Arc<str>);

/// One cluster's objects.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    objects: BTreeMap<Kind, Index<Object>>,
    listed: BTreeSet<Kind>,
    pod_uses: Index<PodUse>,
    slices: Index<OfService>,
    pods_on: Index<OnNode>,
}

/// A slice of a service; the place is namespace, service, slice.
#[derive(Debug)]
struct OfService(Arc<Resource<kubernetes::EndpointSlice>>);

impl Keyed for OfService {
    fn key(&self) -> Place<'_> {
        let meta = &self.0.meta;
        [meta.namespace_str(), meta.labels.get(SERVICE_NAME_LABEL).unwrap_or_default(), &meta.name]
    }
}

/// A Pod that a slice names; the place is namespace, pod, slice.
#[derive(Debug)]
struct PodUse {
    slice: Arc<Resource<kubernetes::EndpointSlice>>,
    endpoint: u32,
}

impl Keyed for PodUse {
    fn key(&self) -> Place<'_> {
        let endpoint = self.slice.spec.endpoints.get(self.endpoint as usize);
        let pod = endpoint.and_then(|endpoint| endpoint.pod.as_ref()).map_or("", |(_, pod)| pod);
        [self.slice.meta.namespace_str(), pod, &self.slice.meta.name]
    }
}

/// A Pod of a node; the place is node, namespace, pod.
#[derive(Debug)]
struct OnNode(Arc<Resource<kubernetes::Pod>>);

impl Keyed for OnNode {
    fn key(&self) -> Place<'_> {
        [&self.0.spec.node, self.0.meta.namespace_str(), &self.0.meta.name]
    }
}

macro_rules! typed {
    ($get:ident, $all:ident, $kind:ident, $content:ty) => {
        pub(crate) fn $get(&self, namespace: &Namespace, name: &str) -> Option<&Arc<Resource<$content>>> {
            match self.objects.get(&Kind::$kind)?.get([namespace.as_str(), name, ""])? {
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
        let old = self.objects.entry(object.kind()).or_default().insert(object.clone());
        if let Some(old) = &old {
            self.unindex(old);
        }
        self.index(&object);
        old
    }

    /// Takes an object away.
    pub(crate) fn take(&mut self, (kind, namespace, name): &ObjectKey) -> Option<Object> {
        let place = [namespace.as_ref().map_or("", Namespace::as_str), name, ""];
        let old = self.objects.get_mut(kind)?.remove(place)?;
        self.unindex(&old);
        Some(old)
    }

    /// The complete list of a kind is there: no room is kept for more.
    pub(crate) fn compact(&mut self, kind: Kind) {
        if let Some(objects) = self.objects.get_mut(&kind) {
            objects.compact();
        }
        match kind {
            Kind::Pod => self.pods_on.compact(),
            Kind::EndpointSlice => {
                self.pod_uses.compact();
                self.slices.compact();
            }
            _ => {}
        }
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
    pub(crate) fn keys(&self, kind: Kind) -> impl Iterator<Item = ObjectKey> {
        self.all(kind).map(key_of)
    }

    /// All objects of a kind.
    pub(crate) fn all(&self, kind: Kind) -> impl Iterator<Item = &Object> {
        self.objects.get(&kind).into_iter().flat_map(Index::iter)
    }

    /// All objects of a kind in one namespace.
    pub(crate) fn within(&self, kind: Kind, namespace: &Namespace) -> impl Iterator<Item = &Object> {
        let objects = self.objects.get(&kind).into_iter();
        let namespace = namespace.clone();
        objects
            .flat_map({
                let namespace = namespace.clone();
                move |objects| objects.from([namespace.as_str(), "", ""])
            })
            .take_while(move |object| object.meta().namespace.as_ref() == Some(&namespace))
    }

    /// A namespace.
    pub(crate) fn namespace(&self, name: &str) -> Option<&Arc<Resource<kubernetes::Namespace>>> {
        match self.objects.get(&Kind::Namespace)?.get(["", name, ""])? {
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
        service: &str,
    ) -> impl Iterator<Item = &Arc<Resource<kubernetes::EndpointSlice>>> {
        let found = self.slices.from([namespace.as_str(), service, ""]);
        found.take_while(move |one| one.key()[..2] == [namespace.as_str(), service]).map(|one| &one.0)
    }

    /// Services whose slices name a Pod.
    pub(crate) fn services_with_pod(&self, namespace: &Namespace, pod: &str) -> BTreeSet<Arc<str>> {
        self.pod_uses
            .from([namespace.as_str(), pod, ""])
            .take_while(|one| one.key()[..2] == [namespace.as_str(), pod])
            .filter_map(|one| service_of(&one.slice))
            .collect()
    }

    /// Pods of a node.
    pub(crate) fn pods_on(&self, node: &str) -> Vec<(Namespace, Arc<str>)> {
        self.pods_on
            .from([node, "", ""])
            .take_while(|one| *one.0.spec.node == *node)
            .filter_map(|one| Some((one.0.meta.namespace.clone()?, Arc::clone(&one.0.meta.name))))
            .collect()
    }

    fn index(&mut self, object: &Object) {
        match object {
            Object::EndpointSlice(slice) if service_of(slice).is_some() => {
                self.slices.insert(OfService(Arc::clone(slice)));
                for pod_use in pod_uses(slice) {
                    self.pod_uses.insert(pod_use);
                }
            }
            Object::Pod(pod) => {
                self.pods_on.insert(OnNode(Arc::clone(pod)));
            }
            _ => {}
        }
    }

    fn unindex(&mut self, object: &Object) {
        match object {
            Object::EndpointSlice(slice) if service_of(slice).is_some() => {
                self.slices.remove(OfService(Arc::clone(slice)).key());
                for pod_use in pod_uses(slice) {
                    self.pod_uses.remove(pod_use.key());
                }
            }
            Object::Pod(pod) => {
                self.pods_on.remove(OnNode(Arc::clone(pod)).key());
            }
            _ => {}
        }
    }
}

impl Lookup for Tables {
    fn pod(&self, namespace: &str, name: &str) -> Option<&Resource<kubernetes::Pod>> {
        match self.objects.get(&Kind::Pod)?.get([namespace, name, ""])? {
            Object::Pod(pod) => Some(pod),
            _ => None,
        }
    }

    fn node(&self, name: &str) -> Option<&Resource<kubernetes::Node>> {
        match self.objects.get(&Kind::Node)?.get(["", name, ""])? {
            Object::Node(node) => Some(node),
            _ => None,
        }
    }
}

/// Kind, namespace and name of an object.
pub(crate) fn key_of(object: &Object) -> ObjectKey {
    let meta = object.meta();
    (object.kind(), meta.namespace.clone(), Arc::clone(&meta.name))
}

/// The service that a slice belongs to.
pub(crate) fn service_of(slice: &Resource<kubernetes::EndpointSlice>) -> Option<Arc<str>> {
    slice.meta.labels.get(SERVICE_NAME_LABEL).map(Arc::from)
}

fn pod_uses(slice: &Arc<Resource<kubernetes::EndpointSlice>>) -> impl Iterator<Item = PodUse> {
    let endpoints = (0..).zip(&slice.spec.endpoints).filter(|(_, endpoint)| endpoint.pod.is_some());
    endpoints.map(|(endpoint, _)| PodUse { slice: Arc::clone(slice), endpoint })
}
