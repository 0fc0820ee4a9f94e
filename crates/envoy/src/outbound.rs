//! Everything that one class of sidecars gets about services: a fragment for each service, joined.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use isthmus_model::{Endpoint, Namespace, ServicePort};
use isthmus_proto::resource::{Resource, ResourceSet};
use isthmus_registry::shared::Map;
use isthmus_registry::{Gateways, MeshService, NamespaceConfig, ServiceKey, Snapshot};
use isthmus_resources::istio::Subset;

use crate::cache::{Cache, Pins};
use crate::class::Class;
use crate::cluster::{self, Target, Use, is_tcp};
use crate::destination::{Rule, Rules};
use crate::endpoint;
use crate::listener::Route;
use crate::listener::outbound::{addresses, listener, virtual_outbound};
use crate::names;
use crate::routes::{RouteIndex, Routes};
use crate::scope::Scope;
use crate::settings::MeshSettings;
use isthmus_registry::peer_auth::PeerPolicies;

/// A snapshot's configuration, indexed.
#[derive(Debug, Default)]
pub(crate) struct Config {
    /// What it was read from.
    pub(crate) source: Map<Namespace, Arc<NamespaceConfig>>,
    pub(crate) rules: Rules,
    pub(crate) routes: RouteIndex,
}

/// What one class gets.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) clusters: Arc<Vec<Resource>>,
    pub(crate) listeners: Arc<Vec<Resource>>,
    pub(crate) endpoints: Arc<ResourceSet>,
    pub(crate) names: Arc<ResourceSet>,
    pub(crate) fragments: HashMap<ServiceKey, Arc<Fragment>>,
}

/// What one service adds, and what that depended on.
#[derive(Debug)]
pub(crate) struct Fragment {
    inputs: Inputs,
    clusters: Vec<Resource>,
    endpoints: Vec<Resource>,
    listeners: Vec<Resource>,
    names: names::Entries,
}

/// The inputs of a fragment, beside its class.
#[derive(Clone, Debug)]
pub(crate) struct Inputs {
    pub(crate) service: Arc<MeshService>,
    pub(crate) endpoints: Arc<[Endpoint]>,
    pub(crate) rule: Option<Arc<Rule>>,
    pub(crate) gateways: Arc<Gateways>,
    pub(crate) policies: PeerPolicies,
    pub(crate) routes: Routes,
}

impl Inputs {
    fn same(&self, other: &Self) -> bool {
        self.same_endpoints(other) && self.routes == other.routes
    }

    fn same_endpoints(&self, other: &Self) -> bool {
        let rule = |inputs: &Self| inputs.rule.as_ref().map(Arc::as_ptr);
        Arc::ptr_eq(&self.service, &other.service)
            && Arc::ptr_eq(&self.endpoints, &other.endpoints)
            && rule(self) == rule(other)
            && Arc::ptr_eq(&self.gateways, &other.gateways)
            && self.policies.address() == other.policies.address()
    }
}

/// Key of a cluster: service, rule, endpoints where they are part of it, port, subset, use.
type ClusterKey = (usize, usize, usize, u16, String, Use);
/// Key of an assignment: the inputs' addresses, port, subset, use, class.
type EndpointKey = (usize, usize, usize, usize, (usize, usize), u16, String, Use, Class);

/// Key of a listener: all that is in it.
type ListenerKey = (IpAddr, u16, Arc<str>, Option<Route>);

/// Encoded clusters, assignments and listeners, for all classes.
#[derive(Debug, Default)]
pub(crate) struct Encoded {
    pub(crate) listeners: Cache<ListenerKey>,
    pub(crate) clusters: Cache<ClusterKey>,
    pub(crate) endpoints: Cache<EndpointKey>,
}

fn address<T: ?Sized>(value: &Arc<T>) -> usize {
    Arc::as_ptr(value).cast::<()>() as usize
}

