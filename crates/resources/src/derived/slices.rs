//! EndpointSlices from Services' selectors over Pods.

mod desired;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isthmus_model::{Labels, Namespace, Selector};
use serde_json::Value;

use super::Key;
use crate::convert::SERVICE_NAME_LABEL;
use crate::{Change, Kind, Object, Resource, kubernetes};

/// Label that says whose slices they are; others' are left alone.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const OURS: &str = "endpointslice-controller.isthmus.io";

type Pods = BTreeMap<String, Arc<Resource<kubernetes::Pod>>>;

/// What is there, and which Services have to be looked at.
#[derive(Debug, Default)]
pub struct Slices {
    services: BTreeMap<Key, Arc<Resource<kubernetes::Service>>>,
    pods: BTreeMap<String, Pods>,
    slices: BTreeMap<Key, Arc<Resource<kubernetes::EndpointSlice>>>,
    dirty: BTreeSet<Key>,
}

/// One write.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Create or replace this slice.
    Put(Value),
    /// Delete the slice of this name.
    Delete(Key),
}

fn key(namespace: Option<&Namespace>, name: &str) -> Key {
    (namespace.map(ToString::to_string).unwrap_or_default(), name.to_string())
}

impl Slices {
    /// Takes a change over.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Applied(object) => self.applied(object),
            Change::Removed(kind, namespace, name) => self.removed(kind, &key(namespace.as_ref(), &name)),
            Change::Listed(kind, list) => {
                let gone: Vec<Key> = match kind {
                    Kind::Service => self.services.keys().cloned().collect(),
                    Kind::EndpointSlice => self.slices.keys().cloned().collect(),
                    Kind::Pod => {
                        let of = |(namespace, pods): (&String, &Pods)| {
                            pods.keys().map(|name| (namespace.clone(), name.clone())).collect::<Vec<_>>()
                        };
                        self.pods.iter().flat_map(of).collect()
                    }
                    _ => return,
                };
                gone.iter().for_each(|key| self.removed(kind, key));
                list.into_iter().for_each(|object| self.applied(object));
            }
        }
    }

    fn applied(&mut self, object: Object) {
        match object {
            Object::Service(service) => {
                let key = key(service.meta.namespace.as_ref(), &service.meta.name);
                self.dirty.insert(key.clone());
                self.services.insert(key, service);
            }
            Object::Pod(pod) => {
                let (namespace, name) = key(pod.meta.namespace.as_ref(), &pod.meta.name);
                self.touch(&namespace, &pod.meta.labels);
                let known = self.pods.entry(namespace.clone()).or_default().insert(name, Arc::clone(&pod));
                if let Some(known) = known {
                    self.touch(&namespace, &known.meta.labels);
                }
            }
            Object::EndpointSlice(slice) if slice.meta.labels.get(MANAGED_BY) == Some(OURS) => {
                let place = key(slice.meta.namespace.as_ref(), &slice.meta.name);
                self.touch_owner(&place.0, &slice.meta.labels);
                self.slices.insert(place, slice);
            }
            _ => {}
        }
    }

    fn removed(&mut self, kind: Kind, key: &Key) {
        match kind {
            Kind::Service => {
                self.services.remove(key);
                self.dirty.insert(key.clone());
            }
            Kind::Pod => {
                let known = self.pods.get_mut(&key.0).and_then(|pods| pods.remove(&key.1));
                if let Some(known) = known {
                    self.touch(&key.0, &known.meta.labels);
                }
            }
            Kind::EndpointSlice => {
                if let Some(known) = self.slices.remove(key) {
                    self.touch_owner(&key.0, &known.meta.labels);
                }
            }
            _ => {}
        }
    }

    /// Marks the Services that select these labels.
    fn touch(&mut self, namespace: &str, labels: &Labels) {
        let range = self.services.range((namespace.to_string(), String::new())..);
        let of_namespace = range.take_while(|(key, _)| key.0 == namespace);
        let selecting = of_namespace.filter(|(_, service)| selects(service, labels));
        self.dirty.extend(selecting.map(|(key, _)| key.clone()));
    }

    fn touch_owner(&mut self, namespace: &str, labels: &Labels) {
        if let Some(service) = labels.get(SERVICE_NAME_LABEL) {
            self.dirty.insert((namespace.to_string(), service.to_string()));
        }
    }

    /// What has to be written for one Service.
    #[must_use]
    pub fn plan(&self, service_key: &Key) -> Vec<Action> {
        let none = Pods::new();
        let pods = self.pods.get(&service_key.0).unwrap_or(&none);
        let wanted = match self.services.get(service_key) {
            Some(service) if !service.spec.selector.is_empty() => {
                let chosen = pods.values().filter(|pod| selects(service, &pod.meta.labels));
                desired::slices(service, chosen)
            }
            _ => Vec::new(),
        };
        let mut actions = Vec::new();
        let mut kept = BTreeSet::new();
        for slice in wanted {
            let place = (service_key.0.clone(), slice.name.clone());
            let same = self
                .slices
                .get(&place)
                .is_some_and(|known| known.spec == slice.content && !known.meta.deleting);
            if !same {
                actions.push(Action::Put(slice.object));
            }
            kept.insert(place);
        }
        let of_service = self.slices.iter().filter(|(key, slice)| {
            key.0 == service_key.0 && slice.meta.labels.get(SERVICE_NAME_LABEL) == Some(&*service_key.1)
        });
        let superfluous = of_service.filter(|(key, _)| !kept.contains(*key));
        actions.extend(superfluous.map(|(key, _)| Action::Delete(key.clone())));
        actions
    }

    /// The Services to look at; from now on they count as looked at.
    pub fn take_dirty(&mut self) -> BTreeSet<Key> {
        std::mem::take(&mut self.dirty)
    }

    /// Has these Services looked at again.
    pub fn mark(&mut self, services: impl IntoIterator<Item = Key>) {
        self.dirty.extend(services);
    }

    /// Whether no Service has to be looked at.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.dirty.is_empty()
    }

    /// A slice was written, and is this now.
    pub fn written(&mut self, slice: Arc<Resource<kubernetes::EndpointSlice>>) {
        self.slices.insert(key(slice.meta.namespace.as_ref(), &slice.meta.name), slice);
    }

    /// A slice was deleted.
    pub fn deleted(&mut self, place: &Key) {
        self.slices.remove(place);
    }
}

fn selects(service: &Resource<kubernetes::Service>, labels: &Labels) -> bool {
    let selector = Selector(service.spec.selector.clone());
    !selector.is_empty() && selector.matches(labels)
}

#[cfg(test)]
mod tests;
