//! Clusters, assignments and listeners of services, encoded once for all classes.

use std::net::IpAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::cluster::DiscoveryType;
use isthmus_model::{Endpoint, ServicePort};
use isthmus_proto::resource::Resource;
use isthmus_registry::peer_auth::PeerPolicies;
use isthmus_registry::{Gateways, MeshService, Snapshot};
use isthmus_resources::istio::Subset;

use crate::access_log::AccessLog;
use crate::cache::{Cache, Pins};
use crate::class::Class;
use crate::cluster::{self, Target, Use, is_nameable, is_tcp};
use crate::config::Config;
use crate::destination::Rule;
use crate::endpoint;
use crate::grpc;
use crate::listener::Carriage;
use crate::listener::outbound::{Paths, addresses, listener};
use crate::routes::Routes;
use crate::scope::{Place, Seen};
use crate::settings::OutboundPolicy;

/// The inputs of a fragment, beside its class.
#[derive(Clone, Debug)]
pub(crate) struct Inputs {
    pub(crate) service: Arc<MeshService>,
    pub(crate) endpoints: Arc<[Endpoint]>,
    pub(crate) rule: Option<Arc<Rule>>,
    pub(crate) gateways: Arc<Gateways>,
    pub(crate) policies: PeerPolicies,
    pub(crate) routes: Routes,
    pub(crate) seen: Seen,
}

impl Inputs {
    /// Where connections of a class to a port of the service go.
    pub(crate) fn paths(&self, class: &Class, port: &ServicePort, unknown: OutboundPolicy) -> Paths {
        let named = self.routes.named(class, &self.service, port);
        let whole = cluster::cluster_name(port.number, "", self.service.service.host.as_str());
        Paths {
            whole: whole.into(),
            route: self.routes.route(class, &self.service, port),
            unknown: if named.is_empty() { OutboundPolicy::default() } else { unknown },
            named,
            carriage: Carriage::of(self.rule.as_deref(), port.number),
        }
    }

    pub(crate) fn same(&self, other: &Self) -> bool {
        self.same_endpoints(other) && self.routes == other.routes && self.seen == other.seen
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
type ListenerKey = (IpAddr, u16, bool, Paths);

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
        let by_eds = discovery == DiscoveryType::Eds;
        let within = if by_eds { 0 } else { address(&inputs.endpoints) };
        let subset = || target.subset.to_string();
        let key = (address(&inputs.service), rule, within, target.port.number, subset(), target.usage);
        let cluster = self.clusters.get(key, || {
            let cluster = match target.usage {
                Use::Grpc => grpc::cluster(target, inputs.rule.as_deref(), &inputs.endpoints),
                Use::Client | Use::Origin | Use::Passthrough => {
                    cluster::outbound(target, inputs.rule.as_deref(), &inputs.endpoints)
                }
            };
            (cluster, pins(inputs))
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

    /// The listeners of a service for a class.
    pub(crate) fn service_listeners(
        &mut self,
        class: &Class,
        inputs: &Inputs,
        (unknown, log): (OutboundPolicy, &AccessLog),
    ) -> Vec<Resource> {
        let service = &inputs.service;
        let own = addresses(class, service, &inputs.endpoints);
        let mut found = Vec::with_capacity(own.len() * service.service.ports.len());
        for port in service.service.ports.iter().filter(|port| is_tcp(port)) {
            for place in inputs.seen.places(port.number).unwrap_or_default() {
                let (addresses, bound) = match place {
                    Place::Own => (own.as_slice(), false),
                    Place::Captured(ref address) => (std::slice::from_ref(address), false),
                    Place::Bound(ref address) => (std::slice::from_ref(address), true),
                };
                let paths = inputs.paths(class, port, unknown);
                for address in addresses {
                    let key = (*address, port.number, bound, paths.clone());
                    let made = || (listener(*address, port.number, bound, &paths, log), Vec::new());
                    found.push(self.listeners.get(key, made));
                }
            }
        }
        found
    }
}

/// The class as assignments see it: its namespace and DNS say nothing about endpoints.
fn endpoint_class(class: &Class) -> Class {
    Class { dns_capture: false, on_demand: false, ..class.anywhere() }
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
        routes: Routes::find(&config.routes, class, service, domain).with_ports(snapshot, class),
        service: Arc::clone(service),
        seen: Seen::Whole,
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
        let named = named.iter().map(|subset| subset.name.as_str());
        std::iter::once("").chain(named.filter(|name| is_nameable(name, &service.service.host)))
    };
    let ports = service.service.ports.iter().filter(|port: &&ServicePort| is_tcp(port));
    ports.flat_map(move |port| subsets().map(move |subset| Target { service, port, subset, usage }))
}
