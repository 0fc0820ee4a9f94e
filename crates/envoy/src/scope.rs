//! Istio's Sidecar: which services a class of workloads sees, and what happens to the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use isthmus_model::{Hostname, Labels, Namespace, Selector};
use isthmus_registry::{MeshService, Snapshot};
use isthmus_resources::Resource;
use isthmus_resources::istio::{Egress, OutboundMode, Sidecar};

use crate::class::Class;
use crate::settings::{OutboundPolicy, ProxyKind};

/// What a class sees.
pub(crate) struct Scope {
    sidecar: Option<Arc<Resource<Sidecar>>>,
    namespace: Namespace,
    ipv4: bool,
}

/// One `NAMESPACE/HOST` of an egress list.
struct Pattern<'a> {
    excludes: bool,
    namespace: &'a str,
    host: Hostname,
}

/// How a class sees a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Seen {
    /// At its own addresses, with all its ports.
    #[default]
    Whole,
    /// These ports alone, each at these places; at none when routes alone lead there.
    Ports(BTreeMap<u16, BTreeSet<Place>>),
}

/// Where a port of a service is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Place {
    /// At the service's own addresses.
    Own,
    /// At this address.
    Captured(IpAddr),
    /// At this address, where the agent has a socket.
    Bound(IpAddr),
}

impl Seen {
    /// The places of a port; none when it is not seen.
    pub(crate) fn places(&self, port: u16) -> Option<Vec<Place>> {
        match self {
            Self::Whole => Some(vec![Place::Own]),
            Self::Ports(ports) => Some(ports.get(&port)?.iter().copied().collect()),
        }
    }

    /// Whether a port is seen at its service's own addresses.
    pub(crate) fn is_own(&self, port: u16) -> bool {
        match self {
            Self::Whole => true,
            Self::Ports(ports) => ports.get(&port).is_some_and(|places| places.contains(&Place::Own)),
        }
    }

    /// All ports of a service, without a place.
    pub(crate) fn for_routes(service: &MeshService) -> Self {
        Self::Ports(service.service.ports.iter().map(|port| (port.number, BTreeSet::new())).collect())
    }
}

/// The Sidecar of a workload: the oldest that selects it, else its namespace's own, else the root namespace's.
pub(crate) fn sidecar(
    snapshot: &Snapshot,
    namespace: &Namespace,
    labels: &Labels,
) -> Option<Arc<Resource<Sidecar>>> {
    let own = snapshot.config(namespace).map(|config| &config.sidecars);
    let root = snapshot.config(&snapshot.root_namespace).map(|config| &config.sidecars);
    let chosen = own
        .iter()
        .flat_map(|list| list.iter())
        .find(|object| selector(&object.spec).is_some_and(|selector| selector.matches(labels)));
    let whole = |list: Option<&isthmus_registry::config::Objects<Sidecar>>| {
        list.and_then(|list| list.iter().find(|object| selector(&object.spec).is_none()).cloned())
    };
    chosen.cloned().or_else(|| whole(own)).or_else(|| whole(root))
}

impl Scope {
    /// The scope of a class. Gateways see all.
    pub(crate) fn of(snapshot: &Snapshot, class: &Class) -> Self {
        let sidecar = match class.kind {
            ProxyKind::Router => None,
            ProxyKind::Sidecar | ProxyKind::Grpc => sidecar(snapshot, &class.namespace, &class.labels),
        };
        Self { sidecar, namespace: class.namespace.clone(), ipv4: class.ipv4 }
    }

    /// Whether anything is left out.
    pub(crate) fn is_limited(&self) -> bool {
        self.sidecar.as_ref().is_some_and(|sidecar| !sidecar.spec.egress.is_empty())
    }

    /// How a service is seen; none when it is not.
    pub(crate) fn seen(&self, service: &MeshService) -> Option<Seen> {
        let Some(sidecar) = self.sidecar.as_ref().filter(|sidecar| !sidecar.spec.egress.is_empty()) else {
            return Some(Seen::Whole);
        };
        let mut whole = false;
        let mut ports: BTreeMap<u16, BTreeSet<Place>> = BTreeMap::new();
        for egress in &sidecar.spec.egress {
            let patterns = egress.hosts.iter().filter_map(|text| pattern(text));
            let covering: Vec<Pattern<'_>> =
                patterns.filter(|pattern| self.covers(pattern, service)).collect();
            if covering.iter().any(|pattern| pattern.excludes) {
                return None;
            }
            if covering.is_empty() {
                continue;
            }
            let place = self.place(egress);
            let only = egress.port.as_ref().map(|port| port.number).filter(|number| *number != 0);
            whole |= only.is_none() && place == Place::Own;
            let numbers = service.service.ports.iter().map(|port| port.number);
            for number in numbers.filter(|number| only.is_none_or(|only| only == *number)) {
                ports.entry(number).or_default().insert(place);
            }
        }
        let own = ports.values().all(|places| places.iter().all(|place| *place == Place::Own));
        if whole && own {
            return Some(Seen::Whole);
        }
        (!ports.is_empty()).then_some(Seen::Ports(ports))
    }

    /// Where an egress listener has its hosts.
    fn place(&self, egress: &Egress) -> Place {
        let bind: Option<IpAddr> = egress.bind.parse().ok();
        match (bind, egress.is_bound()) {
            (Some(address), true) => Place::Bound(address),
            (Some(address), false) => Place::Captured(address),
            (None, true) if self.ipv4 => Place::Bound(Ipv4Addr::LOCALHOST.into()),
            (None, true) => Place::Bound(Ipv6Addr::LOCALHOST.into()),
            (None, false) => Place::Own,
        }
    }

    /// What happens to unknown destinations; the mesh's policy unless the Sidecar has one.
    pub(crate) fn unknown(&self, mesh: OutboundPolicy) -> OutboundPolicy {
        match self.sidecar.as_ref().and_then(|sidecar| sidecar.spec.outbound_traffic_policy.as_ref()) {
            None => mesh,
            Some(policy) if policy.mode == OutboundMode::RegistryOnly => OutboundPolicy::RegistryOnly,
            Some(_) => OutboundPolicy::AllowAny,
        }
    }

    fn covers(&self, pattern: &Pattern<'_>, service: &MeshService) -> bool {
        let namespace = service.service.namespace.as_str();
        let there = match pattern.namespace {
            "*" => true,
            "." => namespace == self.namespace.as_str(),
            name => namespace == name,
        };
        there && pattern.host.covers(service.service.host.as_str())
    }
}

fn pattern(text: &str) -> Option<Pattern<'_>> {
    let (namespace, host) = text.split_once('/')?;
    let host = Hostname::new(host).ok()?;
    Some(match namespace.strip_prefix('~') {
        Some("") => Pattern { excludes: true, namespace: "*", host },
        Some(name) => Pattern { excludes: true, namespace: name, host },
        None => Pattern { excludes: false, namespace, host },
    })
}

fn selector(sidecar: &Sidecar) -> Option<Selector> {
    let labels = &sidecar.workload_selector.as_ref()?.labels;
    (!labels.is_empty()).then(|| Selector(labels.clone()))
}
