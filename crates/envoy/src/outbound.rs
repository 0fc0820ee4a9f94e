//! Everything that one class of sidecars gets about services: a fragment for each service, joined.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use isthmus_proto::resource::{Resource, ResourceSet};
use isthmus_registry::{MeshService, ServiceKey, Snapshot};

use crate::class::Class;
use crate::cluster::Use;
use crate::config::Config;
use crate::encoded::{Encoded, Inputs, inputs, targets};
use crate::listener::outbound::virtual_outbound;
use crate::lists::{kept, kept_set};
use crate::names;
use crate::scope::Scope;
use crate::settings::{MeshSettings, OutboundPolicy};

/// What one class gets.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) clusters: Arc<Vec<Resource>>,
    pub(crate) listeners: Arc<Vec<Resource>>,
    pub(crate) endpoints: Arc<ResourceSet>,
    pub(crate) names: Arc<ResourceSet>,
    /// In the order of hosts.
    fragments: Vec<Arc<Fragment>>,
    /// Where each service's fragment is.
    positions: Arc<HashMap<ServiceKey, usize>>,
    unknown: OutboundPolicy,
}

/// What one service adds, and what that depended on.
#[derive(Debug)]
struct Fragment {
    inputs: Inputs,
    clusters: Vec<Resource>,
    endpoints: Vec<Resource>,
    listeners: Vec<Resource>,
    names: names::Entries,
}

/// What translation reads, beside the class.
pub(crate) struct Source<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) settings: &'a MeshSettings,
    pub(crate) config: &'a Config,
}

impl Outbound {
    /// The resources of a class. `old` is what the class had, with its snapshot: fragments whose inputs are the same are taken over,
    /// and so are whole lists; where nothing but endpoints changed, only those services are looked at.
    pub(crate) fn build(
        source: &Source<'_>,
        class: &Class,
        encoded: &mut Encoded,
        old: Option<(&Self, &Snapshot)>,
    ) -> Self {
        if let Some((old, before)) = old
            && same_but_endpoints(before, source.snapshot)
        {
            return old.with_endpoints(source, before, class, encoded);
        }
        let old = old.map(|(old, _)| old);
        let snapshot = source.snapshot;
        let domain: Arc<str> = source.settings.domain.as_str().into();
        let scope = Scope::of(snapshot, class);
        let mut fragments = Vec::new();
        let mut positions = HashMap::new();
        for service in snapshot.visible(&class.namespace).into_iter().filter(|service| scope.sees(service)) {
            let key = service.key();
            let inputs = inputs(snapshot, class, service, source.config, &domain);
            let known = old.and_then(|old| Some(&old.fragments[*old.positions.get(&key)?]));
            let fragment = match known {
                Some(known) if known.inputs.same(&inputs) => Arc::clone(known),
                _ => Arc::new(Fragment::build(snapshot, class, inputs, encoded, &domain)),
            };
            positions.insert(key, fragments.len());
            fragments.push(fragment);
        }
        let unknown = scope.unknown(source.settings.outbound_policy);
        Self::join(fragments, Arc::new(positions), unknown, class, old)
    }

    /// The same services with other endpoints.
    fn with_endpoints(
        &self,
        source: &Source<'_>,
        before: &Snapshot,
        class: &Class,
        encoded: &mut Encoded,
    ) -> Self {
        let domain: Arc<str> = source.settings.domain.as_str().into();
        let mut fragments = self.fragments.clone();
        for key in source.snapshot.endpoints.changed(&before.endpoints, Arc::ptr_eq) {
            let Some(position) = self.positions.get(&key) else { continue };
            let service = Arc::clone(&fragments[*position].inputs.service);
            let inputs = inputs(source.snapshot, class, &service, source.config, &domain);
            fragments[*position] =
                Arc::new(Fragment::build(source.snapshot, class, inputs, encoded, &domain));
        }
        Self::join(fragments, Arc::clone(&self.positions), self.unknown, class, Some(self))
    }

