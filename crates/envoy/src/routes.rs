//! VirtualServices as far as TCP can follow them: weighted destinations of a port.

use std::sync::Arc;

use isthmus_model::{Hostname, Labels, Namespace, Selector, ServicePort};
use isthmus_registry::{MeshService, Snapshot};
use isthmus_resources::Resource;
use isthmus_resources::istio::{L4Match, RouteDestination, VirtualService};

use crate::class::Class;
use crate::cluster::cluster_name;
use crate::destination::full_host;
use crate::listener::Route;

/// The gateway name that means sidecars.
const MESH: &str = "mesh";

/// The VirtualService that decides for one service, resolved; none decides nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Routes {
    object: Option<Arc<Resource<VirtualService>>>,
    domain: Arc<str>,
}

impl Routes {
    /// The VirtualService for a service as a class sees it: the most specific host, of equal ones the oldest.
    pub(crate) fn find(snapshot: &Snapshot, class: &Class, service: &MeshService, domain: &Arc<str>) -> Self {
        let host = service.service.host.as_str();
        let mut best: Option<(bool, usize, Arc<Resource<VirtualService>>)> = None;
        for (namespace, config) in snapshot.config.iter() {
            for object in config.virtual_services.iter() {
                if !is_for_mesh(&object.spec) || !visible(&object.spec, namespace, &class.namespace) {
                    continue;
                }
                for text in &object.spec.hosts {
                    let Some(pattern) = full_host(text, namespace, domain) else { continue };
                    if !pattern.covers(host) {
                        continue;
                    }
                    let rank = (pattern.is_wildcard(), usize::MAX - pattern.as_str().len());
                    let better = best.as_ref().is_none_or(|(wild, length, known)| {
                        let known = (*wild, *length, known.meta.age_key());
                        (rank.0, rank.1, object.meta.age_key()) < known
                    });
                    if better {
                        best = Some((rank.0, rank.1, Arc::clone(object)));
                    }
                }
            }
        }
        Self { object: best.map(|(_, _, object)| object), domain: Arc::clone(domain) }
    }

    /// Where a class sends connections to a port; none is to the service itself. Of `http` routes only an unconditional one can
    /// be followed on TCP.
    pub(crate) fn route(&self, class: &Class, service: &MeshService, port: &ServicePort) -> Option<Route> {
        let object = self.object.as_ref()?;
        let namespace = object.meta.namespace.as_ref()?;
        let spec = &object.spec;
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

    fn weighted(
        &self,
        destinations: &[RouteDestination],
        namespace: &Namespace,
        service: &MeshService,
        port: &ServicePort,
    ) -> Option<Route> {
        let cluster = |wanted: &RouteDestination| {
            let host = full_host(&wanted.destination.host, namespace, &self.domain)?;
            let own = if host == service.service.host { port.number } else { 0 };
            let number = wanted.destination.port.as_ref().map_or(own, |port| port.number);
            let number = if number == 0 { port.number } else { number };
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

fn visible(spec: &VirtualService, own: &Namespace, to: &Namespace) -> bool {
    spec.export_to.is_empty()
        || spec.export_to.iter().any(|name| match name.as_str() {
            "*" => true,
            "." => own == to,
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

/// Whether a VirtualService is bound to a gateway object, and its host is among those that the server lets in.
pub(crate) fn is_bound(spec: &VirtualService, own: &Namespace, gateway: &Namespace, name: &str) -> bool {
    spec.gateways.iter().any(|text| match text.split_once('/') {
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
