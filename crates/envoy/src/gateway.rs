//! Gateways: TLS passed on by server name, never terminated; and plain TCP.
//!
//! What may pass is a fragment for each exported service ([`passed`]); where it may pass is a plan of ports ([`plan`]). A gateway
//! of the classic kind gets a chain for each name. One that fetches on demand gets one chain for all, marked with the table of
//! names ([`exported`]) that it serves, and may ask for any of their clusters.

pub(crate) mod conflicts;
mod exported;
mod listener;
mod passed;
mod plan;
mod routes;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use isthmus_model::{Location, Namespace};
use isthmus_proto::resource::{Resource, ResourceSet};
use isthmus_registry::{MeshService, ServiceKey, Snapshot, is_exported};

use crate::class::Class;
use crate::cluster::Target;
use crate::cluster::fixed::{self, CONTROL_PLANE};
use crate::config::Config;
use crate::encoded::{Encoded, Inputs, inputs};
use crate::listener::Route;
use crate::lists::kept_set;
use crate::outbound::{Source, same_but_endpoints};
use crate::settings::MeshSettings;
use listener::Chains;
use passed::Passed;
use plan::{Lost, Place, Plan};

/// Port of mutual TLS between networks.
const DATA_PORT: u16 = 15443;
/// Ports on which the control plane's names lead to it: xDS, Istio's webhooks, and the one that always crosses networks.
const CONTROL_PORTS: [u16; 3] = [15012, 15017, DATA_PORT];
/// The label by which gateways between networks are known.
const EAST_WEST: (&str, &str) = ("istio", "eastwestgateway");

/// What one class of gateways gets.
#[derive(Debug)]
pub(crate) struct Router {
    pub(crate) clusters: Arc<ResourceSet>,
    pub(crate) listeners: Arc<ResourceSet>,
    pub(crate) endpoints: Arc<ResourceSet>,
    /// Tables of exported names, for a gateway that fetches on demand.
    pub(crate) names: Option<Arc<ResourceSet>>,
    /// In the order of hosts.
    passed: Vec<Arc<Passed>>,
    positions: Arc<HashMap<ServiceKey, usize>>,
    routed: Arc<Routed>,
    lost: Vec<Lost>,
}

/// What servers lead to by VirtualServices, and the control plane.
#[derive(Debug, Default)]
struct Routed {
    services: HashSet<ServiceKey>,
    clusters: Vec<Resource>,
    endpoints: Vec<Resource>,
}

/// Everything gathered on the way.
struct Builder<'a> {
    snapshot: &'a Snapshot,
    class: &'a Class,
    config: &'a Config,
    encoded: &'a mut Encoded,
    domain: Arc<str>,
    listeners: BTreeMap<Place, Chains>,
    known: HashSet<Arc<str>>,
    routed: Routed,
}

impl Router {
    /// The resources of a class of gateways. `old` is what the class had, with its snapshot: services whose inputs are the same are
    /// taken over, and where nothing but endpoints changed only those services are looked at.
    pub(crate) fn build(
        source: &Source<'_>,
        class: &Class,
        encoded: &mut Encoded,
        old: Option<(&Self, &Snapshot)>,
    ) -> Self {
        if let Some((old, before)) = old
            && same_but_endpoints(before, source.snapshot)
            && before.networks == source.snapshot.networks
            && let Some(router) = old.with_endpoints(source, before, class, encoded)
        {
            return router;
        }
        let old = old.map(|(old, _)| old);
        let Source { snapshot, settings, config } = *source;
        let domain: Arc<str> = settings.domain.as_str().into();
        let plan = Plan::of(snapshot, class);
        let (passed, positions) = passed(source, class, encoded, &domain, &plan, old);
        let mut builder = Builder {
            snapshot,
            class,
            config,
            encoded,
            domain,
            listeners: BTreeMap::new(),
            known: passed.iter().flat_map(|one| one.names().cloned()).collect(),
            routed: Routed::default(),
        };
        builder.control_plane(settings);
        for (place, port) in &plan.ports {
            builder.port(*place, port, &passed);
        }
        let Builder { listeners, routed, .. } = builder;
        let log = &settings.access_log;
        let listeners =
            listeners.into_iter().filter_map(|(place, chains)| chains.listener(place, class, log));
        let listeners = kept_set(old.map(|old| &old.listeners), listeners.collect());
        let names = class.on_demand.then(|| {
            let tables = exported::tables(&plan, &passed);
            kept_set(old.and_then(|old| old.names.as_ref()), tables)
        });
        plan.tell(old.map_or(&[], |old| &old.lost));
        let (positions, routed) = (Arc::new(positions), Arc::new(routed));
        Self::join(passed, positions, routed, listeners, names, plan.lost, old)
    }

    /// The same services with other endpoints; none where that changes more than it says.
    fn with_endpoints(
        &self,
        source: &Source<'_>,
        before: &Snapshot,
        class: &Class,
        encoded: &mut Encoded,
    ) -> Option<Self> {
        let domain: Arc<str> = source.settings.domain.as_str().into();
        let mut passed = self.passed.clone();
        for key in source.snapshot.endpoints.changed(&before.endpoints, Arc::ptr_eq) {
            if self.routed.services.contains(&key) {
                return None;
            }
            let Some(position) = self.positions.get(&key) else { continue };
            let service = Arc::clone(&passed[*position].inputs.service);
            let inputs = inputs(source.snapshot, class, &service, source.config, &domain);
            passed[*position] = Arc::new(Passed::build(inputs, encoded, class));
        }
        Some(Self::join(
            passed,
            Arc::clone(&self.positions),
            Arc::clone(&self.routed),
            Arc::clone(&self.listeners),
            self.names.clone(),
            self.lost.clone(),
            Some(self),
        ))
    }

