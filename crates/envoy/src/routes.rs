//! VirtualServices as far as TCP can follow them: weighted destinations of a port.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use isthmus_model::{Hostname, Labels, Namespace, Selector, ServicePort};
use isthmus_registry::{MeshService, Snapshot};
use isthmus_resources::Resource;
use isthmus_resources::istio::{L4Match, RouteDestination, TlsMatch, VirtualService};

use crate::class::Class;
use crate::cluster::cluster_name;
use crate::destination::full_host;
use crate::listener::Route;

/// The gateway name that means sidecars.
const MESH: &str = "mesh";

/// All VirtualServices of sidecars by host.
#[derive(Debug, Default)]
pub(crate) struct RouteIndex {
    by_host: HashMap<Hostname, Vec<Arc<Resource<VirtualService>>>>,
    wildcards: Vec<(Hostname, Arc<Resource<VirtualService>>)>,
}

impl RouteIndex {
    /// The index of a snapshot's objects.
    pub(crate) fn new(snapshot: &Snapshot, domain: &str) -> Self {
        let mut index = Self::default();
        for (namespace, config) in snapshot.config.iter() {
            for object in config.virtual_services.iter().filter(|object| is_for_mesh(&object.spec)) {
                for host in object.spec.hosts.iter().filter_map(|text| full_host(text, namespace, domain)) {
                    if host.is_wildcard() {
                        index.wildcards.push((host, Arc::clone(object)));
                    } else {
                        index.by_host.entry(host).or_default().push(Arc::clone(object));
                    }
                }
            }
        }
        // the most specific first
        index.wildcards.sort_by_key(|(host, _)| usize::MAX - host.as_str().len());
        index
    }

    /// The VirtualService for a service as a class sees it: the most specific host, of equal ones the oldest.
    fn find(&self, class: &Class, host: &Hostname) -> Option<&Arc<Resource<VirtualService>>> {
        let usable = |object: &&Arc<Resource<VirtualService>>| visible(object, &class.namespace);
        let exact = self.by_host.get(host).into_iter().flatten().filter(usable);
        if let Some(oldest) = exact.min_by(|a, b| a.meta.age_key().cmp(&b.meta.age_key())) {
            return Some(oldest);
        }
        let covering = || {
            let wildcards = self.wildcards.iter().filter(|(pattern, _)| pattern.covers(host.as_str()));
            wildcards.filter(|(_, object)| usable(&object))
        };
        let longest = covering().next()?.0.as_str().len();
        let equal = covering().filter(|(pattern, _)| pattern.as_str().len() == longest);
        equal.map(|(_, object)| object).min_by(|a, b| a.meta.age_key().cmp(&b.meta.age_key()))
    }
}

/// The VirtualService that decides for one service; none decides nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Routes {
    object: Option<Arc<Resource<VirtualService>>>,
    domain: Arc<str>,
    /// The one port of each destination that has one alone: what is meant where a route names none.
    only: BTreeMap<Hostname, u16>,
}

/// The same object, not an equal one: what is compared for every service of every class must be cheap.
impl PartialEq for Routes {
    fn eq(&self, other: &Self) -> bool {
        self.object.as_ref().map(Arc::as_ptr) == other.object.as_ref().map(Arc::as_ptr)
            && self.only == other.only
    }
}

impl Routes {
    /// What decides for a service as a class sees it.
    pub(crate) fn find(index: &RouteIndex, class: &Class, service: &MeshService, domain: &Arc<str>) -> Self {
        let object = index.find(class, &service.service.host).cloned();
        Self { object, domain: Arc::clone(domain), only: BTreeMap::new() }
    }

    /// The same, with the ports of its destinations.
    pub(crate) fn with_ports(mut self, snapshot: &Snapshot, class: &Class) -> Self {
        for host in self.destinations() {
            let service = snapshot.service(&host, &class.namespace);
            if let Some([only]) = service.map(|service| service.service.ports.as_slice()) {
                self.only.insert(host, only.number);
            }
        }
        self
    }

    /// Whether nothing decides: every class then sends connections to the service itself.
    pub(crate) fn is_none(&self) -> bool {
        self.object.is_none()
    }

