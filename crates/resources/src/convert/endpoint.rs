//! Endpoints from EndpointSlices, Pods and WorkloadEntries.

use std::net::IpAddr;
use std::sync::Arc;

use isthmus_model::{
    Common, Endpoint, Health, Labels, Location, Namespace, Ports, Resolution, Service, ServicePort, Source,
    SpiffeId, TargetPort, TlsMode, shared_ports,
};

use super::locality::{node_locality, pod_locality, workload_entry_locality};
use super::{HEALTH_CHECKS_ANNOTATION, Lookup, Site, TLS_MODE_LABEL, topology_labels};
use crate::istio;
use crate::kubernetes;
use crate::meta::{Meta, Resource};

/// Endpoints of one EndpointSlice. An endpoint whose Pod is not known yet is left out: without it neither identity nor
/// mutual TLS is known, and guessing plain would leak. Call again when the Pod arrives.
#[must_use]
pub fn slice_endpoints(
    site: Site<'_>,
    slice: &Resource<kubernetes::EndpointSlice>,
    lookup: &dyn Lookup,
) -> Vec<Endpoint> {
    let Some(namespace) = slice.meta.namespace.as_ref().filter(|_| !slice.spec.fqdn) else {
        return Vec::new();
    };
    let ports = shared_ports(slice.spec.ports.iter().cloned().collect());
    let endpoints = slice.spec.endpoints.iter();
    endpoints.filter_map(|endpoint| slice_endpoint(site, namespace, &ports, endpoint, lookup)).collect()
}

fn slice_endpoint(
    site: Site<'_>,
    namespace: &Namespace,
    ports: &Arc<Ports>,
    endpoint: &kubernetes::SliceEndpoint,
    lookup: &dyn Lookup,
) -> Option<Endpoint> {
    let address = &endpoint.address;
    let health = match (endpoint.ready, endpoint.terminating) {
        (true, false) => Health::Healthy,
        (false, false) => Health::Unhealthy,
        (_, true) if endpoint.serving => Health::Draining,
        (_, true) => return None,
    };
    let node = endpoint.node.as_deref().and_then(|name| lookup.node(name));
    let Some((pod_namespace, pod_name)) = &endpoint.pod else {
        return Some(without_pod(site, namespace, ports, endpoint, address, health, node));
    };
    let pod = lookup.pod(pod_namespace, pod_name)?;
    Some(of_pod(site, pod, node, Arc::clone(address), Arc::clone(ports), health))
}

/// An endpoint that somebody wrote by hand: no identity, plain.
fn without_pod(
    site: Site<'_>,
    namespace: &Namespace,
    ports: &Arc<Ports>,
    endpoint: &kubernetes::SliceEndpoint,
    address: &Arc<str>,
    health: Health,
    node: Option<&Resource<kubernetes::Node>>,
) -> Endpoint {
    let mut locality = node.map(node_locality).unwrap_or_default();
    if let (true, Some(zone)) =
        (locality.zone.is_empty(), endpoint.rare.as_ref().and_then(|rare| rare.zone.as_ref()))
    {
        locality.zone = Arc::clone(zone);
    }
    let network = site.network_of("", &Labels::default(), address);
    let node_name = endpoint.node.as_deref().unwrap_or_default();
    Endpoint {
        address: Arc::clone(address),
        labels: topology_labels(&Labels::default(), &locality, site.cluster, &network, node_name),
        workload: Arc::default(),
        weight: 1,
        health,
        ports: Arc::clone(ports),
        common: Common {
            namespace: namespace.clone(),
            identity: None,
            tls: TlsMode::Disabled,
            locality,
            network,
            cluster: site.cluster.clone(),
            aggregate: false,
        }
        .shared(),
    }
}