impl Encoded {
    /// The cluster and, where it has one, the assignment of a target.
    pub(crate) fn target(
        &mut self,
        target: Target<'_>,
        inputs: &Inputs,
        class: &Class,
    ) -> (Resource, Option<Resource>) {
        let rule = inputs.rule.as_ref().map_or(0, address);
        let discovery = target.discovery(inputs.endpoints.len());
        let by_eds = discovery == envoy_types::pb::envoy::config::cluster::v3::cluster::DiscoveryType::Eds;
        let within = if by_eds { 0 } else { address(&inputs.endpoints) };
        let subset = || target.subset.to_string();
        let key = (address(&inputs.service), rule, within, target.port.number, subset(), target.usage);
        let cluster = self.clusters.get(key, || {
            (cluster::outbound(target, inputs.rule.as_deref(), &inputs.endpoints), pins(inputs))
        });
        if !by_eds {
            return (cluster, None);
        }
        let key = (
            address(&inputs.service),
            address(&inputs.endpoints),
            rule,
            address(&inputs.gateways),
            inputs.policies.address(),
            target.port.number,
            subset(),
            target.usage,
            endpoint_class(class),
        );
        let assignment = self.endpoints.get(key, || {
            let wanted = endpoint::Inputs {
                class,
                rule: inputs.rule.as_deref(),
                endpoints: &inputs.endpoints,
                gateways: &inputs.gateways,
                policies: &inputs.policies,
            };
            (endpoint::assignment(target, &wanted), pins(inputs))
        });
        (cluster, Some(assignment))
    }
}

impl Encoded {
    /// The listeners of a service for a class.
    fn service_listeners(&mut self, class: &Class, inputs: &Inputs) -> Vec<Resource> {
        let service = &inputs.service;
        let host: Arc<str> = service.service.host.clone().into();
        let addresses = addresses(class, service, &inputs.endpoints);
        let ports: Vec<&ServicePort> = service.service.ports.iter().filter(|port| is_tcp(port)).collect();
        let mut found = Vec::with_capacity(addresses.len() * ports.len());
        for address in addresses {
            for port in &ports {
                let route = inputs.routes.route(class, service, port);
                let key = (address, port.number, Arc::clone(&host), route.clone());
                found.push(self.listeners.get(key, || (listener(address, port, &host, route), Vec::new())));
            }
        }
        found
    }
}

/// The class as assignments see it: its namespace and DNS say nothing about endpoints.
fn endpoint_class(class: &Class) -> Class {
    let mut class = class.clone();
    class.dns_capture = false;
    class.namespace = isthmus_model::Namespace::new("any").unwrap_or(class.namespace);
    class
}

fn pins(inputs: &Inputs) -> Pins {
    let mut pins: Pins = vec![
        Arc::clone(&inputs.service) as Arc<_>,
        Arc::new(Arc::clone(&inputs.endpoints)),
        Arc::clone(&inputs.gateways) as Arc<_>,
        Arc::new(inputs.policies.clone()),
    ];
    if let Some(rule) = &inputs.rule {
        pins.push(Arc::clone(rule) as Arc<_>);
    }
    pins
}

/// The inputs of a service's fragment at a snapshot.
pub(crate) fn inputs(
    snapshot: &Snapshot,
    class: &Class,
    service: &Arc<MeshService>,
    config: &Config,
    domain: &Arc<str>,
) -> Inputs {
    let endpoints = snapshot.endpoints(&service.key()).cloned();
    Inputs {
        endpoints: endpoints.unwrap_or_else(|| Arc::from(Vec::new())),
        rule: config.rules.find(class, service, &snapshot.root_namespace).cloned(),
        gateways: Arc::clone(&snapshot.gateways),
        policies: PeerPolicies::of(snapshot, &service.service.namespace),
        routes: Routes::find(&config.routes, class, service, domain),
        service: Arc::clone(service),
    }
}

