//! Which Gateway objects ask for what an older one has, by the objects alone: every replica finds the same, whichever gateways are
//! connected to it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use isthmus_model::{Labels, Namespace, Selector};
use isthmus_registry::Snapshot;
use isthmus_resources::Resource;
use isthmus_resources::istio::Gateway;

use super::plan::Plan;

/// Servers that are left out because an older Gateway object has their port or host: messages by namespace and name of the object.
pub type Conflicts = BTreeMap<(Namespace, Arc<str>), Vec<String>>;

/// The Gateway objects of a snapshot that lose to older ones, on some gateway: a Pod or WorkloadEntry that a selector chooses and, for a
/// selector that chooses none, one that would have its labels alone.
#[must_use]
pub fn gateway_conflicts(snapshot: &Snapshot) -> Conflicts {
    let objects = snapshot
        .config
        .iter()
        .flat_map(|(namespace, config)| config.gateways.iter().map(move |object| (namespace, object)));
    let objects: Vec<(&Namespace, &Arc<Resource<Gateway>>)> = objects.collect();
    let servers: usize = objects.iter().map(|(_, object)| object.spec.servers.len()).sum();
    let mut found = Conflicts::new();
    if servers < 2 {
        return found;
    }
    let mut seen: BTreeMap<(&Namespace, &str), BTreeSet<String>> = BTreeMap::new();
    for (namespace, labels) in gateways(snapshot, &objects) {
        for lost in
            Plan::of_gateways(snapshot, &namespace, &labels).lost.into_iter().filter(|lost| lost.by_conflict)
        {
            let object =
                objects.iter().find(|(own, object)| **own == lost.namespace && object.meta.name == lost.name);
            let Some((own, object)) = object else { continue };
            // Many gateways find the same.
            if seen.entry((own, &object.meta.name)).or_default().insert(lost.message.clone()) {
                found.entry((lost.namespace, lost.name)).or_default().push(lost.message);
            }
        }
    }
    found
}

/// Namespaces and labels of gateways.
fn gateways(
    snapshot: &Snapshot,
    objects: &[(&Namespace, &Arc<Resource<Gateway>>)],
) -> HashSet<(Namespace, Labels)> {
    let mut selectors: Vec<(Selector, &Namespace, bool)> = Vec::new();
    for (namespace, object) in objects {
        let selector = Selector(object.spec.selector.clone());
        if !selectors.iter().any(|(known, ..)| *known == selector) {
            selectors.push((selector, namespace, false));
        }
    }
    let mut found = HashSet::new();
    for workload in snapshot.workloads.iter() {
        let mut chosen = false;
        // One that chooses everything says nothing about who is a gateway.
        for (selector, _, chooses) in selectors.iter_mut().filter(|(selector, ..)| !selector.is_empty()) {
            if selector.matches(&workload.labels) {
                (*chooses, chosen) = (true, true);
            }
        }
        if chosen {
            found.insert((workload.key.namespace.clone(), workload.labels.clone()));
        }
    }
    let alone = selectors.into_iter().filter(|(.., chooses)| !chooses);
    found.extend(alone.map(|(selector, namespace, _)| (namespace.clone(), selector.0)));
    found
}