fn of_pod(
    site: Site<'_>,
    pod: &Resource<kubernetes::Pod>,
    node: Option<&Resource<kubernetes::Node>>,
    address: Arc<str>,
    ports: Arc<Ports>,
    health: Health,
) -> Endpoint {
    let locality = pod_locality(pod, node);
    let network = site.network_of("", &pod.meta.labels, &address);
    let namespace = pod.meta.namespace.clone().unwrap_or_else(default_namespace);
    Endpoint {
        address,
        labels: topology_labels(&pod.meta.labels, &locality, site.cluster, &network, &pod.spec.node),
        workload: Arc::clone(&pod.meta.name),
        weight: 1,
        health,
        ports,
        common: Common {
            identity: identity(site, &namespace, &pod.spec.service_account),
            namespace,
            tls: tls_mode(&pod.meta.labels, false),
            locality,
            network,
            cluster: site.cluster.clone(),
            aggregate: false,
        }
        .shared(),
    }
}

fn default_namespace() -> Namespace {
    Namespace::new("default").expect("a constant that is a namespace")
}

/// The endpoint of a Pod that a ServiceEntry selects. Select with [`super::selects`] first.
#[must_use]
pub fn pod_endpoint(
    site: Site<'_>,
    service: &Service,
    pod: &Resource<kubernetes::Pod>,
    node: Option<&Resource<kubernetes::Node>>,
) -> Option<Endpoint> {
    if !pod.spec.is_alive() {
        return None;
    }
    let address: Arc<str> = pod.spec.ips.first()?.to_string().into();
    let named = |name: &str| pod.spec.named_port(name);
    let ports = service_ports(service, named);
    let health = match (pod.spec.ready, pod.meta.deleting) {
        (_, true) => Health::Draining,
        (true, false) => Health::Healthy,
        (false, false) => Health::Unhealthy,
    };
    (!ports.is_empty()).then(|| of_pod(site, pod, node, address, shared_ports(ports), health))
}

/// The endpoint of a WorkloadEntry for a service that selects it. Select with [`super::selects`] first, by
/// [`istio::WorkloadEntry`]'s labels under those of its metadata.
///
/// None when it must not take traffic: health checks are on and it is not known to be healthy, its address is of a form
/// that the service cannot use, or none of the service's ports is found at it.
#[must_use]
pub fn workload_entry_endpoint(
    site: Site<'_>,
    service: &Service,
    entry: &Resource<istio::WorkloadEntry>,
) -> Option<Endpoint> {
    let Resource { meta, spec } = entry;
    if meta.deleting || !takes_traffic(meta, spec) || !address_fits(service, &spec.address) {
        return None;
    }
    let labels = workload_labels(meta, spec);
    let workload = Arc::clone(&meta.name);
    endpoint_of_entry(
        site,
        service,
        meta,
        Candidate { entry: spec, labels, located_by: Some(meta), workload },
    )
}

/// Labels of a WorkloadEntry, which selectors are matched against: the object's own over those of its specification.
#[must_use]
pub fn workload_labels(meta: &Meta, entry: &istio::WorkloadEntry) -> Labels {
    if entry.labels.is_empty() { meta.labels.clone() } else { entry.labels.with(meta.labels.iter()) }
}