    fn join(
        passed: Vec<Arc<Passed>>,
        positions: Arc<HashMap<ServiceKey, usize>>,
        routed: Arc<Routed>,
        listeners: Arc<ResourceSet>,
        names: Option<Arc<ResourceSet>>,
        lost: Vec<Lost>,
        old: Option<&Self>,
    ) -> Self {
        let clusters = passed.iter().flat_map(|one| one.clusters().cloned());
        let clusters = clusters.chain(routed.clusters.iter().cloned()).collect();
        let endpoints = passed.iter().flat_map(|one| one.endpoints().cloned());
        let endpoints = endpoints.chain(routed.endpoints.iter().cloned()).collect();
        Self {
            clusters: kept_set(old.map(|old| &old.clusters), clusters),
            endpoints: kept_set(old.map(|old| &old.endpoints), endpoints),
            listeners,
            names,
            passed,
            positions,
            routed,
            lost,
        }
    }
}

/// The exported services that some server of the plan lets pass.
fn passed(
    source: &Source<'_>,
    class: &Class,
    encoded: &mut Encoded,
    domain: &Arc<str>,
    plan: &Plan<'_>,
    old: Option<&Router>,
) -> (Vec<Arc<Passed>>, HashMap<ServiceKey, usize>) {
    let snapshot = source.snapshot;
    let (mut passed, mut positions) = (Vec::new(), HashMap::new());
    if !plan.ports.values().any(|port| port.auto.is_some()) {
        return (passed, positions);
    }
    for service in snapshot.visible(&class.namespace) {
        let exported =
            is_exported(service, &snapshot.cluster) && service.service.location == Location::MeshInternal;
        let wanted = || plan.ports.values().filter_map(|port| port.auto.as_ref());
        if !exported || !wanted().any(|hosts| hosts.allow(service)) {
            continue;
        }
        let key = service.key();
        let inputs = inputs(snapshot, class, service, source.config, domain);
        let known = old.and_then(|old| Some(&old.passed[*old.positions.get(&key)?]));
        positions.insert(key, passed.len());
        passed.push(match known {
            Some(known) if known.inputs.same(&inputs) => Arc::clone(known),
            _ => Arc::new(Passed::build(inputs, encoded, class)),
        });
    }
    (passed, positions)
}

impl Builder<'_> {
    /// A gateway of the control plane's own network lets it through, whatever Gateway objects say: else nobody outside could
    /// repair what they say.
    fn control_plane(&mut self, settings: &MeshSettings) {
        let own = self.snapshot.networks.get(&self.snapshot.cluster).cloned().unwrap_or_default();
        let control = &settings.control_plane;
        if control.addresses.is_empty() || control.names.is_empty() || !own.reaches(&self.class.network) {
            return;
        }
        self.routed.clusters.push(fixed::control_plane(control));
        for number in CONTROL_PORTS {
            let chains = self.chains(Place::any(number));
            chains.by_name(CONTROL_PLANE, &control.names, false, &Route::Cluster(CONTROL_PLANE.to_string()));
        }
    }

    fn chains(&mut self, place: Place) -> &mut Chains {
        self.listeners.entry(place).or_insert_with(|| Chains::new(place.port))
    }

    fn port(&mut self, place: Place, port: &plan::Port<'_>, passed: &[Arc<Passed>]) {
        // a port of plain TCP that is also one of the control plane's would hide it
        if !port.tls && self.listeners.contains_key(&place) {
            tracing::warn!(port = place.port, "plain TCP on a port of the control plane, not served");
            return;
        }
        if let Some(hosts) = &port.auto {
            let on_demand = self.class.on_demand;
            let chains = self.chains(place);
            if on_demand {
                chains.on_demand(&hosts.table());
            } else {
                for name in passed.iter().filter(|one| hosts.allow(one.service())).flat_map(|one| one.names())
                {
                    let route = Route::Cluster(name.to_string());
                    chains.by_name(name, &[name.to_string()], true, &route);
                }
            }
        }
        for routed in &port.routed {
            if port.tls {
                self.by_server_name(place, routed);
            } else {
                self.plain_tcp(place, routed);
            }
        }
    }

    fn inputs(&self, service: &Arc<MeshService>) -> Inputs {
        inputs(self.snapshot, self.class, service, self.config, &self.domain)
    }

    /// Adds the cluster and endpoints of a target, once.
    fn cluster(&mut self, target: Target<'_>, inputs: &Inputs) {
        let (cluster, assignment) = self.encoded.target(target, inputs, self.class);
        self.routed.services.insert(inputs.service.key());
        if self.known.insert(Arc::clone(&cluster.name)) {
            self.routed.clusters.push(cluster);
            self.routed.endpoints.extend(assignment);
        }
    }
}

/// Whether `NAMESPACE/…` of a server, in a Gateway object of namespace `own`, is for this namespace.
fn is_for(namespace: &str, own: &Namespace, of: &Namespace) -> bool {
    match namespace {
        "*" => true,
        "." => own == of,
        name => name == of.as_str(),
    }
}