    /// Where a class sends connections to a port; none is to the service itself. Of `http` routes only an unconditional one can
    /// be followed on TCP.
    pub(crate) fn route(&self, class: &Class, service: &MeshService, port: &ServicePort) -> Option<Route> {
        let object = self.object.as_ref()?;
        let namespace = object.meta.namespace.as_ref()?;
        let spec = &object.spec;
        if port.protocol.is_tls() {
            return None;
        }
        let tcp = spec.tcp.iter().find(|route| {
            route.r#match.is_empty() || route.r#match.iter().any(|found| l4_matches(found, class, port))
        });
        let http = || spec.http.iter().find(|route| route.r#match.is_empty() && !route.route.is_empty());
        let destinations = match tcp {
            Some(route) => &route.route,
            None if port.protocol.is_http() || port.protocol == isthmus_model::Protocol::Auto => {
                &http()?.route
            }
            None => return None,
        };
        self.weighted(destinations, namespace, service, port)
    }

    /// All hosts that some route leads to.
    pub(crate) fn destinations(&self) -> Vec<Hostname> {
        let Some(object) = &self.object else { return Vec::new() };
        let Some(namespace) = &object.meta.namespace else { return Vec::new() };
        let spec = &object.spec;
        let tcp = spec.tcp.iter().map(|route| &route.route);
        let tls = spec.tls.iter().map(|route| &route.route);
        let http = spec.http.iter().map(|route| &route.route);
        let all = tcp.chain(tls).chain(http).flatten();
        all.filter_map(|wanted| full_host(&wanted.destination.host, namespace, &self.domain)).collect()
    }

    /// Where a class sends connections to a port of TLS by their server names: the first route of a name counts.
    pub(crate) fn named(
        &self,
        class: &Class,
        service: &MeshService,
        port: &ServicePort,
    ) -> Vec<(Vec<String>, Route)> {
        let Some(object) = self.object.as_ref().filter(|_| port.protocol.is_tls()) else { return Vec::new() };
        let Some(namespace) = object.meta.namespace.as_ref() else { return Vec::new() };
        let mut taken: HashSet<&str> = HashSet::new();
        let mut found = Vec::new();
        for route in &object.spec.tls {
            let Some(leads) = self.weighted(&route.route, namespace, service, port) else { continue };
            let matching = route.r#match.iter().filter(|found| tls_matches(found, class, port));
            for name in matching.map(|found| &found.sni_hosts) {
                let names: Vec<String> = name.iter().filter(|name| taken.insert(name)).cloned().collect();
                if !names.is_empty() {
                    found.push((names, leads.clone()));
                }
            }
        }
        found
    }

    fn weighted(
        &self,
        destinations: &[RouteDestination],
        namespace: &Namespace,
        service: &MeshService,
        port: &ServicePort,
    ) -> Option<Route> {
        let cluster = |wanted: &RouteDestination| {
            let host = full_host(&wanted.destination.host, namespace, &self.domain)?;
            let meant = if host == service.service.host { None } else { self.only.get(&host).copied() };
            let named =
                wanted.destination.port.as_ref().map(|port| port.number).filter(|number| *number != 0);
            let number = named.or(meant).unwrap_or(port.number);
            Some(cluster_name(number, &wanted.destination.subset, host.as_str()))
        };
        match destinations {
            [] => None,
            [only] => Some(Route::Cluster(cluster(only)?)),
            several => {
                let weights = several.iter().filter_map(|wanted| {
                    let weight = u32::try_from(wanted.weight).ok().filter(|weight| *weight > 0)?;
                    Some((cluster(wanted)?, weight))
                });
                let weights: Vec<_> = weights.collect();
                (!weights.is_empty()).then_some(Route::Weighted(weights))
            }
        }
    }
}

fn is_for_mesh(spec: &VirtualService) -> bool {
    spec.gateways.is_empty() || spec.gateways.iter().any(|gateway| gateway == MESH)
}

fn visible(object: &Resource<VirtualService>, to: &Namespace) -> bool {
    let export_to = &object.spec.export_to;
    export_to.is_empty()
        || export_to.iter().any(|name| match name.as_str() {
            "*" => true,
            "." => object.meta.namespace.as_ref() == Some(to),
            name => name == to.as_str(),
        })
}

fn l4_matches(found: &L4Match, class: &Class, port: &ServicePort) -> bool {
    let gateways = found.gateways.is_empty() || found.gateways.iter().any(|gateway| gateway == MESH);
    let labels: &Labels = &found.source_labels;
    let source = found.source_namespace.is_empty() || found.source_namespace == class.namespace.as_str();
    gateways
        && found.destination_subnets.is_empty()
        && (found.port == 0 || found.port == port.number)
        && source
        && Selector(labels.clone()).matches(&class.labels)
}

fn tls_matches(found: &TlsMatch, class: &Class, port: &ServicePort) -> bool {
    let gateways = found.gateways.is_empty() || found.gateways.iter().any(|gateway| gateway == MESH);
    let source = found.source_namespace.is_empty() || found.source_namespace == class.namespace.as_str();
    gateways
        && found.destination_subnets.is_empty()
        && (found.port == 0 || found.port == port.number)
        && source
        && Selector(found.source_labels.clone()).matches(&class.labels)
}

/// Whether the gateways that a VirtualService of namespace `own` names include a Gateway object.
pub(crate) fn is_among(gateways: &[String], own: &Namespace, gateway: &Namespace, name: &str) -> bool {
    gateways.iter().any(|text| match text.split_once('/') {
        Some((".", short)) => own == gateway && short == name,
        Some((namespace, short)) => namespace == gateway.as_str() && short == name,
        None => own == gateway && text == name,
    })
}

/// Hosts of a server without their namespace part, and the namespaces that they are for.
pub(crate) fn server_host(text: &str) -> (&str, Option<Hostname>) {
    let (namespace, host) = text.split_once('/').unwrap_or(("*", text));
    (namespace, Hostname::new(host).ok())
}
