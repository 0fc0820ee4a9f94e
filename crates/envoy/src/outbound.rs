//! Everything that one class of sidecars gets about services: a fragment for each service, joined.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use isthmus_proto::resource::{Resource, ResourceSet};
use isthmus_registry::{MeshService, ServiceKey, Snapshot};

use crate::access_log::AccessLog;
use crate::class::Class;
use crate::cluster::Use;
use crate::config::Config;
use crate::encoded::{Encoded, Inputs, inputs, targets};
use crate::listener::open::{self, Open};
use crate::listener::outbound::virtual_outbound;
use crate::lists::{kept, kept_set};
use crate::names;
use crate::routes::Routes;
use crate::scope::{Scope, Seen};
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
    /// Chains of listeners that it shares with others.
    open: Vec<Open>,
    names: names::Entries,
}

/// What translation reads, beside the class.
pub(crate) struct Source<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) settings: &'a MeshSettings,
    pub(crate) config: &'a Config,
}

/// What is known already when a class is built.
#[derive(Clone, Copy, Default)]
pub(crate) struct Known<'a> {
    /// What the class had, with its snapshot.
    pub(crate) old: Option<(&'a Arc<Outbound>, &'a Snapshot)>,
    /// What a class that is alike in all but its namespace has at the snapshot that is built from.
    pub(crate) alike: Option<&'a Arc<Outbound>>,
}

impl Outbound {
    /// The resources of a class. Fragments whose inputs are the same are taken over from what the class had and from a class that is
    /// alike, and so are whole lists; where nothing but endpoints changed, only those services are looked at. A class that gets the
    /// same as one that is alike has the same value.
    pub(crate) fn build(
        source: &Source<'_>,
        class: &Class,
        encoded: &mut Encoded,
        known: Known<'_>,
    ) -> Arc<Self> {
        if let Some((old, before)) = known.old
            && same_but_endpoints(before, source.snapshot)
        {
            return old.with_endpoints(source, before, class, encoded);
        }
        let old = known.old.map(|(old, _)| old);
        let snapshot = source.snapshot;
        let domain: Arc<str> = source.settings.domain.as_str().into();
        let scope = Scope::of(snapshot, class);
        let unknown = scope.unknown(source.settings.outbound_policy);
        let mut fragments = Vec::new();
        let mut positions = HashMap::new();
        for (service, seen) in seen(source, class, &scope, &domain) {
            let key = service.key();
            let inputs = Inputs { seen, ..inputs(snapshot, class, service, source.config, &domain) };
            let same = |fragment: &&Arc<Fragment>| fragment.inputs.same(&inputs);
            let own = old.and_then(|old| old.fragment(&key)).filter(same);
            let shared = || known.alike.and_then(|alike| alike.fragment(&key)).filter(same);
            let fragment = match own.or_else(|| shared().filter(|_| inputs.routes.is_none())) {
                Some(fragment) => Arc::clone(fragment),
                None => Arc::new(Fragment::build(source, class, inputs, encoded, unknown)),
            };
            positions.insert(key, fragments.len());
            fragments.push(fragment);
        }
        if let Some(alike) = known.alike
            && alike.unknown == unknown
            && alike.fragments.len() == fragments.len()
            && alike.fragments.iter().zip(&fragments).all(|(a, b)| Arc::ptr_eq(a, b))
        {
            return Arc::clone(alike);
        }
        let log = &source.settings.access_log;
        Arc::new(Self::join(fragments, Arc::new(positions), (unknown, log), class, old.map(|old| &**old)))
    }

    fn fragment(&self, key: &ServiceKey) -> Option<&Arc<Fragment>> {
        self.fragments.get(*self.positions.get(key)?)
    }

    /// The same services with other endpoints.
    fn with_endpoints(
        self: &Arc<Self>,
        source: &Source<'_>,
        before: &Snapshot,
        class: &Class,
        encoded: &mut Encoded,
    ) -> Arc<Self> {
        if source.snapshot.endpoints.same(&before.endpoints) {
            return Arc::clone(self);
        }
        let domain: Arc<str> = source.settings.domain.as_str().into();
        let mut fragments = self.fragments.clone();
        for key in source.snapshot.endpoints.changed(&before.endpoints, Arc::ptr_eq) {
            let Some(position) = self.positions.get(&key) else { continue };
            let service = Arc::clone(&fragments[*position].inputs.service);
            let seen = fragments[*position].inputs.seen.clone();
            let inputs = Inputs { seen, ..inputs(source.snapshot, class, &service, source.config, &domain) };
            fragments[*position] = Arc::new(Fragment::build(source, class, inputs, encoded, self.unknown));
        }
        let told = (self.unknown, &source.settings.access_log);
        Arc::new(Self::join(fragments, Arc::clone(&self.positions), told, class, Some(self)))
    }

