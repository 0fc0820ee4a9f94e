//! What one workload's inbound side depends on, read from a snapshot.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use isthmus_model::{Labels, Namespace, Source, TargetPort};
use isthmus_registry::{MeshService, Snapshot, Workload};
use isthmus_resources::istio::Ingress;

use crate::cluster::is_tcp;
use crate::listener::inbound::Inbound;
use crate::rbac;
use crate::scope;
use crate::settings::{MeshSettings, Proxy};
use isthmus_registry::peer_auth::{Mode, PeerPolicies};

/// The inbound side of a proxy's workload. Until its Pod or WorkloadEntry is known, the labels of its stream stand for it.
pub(crate) fn inbound(
    snapshot: &Snapshot,
    settings: &MeshSettings,
    proxy: &Proxy,
    workload: Option<&Workload>,
    labels: &Labels,
) -> Inbound {
    let namespace = &proxy.namespace;
    let modes = PeerPolicies::of(snapshot, namespace).modes(labels);
    let sidecar = scope::sidecar(snapshot, namespace, labels);
    let ingress: &[Ingress] = sidecar.as_ref().map_or(&[], |sidecar| &sidecar.spec.ingress);
    let declared =
        || ingress.iter().map(|ingress| (ingress.port.number, modes.at(ingress.port.number))).collect();
    let by_services = || {
        snapshot
            .services
            .values()
            .filter(|service| selects(service, proxy, labels))
            .flat_map(|service| target_ports(service, workload))
            .map(|port| (port, modes.at(port)))
            .collect()
    };
    let ports: BTreeMap<u16, Mode> = if ingress.is_empty() { by_services() } else { declared() };
    let endpoints = ingress.iter().filter_map(|ingress| Some((ingress.port.number, onward(ingress, proxy)?)));
    let policy_ports = modes.ports.iter().filter(|(port, _)| !ports.contains_key(port)).copied().collect();
    let mut trust_domains = vec![settings.trust_domain.to_string()];
    trust_domains.extend(settings.trust_domain_aliases.iter().map(ToString::to_string));
    let ipv4 = proxy.ips.is_empty() || proxy.ips.iter().any(std::net::IpAddr::is_ipv4);
    Inbound {
        ports,
        endpoints: endpoints.collect(),
        policy_ports,
        rest: modes.default,
        filters: rbac::filters(snapshot, settings, namespace, labels),
        trust_domains,
        ipv4,
    }
}

/// Where an ingress port goes on to; none is to the port itself.
fn onward(ingress: &Ingress, proxy: &Proxy) -> Option<Arc<str>> {
    let text = ingress.default_endpoint.as_str();
    match text.parse::<SocketAddr>() {
        // the workload's own address
        Ok(socket) if socket.ip().is_unspecified() => {
            let own = proxy.ips.iter().find(|ip| ip.is_ipv4() == socket.is_ipv4())?;
            Some(SocketAddr::new(*own, socket.port()).to_string().into())
        }
        _ => (!text.is_empty()).then(|| text.into()),
    }
}

/// Whether a service of the proxy's own cluster and namespace selects its workload.
fn selects(service: &MeshService, proxy: &Proxy, labels: &Labels) -> bool {
    let declared = &service.service;
    if declared.namespace != proxy.namespace || matches!(declared.source, Source::Imported(_)) {
        return false;
    }
    let selector = declared.selector.as_ref();
    selector.is_some_and(|selector| !selector.is_empty() && selector.matches(labels))
}

/// The workload's ports behind a service: its own by service port name, else the target, by number or by name.
fn target_ports(service: &MeshService, workload: Option<&Workload>) -> Vec<u16> {
    let named = |name: &str| workload.and_then(|workload| workload.ports.get(name).copied());
    let ports = service.service.ports.iter().filter(|port| is_tcp(port));
    ports
        .filter_map(|port| {
            let entry = workload.filter(|w| w.key.kind == isthmus_registry::WorkloadKind::Entry);
            let own = entry.and_then(|entry| entry.ports.get(&port.name).copied());
            own.or_else(|| match &port.target {
                TargetPort::Number(number) => Some(*number),
                TargetPort::Name(name) => named(name),
            })
        })
        .collect()
}

/// The namespace and labels by which policies see a workload.
pub(crate) fn labels<'a>(workload: Option<&'a Workload>, proxy: &'a Proxy) -> &'a Labels {
    workload.map_or(&proxy.labels, |workload| &workload.labels)
}

/// Whether two snapshots can differ in the inbound side of any proxy.
pub(crate) fn may_differ(a: &Snapshot, b: &Snapshot, namespace: &Namespace) -> bool {
    let config = |snapshot: &Snapshot| snapshot.config(namespace).map(std::sync::Arc::as_ptr);
    let root = |snapshot: &Snapshot| snapshot.config(&snapshot.root_namespace).map(std::sync::Arc::as_ptr);
    !a.services.same(&b.services) || config(a) != config(b) || root(a) != root(b)
}