/// The targets of a service: each TCP port, whole and by subset.
pub(crate) fn targets<'a>(
    service: &'a MeshService,
    rule: Option<&'a Rule>,
    usage: Use,
) -> impl Iterator<Item = Target<'a>> {
    let subsets = move || {
        let named: &'a [Subset] = rule.map_or(&[], |rule| &rule.subsets);
        std::iter::once("").chain(named.iter().map(|subset| subset.name.as_str()))
    };
    let ports = service.service.ports.iter().filter(|port: &&ServicePort| is_tcp(port));
    ports.flat_map(move |port| subsets().map(move |subset| Target { service, port, subset, usage }))
}

impl Outbound {
    /// The resources of a class; fragments of `old` whose inputs are the same are taken over, and so are whole lists.
    pub(crate) fn build(
        snapshot: &Snapshot,
        class: &Class,
        settings: &MeshSettings,
        config: &Config,
        encoded: &mut Encoded,
        old: Option<&Self>,
    ) -> Self {
        let domain: Arc<str> = settings.domain.as_str().into();
        let scope = Scope::of(snapshot, class);
        let mut fragments = HashMap::new();
        let mut ordered = Vec::new();
        for service in snapshot.visible(&class.namespace) {
            if !scope.sees(service) {
                continue;
            }
            let key = service.key();
            let inputs = inputs(snapshot, class, service, config, &domain);
            let known = old.and_then(|old| old.fragments.get(&key));
            let fragment = match known {
                Some(known) if known.inputs.same(&inputs) => Arc::clone(known),
                _ => Arc::new(Fragment::build(snapshot, class, inputs, encoded, &domain)),
            };
            ordered.push(Arc::clone(&fragment));
            fragments.insert(key, fragment);
        }
        let clusters = ordered.iter().flat_map(|fragment| fragment.clusters.iter().cloned());
        let endpoints = ordered.iter().flat_map(|fragment| fragment.endpoints.iter().cloned());
        let mut listeners = without_conflicts(&ordered);
        listeners.push(virtual_outbound(scope.unknown(settings.outbound_policy), class.ipv4));
        let table = || names::table(ordered.iter().flat_map(|fragment| &fragment.names));
        let same_names = old.filter(|old| {
            old.fragments.len() == fragments.len()
                && fragments.iter().all(|(key, new)| {
                    old.fragments.get(key).is_some_and(|old| Arc::ptr_eq(old, new) || old.names == new.names)
                })
        });
        let names = match same_names {
            Some(old) => Arc::clone(&old.names),
            None => Arc::new(ResourceSet::new(vec![table()])),
        };
        Self {
            clusters: kept(old.map(|old| &old.clusters), clusters.collect()),
            listeners: kept(old.map(|old| &old.listeners), listeners),
            endpoints: kept_set(old.map(|old| &old.endpoints), endpoints.collect()),
            names,
            fragments,
        }
    }
}

/// The old list when the new one is equal: readers compare by address.
fn kept(old: Option<&Arc<Vec<Resource>>>, new: Vec<Resource>) -> Arc<Vec<Resource>> {
    match old {
        Some(old) if same_resources(old.iter(), new.iter()) => Arc::clone(old),
        _ => Arc::new(new),
    }
}

/// As [`kept`], for sets.
pub(crate) fn kept_set(old: Option<&Arc<ResourceSet>>, new: Vec<Resource>) -> Arc<ResourceSet> {
    let new = ResourceSet::new(new);
    match old {
        Some(old) if same_resources(old.iter(), new.iter()) => Arc::clone(old),
        _ => Arc::new(new),
    }
}

/// Whether two lists are equal. Shared bytes are not looked at: most of a list is shared with its predecessor.
fn same_resources<'a>(
    a: impl ExactSizeIterator<Item = &'a Resource>,
    b: impl ExactSizeIterator<Item = &'a Resource>,
) -> bool {
    let same = |(a, b): (&Resource, &Resource)| {
        let shared = Arc::ptr_eq(&a.name, &b.name) && a.body.as_ptr() == b.body.as_ptr();
        a.version == b.version && (shared || a == b)
    };
    a.len() == b.len() && a.zip(b).all(same)
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