    /// The lists of these fragments; a list to which no fragment adds anything new is the old one.
    fn join(
        fragments: Vec<Arc<Fragment>>,
        positions: Arc<HashMap<ServiceKey, usize>>,
        unknown: OutboundPolicy,
        class: &Class,
        old: Option<&Self>,
    ) -> Self {
        let old = old.filter(|old| old.unknown == unknown);
        let changed: Option<Vec<(&Arc<Fragment>, &Arc<Fragment>)>> =
            old.filter(|old| old.fragments.len() == fragments.len()).map(|old| {
                let pairs = old.fragments.iter().zip(&fragments);
                pairs.filter(|(before, after)| !Arc::ptr_eq(before, after)).collect()
            });
        let unchanged = |same: &dyn Fn(&Fragment, &Fragment) -> bool| {
            let all_same = changed.as_ref()?.iter().all(|(before, after)| same(before, after));
            old.filter(|_| all_same)
        };
        let all = |part: fn(&Fragment) -> &Vec<Resource>| -> Vec<Resource> {
            fragments.iter().flat_map(|fragment| part(fragment).iter().cloned()).collect()
        };
        let clusters = match unchanged(&|a, b| a.clusters == b.clusters) {
            Some(old) => Arc::clone(&old.clusters),
            None => kept(old.map(|old| &old.clusters), all(|fragment| &fragment.clusters)),
        };
        let endpoints = match unchanged(&|a, b| a.endpoints == b.endpoints) {
            Some(old) => Arc::clone(&old.endpoints),
            None => kept_set(old.map(|old| &old.endpoints), all(|fragment| &fragment.endpoints)),
        };
        let same_listeners = |a: &Fragment, b: &Fragment| {
            a.listeners == b.listeners && a.inputs.service.service.created == b.inputs.service.service.created
        };
        let listeners = match unchanged(&same_listeners) {
            Some(old) => Arc::clone(&old.listeners),
            None => {
                let mut listeners = without_conflicts(&fragments);
                listeners.push(virtual_outbound(unknown, class.ipv4));
                kept(old.map(|old| &old.listeners), listeners)
            }
        };
        let names = match unchanged(&|a, b| a.names == b.names) {
            Some(old) => Arc::clone(&old.names),
            None => {
                let table = names::table(fragments.iter().flat_map(|fragment| &fragment.names));
                kept_set(old.map(|old| &old.names), vec![table])
            }
        };
        Self { clusters, listeners, endpoints, names, fragments, positions, unknown }
    }
}

/// Whether nothing that a class sees of services can differ but endpoints.
pub(crate) fn same_but_endpoints(a: &Snapshot, b: &Snapshot) -> bool {
    a.services.same(&b.services) && a.config.same(&b.config) && Arc::ptr_eq(&a.gateways, &b.gateways)
}

/// Of several services with one address and port the oldest stays (Istio's rule).
fn without_conflicts(fragments: &[Arc<Fragment>]) -> Vec<Resource> {
    let mut chosen: BTreeMap<Arc<str>, (i64, &MeshService, &Resource)> = BTreeMap::new();
    for fragment in fragments {
        let service = &*fragment.inputs.service;
        for listener in &fragment.listeners {
            let mine = (service.service.created, service, listener);
            match chosen.get(&listener.name) {
                Some((created, kept, _)) if *created <= mine.0 => {
                    tracing::debug!(listener = %listener.name, kept = %kept.service.host, dropped = %service.service.host, "two services share an address and port");
                }
                _ => {
                    chosen.insert(Arc::clone(&listener.name), mine);
                }
            }
        }
    }
    chosen.into_values().map(|(_, _, listener)| listener.clone()).collect()
}

impl Fragment {
    fn build(
        snapshot: &Snapshot,
        class: &Class,
        inputs: Inputs,
        encoded: &mut Encoded,
        domain: &str,
    ) -> Self {
        let service = Arc::clone(&inputs.service);
        let mut clusters = Vec::new();
        let mut endpoints = Vec::new();
        let rule = inputs.rule.clone();
        for target in targets(&service, rule.as_deref(), Use::Client) {
            let (cluster, assignment) = encoded.target(target, &inputs, class);
            clusters.push(cluster);
            endpoints.extend(assignment);
        }
        Self {
            clusters,
            endpoints,
            listeners: encoded.service_listeners(class, &inputs),
            names: names::entries(snapshot, class, &service, &inputs.endpoints, domain),
            inputs,
        }
    }
}