    /// The lists of these fragments; a list to which no fragment adds anything new is the old one.
    fn join(
        fragments: Vec<Arc<Fragment>>,
        positions: Arc<HashMap<ServiceKey, usize>>,
        (unknown, log): (OutboundPolicy, &AccessLog),
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
            None => match old.zip(changed.as_ref()).and_then(|(old, changed)| replaced(old, changed)) {
                Some(endpoints) => Arc::new(endpoints),
                None => kept_set(old.map(|old| &old.endpoints), all(|fragment| &fragment.endpoints)),
            },
        };
        let same_listeners = |a: &Fragment, b: &Fragment| {
            a.listeners == b.listeners
                && a.open == b.open
                && a.inputs.service.service.created == b.inputs.service.service.created
        };
        let listeners = match unchanged(&same_listeners) {
            Some(old) => Arc::clone(&old.listeners),
            None => {
                let mut listeners = without_conflicts(&fragments);
                listeners.extend(open::listeners(oldest_first(&fragments), unknown, class.ipv4, log));
                listeners.push(virtual_outbound(unknown, class.ipv4, log));
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

/// The assignments with those of changed fragments in place of theirs; none when some are new or gone.
fn replaced(old: &Outbound, changed: &[(&Arc<Fragment>, &Arc<Fragment>)]) -> Option<ResourceSet> {
    let same_names = |before: &Fragment, after: &Fragment| {
        let names = |fragment: &Fragment| -> Vec<Arc<str>> {
            fragment.endpoints.iter().map(|assignment| Arc::clone(&assignment.name)).collect()
        };
        names(before) == names(after)
    };
    if !changed.iter().all(|(before, after)| same_names(before, after)) {
        return None;
    }
    old.endpoints.replaced(changed.iter().flat_map(|(_, after)| after.endpoints.iter().cloned()))
}

/// Whether nothing that a class sees of services can differ but endpoints.
pub(crate) fn same_but_endpoints(a: &Snapshot, b: &Snapshot) -> bool {
    a.services.same(&b.services) && a.config.same(&b.config) && Arc::ptr_eq(&a.gateways, &b.gateways)
}

/// The services of a class in the order of their hosts: those that its scope lets it see, and those that their routes lead to.
fn seen<'s>(
    source: &Source<'s>,
    class: &Class,
    scope: &Scope,
    domain: &Arc<str>,
) -> Vec<(&'s Arc<MeshService>, Seen)> {
    let visible = source.snapshot.visible(&class.namespace);
    if !scope.is_limited() {
        return visible.into_iter().map(|service| (service, Seen::Whole)).collect();
    }
    let mut destinations = HashSet::new();
    let all: Vec<_> = visible
        .into_iter()
        .map(|service| {
            let seen = scope.seen(service);
            if seen.is_some() {
                let routes = Routes::find(&source.config.routes, class, service, domain);
                destinations.extend(routes.destinations());
            }
            (service, seen)
        })
        .collect();
    let reached = |service: &MeshService| destinations.contains(&service.service.host);
    all.into_iter()
        .filter_map(|(service, seen)| match seen {
            None if reached(service) => Some((service, Seen::for_routes(service))),
            seen => Some((service, seen?)),
        })
        .collect()
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

/// Chains of shared listeners, those of the oldest services first.
fn oldest_first(fragments: &[Arc<Fragment>]) -> impl Iterator<Item = &Open> {
    let mut some: Vec<&Arc<Fragment>> =
        fragments.iter().filter(|fragment| !fragment.open.is_empty()).collect();
    some.sort_by_key(|fragment| fragment.inputs.service.service.created);
    some.into_iter().flat_map(|fragment| &fragment.open)
}

impl Fragment {
    fn build(
        source: &Source<'_>,
        class: &Class,
        inputs: Inputs,
        encoded: &mut Encoded,
        unknown: OutboundPolicy,
    ) -> Self {
        let Source { snapshot, settings, .. } = *source;
        let service = Arc::clone(&inputs.service);
        let mut clusters = Vec::new();
        let mut endpoints = Vec::new();
        let rule = inputs.rule.clone();
        let all = targets(&service, rule.as_deref(), Use::Client);
        for target in all.filter(|target| inputs.seen.places(target.port.number).is_some()) {
            let (cluster, assignment) = encoded.target(target, &inputs, class);
            clusters.push(cluster);
            endpoints.extend(assignment);
        }
        Self {
            clusters,
            endpoints,
            listeners: encoded.service_listeners(class, &inputs, (unknown, &settings.access_log)),
            open: open::chains(class, &inputs, unknown),
            names: names::entries(snapshot, class, &service, &inputs.endpoints, &settings.domain),
            inputs,
        }
    }
}