fn takes_traffic(meta: &Meta, entry: &istio::WorkloadEntry) -> bool {
    let checked = meta.annotations.get(HEALTH_CHECKS_ANNOTATION);
    let checked = checked.is_some_and(|text| matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True"));
    !checked || entry.status.condition("Healthy") == Some("True")
}

fn address_fits(service: &Service, address: &str) -> bool {
    if address.is_empty() || address.parse::<IpAddr>().is_ok() {
        return true;
    }
    let by_name = matches!(service.resolution, Resolution::Dns | Resolution::DnsRoundRobin);
    service.source == Source::ServiceEntry && (by_name || address.starts_with("unix://"))
}

/// Endpoints that a ServiceEntry lists itself; for resolution by DNS without any, its host.
#[must_use]
pub fn inline_endpoints(
    site: Site<'_>,
    service: &Service,
    entry: &Resource<istio::ServiceEntry>,
) -> Vec<Endpoint> {
    let Resource { meta, spec } = entry;
    let by_name = matches!(service.resolution, Resolution::Dns | Resolution::DnsRoundRobin);
    if spec.endpoints.is_empty() && spec.workload_selector.is_none() && by_name {
        let own =
            istio::WorkloadEntry { address: service.host.to_string(), ..istio::WorkloadEntry::default() };
        let workload = Arc::clone(&meta.name);
        let candidate = Candidate { entry: &own, labels: Labels::default(), located_by: None, workload };
        return endpoint_of_entry(site, service, meta, candidate).into_iter().collect();
    }
    let usable =
        spec.endpoints.iter().enumerate().filter(|(_, inline)| address_fits(service, &inline.address));
    usable
        .filter_map(|(index, inline)| {
            let workload = format!("{}-{index}", meta.name).into();
            let labels = inline.labels.clone();
            let candidate = Candidate { entry: inline, labels, located_by: None, workload };
            endpoint_of_entry(site, service, meta, candidate)
        })
        .collect()
}

/// A WorkloadEntry, an inline endpoint, or a host that stands for one.
struct Candidate<'a> {
    entry: &'a istio::WorkloadEntry,
    labels: Labels,
    /// Whose labels may say where it runs. An inline endpoint's ServiceEntry says nothing about that.
    located_by: Option<&'a Meta>,
    workload: Arc<str>,
}

fn endpoint_of_entry(
    site: Site<'_>,
    service: &Service,
    meta: &Meta,
    candidate: Candidate<'_>,
) -> Option<Endpoint> {
    let Candidate { entry, labels, located_by, workload } = candidate;
    let namespace = meta.namespace.clone()?;
    let ports = if entry.address.starts_with("unix://") {
        service.ports.iter().map(|port| (Arc::clone(&port.name), 0)).collect()
    } else {
        service_ports(service, |name| entry.ports.get(name).copied())
    };
    if ports.is_empty() {
        return None;
    }
    let locality = workload_entry_locality(entry, located_by);
    let network = site.network_of(&entry.network, &labels, &entry.address);
    let has_account = !entry.service_account.is_empty();
    let internal = service.location == Location::MeshInternal;
    Some(Endpoint {
        address: entry.address.as_str().into(),
        labels: topology_labels(&labels, &locality, site.cluster, &network, ""),
        workload,
        weight: entry.weight.max(1),
        health: Health::Healthy,
        ports: shared_ports(ports),
        common: Common {
            identity: if has_account { identity(site, &namespace, &entry.service_account) } else { None },
            namespace,
            tls: if internal { tls_mode(&labels, has_account) } else { TlsMode::Disabled },
            locality,
            network,
            cluster: site.cluster.clone(),
            aggregate: false,
        }
        .shared(),
    })
}

/// Workload port of each service port, where the workload has one.
fn service_ports(service: &Service, named: impl Fn(&str) -> Option<u16>) -> Ports {
    let resolve = |port: &ServicePort| match &port.target {
        TargetPort::Number(number) => Some(named(&port.name).unwrap_or(*number)),
        TargetPort::Name(name) => named(name),
    };
    service.ports.iter().filter_map(|port| Some((Arc::clone(&port.name), resolve(port)?))).collect()
}

/// The label decides; without it a workload with a service account speaks mutual TLS where `account` says so.
fn tls_mode(labels: &Labels, account: bool) -> TlsMode {
    match labels.get(TLS_MODE_LABEL) {
        Some("istio") => TlsMode::Istio,
        Some(_) => TlsMode::Disabled,
        None if account => TlsMode::Istio,
        None => TlsMode::Disabled,
    }
}

/// Identity of a service account; none when its name is malformed.
fn identity(site: Site<'_>, namespace: &Namespace, account: &str) -> Option<SpiffeId> {
    let text = format!("spiffe://{}/ns/{namespace}/sa/{account}", site.trust_domain);
    text.parse().ok()
}
