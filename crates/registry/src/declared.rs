//! Kubernetes Services and ServiceEntries as services with endpoints.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use isthmus_model::{
    Endpoint, Health, Hostname, Labels, Location, Namespace, Protocol, Resolution, Selector, Service,
    ServicePort, Source, SpiffeId, TargetPort, TlsMode,
};
use isthmus_resources::{Meta, Resource, istio, kubernetes};

use crate::snapshot::{TrafficDistribution, Workload, WorkloadKind};
use crate::workload::Reader;

const EXPORT_TO: &str = "networking.istio.io/exportTo";
const EXPORT: &str = "isthmus.io/export";
const TRAFFIC_DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";

/// One declaration of a service.
pub(crate) struct Declared {
    pub(crate) service: Service,
    pub(crate) endpoints: Vec<Endpoint>,
    /// Of workloads that are not ready too.
    pub(crate) identities: Vec<SpiffeId>,
    pub(crate) subject_alt_names: Vec<Arc<str>>,
    pub(crate) traffic_distribution: Option<TrafficDistribution>,
    pub(crate) publish_not_ready: bool,
    pub(crate) exportable: bool,
}

/// The host of a Kubernetes Service.
pub(crate) fn kubernetes_host(name: &str, namespace: &Namespace, domain: &str) -> Option<Hostname> {
    Hostname::new(format!("{name}.{namespace}.svc.{domain}")).ok()
}

impl Reader<'_> {
    /// A Kubernetes Service with the endpoints of its slices and the WorkloadEntries that it selects. An ExternalName is an
    /// alias of DNS, not a service.
    pub(crate) fn kubernetes_service(
        &self,
        host: &Hostname,
        namespace: &Namespace,
        object: &Resource<kubernetes::Service>,
    ) -> Option<Declared> {
        let spec = &object.spec;
        if spec.kind == kubernetes::ServiceType::ExternalName {
            return None;
        }
        let meta = &object.meta;
        let export_to: Vec<Arc<str>> = meta.annotations.get(EXPORT_TO).map(list).unwrap_or_default();
        let service = Service {
            host: host.clone(),
            name: Arc::clone(&meta.name),
            namespace: namespace.clone(),
            source: Source::Kubernetes(self.cluster.clone()),
            addresses: spec.cluster_ips.clone(),
            auto_addresses: Vec::new(),
            ports: spec
                .ports
                .iter()
                .map(|port| ServicePort {
                    name: Arc::clone(&port.name),
                    number: port.number,
                    protocol: port.protocol,
                    target: port.target.clone(),
                })
                .collect(),
            resolution: if spec.headless { Resolution::None } else { Resolution::Static },
            location: Location::MeshInternal,
            selector: (!spec.selector.is_empty()).then(|| Selector(spec.selector.clone())),
            labels: meta.labels.clone(),
            created: meta.created,
            export_to: export_to.clone(),
        };
        let mut identities = Vec::new();
        let mut endpoints = self.slice_endpoints(namespace, object, &mut identities);
        if let Some(selector) = service.selector.as_ref().filter(|_| !spec.headless) {
            for entry in self.entries(namespace, selector) {
                identities.extend(entry.identity.clone());
                endpoints.extend(entry_endpoint(&entry, &service.ports, false));
            }
        }
        let opted_out = meta.labels.get(EXPORT) == Some("false");
        Some(Declared {
            endpoints,
            identities,
            subject_alt_names: Vec::new(),
            traffic_distribution: self.traffic_distribution(namespace, object),
            publish_not_ready: spec.publish_not_ready,
            exportable: !opted_out && exported_everywhere(&export_to),
            service,
        })
    }

    fn slice_endpoints(
        &self,
        namespace: &Namespace,
        object: &Resource<kubernetes::Service>,
        identities: &mut Vec<SpiffeId>,
    ) -> Vec<Endpoint> {
        let mut found: BTreeMap<Arc<str>, Endpoint> = BTreeMap::new();
        for slice in self.tables.slices(namespace, &object.meta.name) {
            if slice.spec.fqdn {
                continue;
            }
            for listed in &slice.spec.endpoints {
                let Some(address) = listed.addresses.first() else { continue };
                let workload = match &listed.pod {
                    // a Pod that is not known yet: without its identity the endpoint would be taken for a plain one
                    Some((_, pod)) => match self.tables.pod(namespace, pod) {
                        Some(pod) => self.pod(namespace, pod),
                        None => continue,
                    },
                    None => None,
                };
                identities.extend(workload.as_ref().and_then(|workload| workload.identity.clone()));
                if listed.terminating {
                    continue;
                }
                let ready = listed.ready || object.spec.publish_not_ready;
                let health = if ready { Health::Healthy } else { Health::Unhealthy };
                let ports = slice.spec.ports.iter().cloned();
                found
                    .entry(Arc::clone(address))
                    .or_insert_with(|| self.endpoint(namespace, address, workload.as_ref(), health))
                    .ports
                    .extend(ports);
            }
        }
        found.into_values().collect()
    }

    fn endpoint(
        &self,
        namespace: &Namespace,
        address: &Arc<str>,
        workload: Option<&Workload>,
        health: Health,
    ) -> Endpoint {
        match workload {
            Some(workload) => endpoint_of(workload, address, BTreeMap::new(), health),
            None => Endpoint {
                address: Arc::clone(address),
                ports: BTreeMap::new(),
                labels: Labels::default(),
                workload: Arc::from(""),
                namespace: namespace.clone(),
                identity: None,
                tls: TlsMode::Disabled,
                locality: isthmus_model::Locality::default(),
                network: self.default_network.clone(),
                cluster: self.cluster.clone(),
                weight: 1,
                health,
                aggregate: false,
            },
        }
    }

    /// WorkloadEntries of a namespace that a selector selects; an empty selector selects none.
    fn entries<'a>(
        &'a self,
        namespace: &'a Namespace,
        selector: &'a Selector,
    ) -> impl Iterator<Item = Workload> + 'a {
        self.tables
            .workload_entries(namespace)
            .filter(|_| !selector.is_empty())
            .map(|entry| self.entry(namespace, &entry.meta, &entry.meta.name, &entry.spec))
            .filter(|entry| selector.matches(&entry.labels))
    }

    /// A host of a ServiceEntry, with inline endpoints or what its selector selects in its namespace.
    pub(crate) fn service_entry(
        &self,
        host: &Hostname,
        namespace: &Namespace,
        object: &Resource<istio::ServiceEntry>,
    ) -> Declared {
        let spec = &object.spec;
        let ports: Vec<ServicePort> = spec.ports.iter().map(entry_port).collect();
        let dns = matches!(
            spec.resolution,
            istio::ServiceEntryResolution::Dns | istio::ServiceEntryResolution::DnsRoundRobin
        );
        let selector = spec.workload_selector.as_ref().map(|selector| Selector(selector.labels.clone()));
        let mut workloads: Vec<Workload> = Vec::new();
        for (index, entry) in spec.endpoints.iter().enumerate() {
            let name: Arc<str> = format!("{}-{index}", object.meta.name).into();
            workloads.push(self.entry(namespace, &Meta::default(), &name, entry));
        }
        if let Some(selector) = &selector {
            workloads.extend(self.entries(namespace, selector));
            let pods = self.tables.pods(namespace).filter(|pod| selector.matches(&pod.meta.labels));
            workloads.extend(pods.filter_map(|pod| self.pod(namespace, pod)));
        }
        if dns && workloads.is_empty() && spec.endpoints.is_empty() && selector.is_none() {
            workloads.push(self.entry(
                namespace,
                &Meta::default(),
                &object.meta.name,
                &istio::WorkloadEntry { address: host.to_string(), ..Default::default() },
            ));
        }
        let identities = workloads.iter().filter_map(|workload| workload.identity.clone()).collect();
        let endpoints =
            workloads.iter().filter_map(|workload| entry_endpoint(workload, &ports, dns)).collect();
        let export_to: Vec<Arc<str>> = spec.export_to.iter().map(|to| to.as_str().into()).collect();
        let opted_out = object.meta.labels.get(EXPORT) == Some("false");
        let statically = spec.resolution == istio::ServiceEntryResolution::Static;
        let internal = spec.location == istio::ServiceEntryLocation::MeshInternal;
        Declared {
            exportable: internal && statically && !opted_out && exported_everywhere(&export_to),
            service: Service {
                host: host.clone(),
                name: Arc::clone(&object.meta.name),
                namespace: namespace.clone(),
                source: Source::ServiceEntry,
                addresses: spec.addresses.iter().filter_map(|text| single_address(text)).collect(),
                auto_addresses: auto_addresses(spec, host),
                ports,
                resolution: resolution(spec.resolution),
                location: if internal { Location::MeshInternal } else { Location::MeshExternal },
                selector,
                labels: object.meta.labels.clone(),
                export_to,
                created: object.meta.created,
            },
            endpoints,
            identities,
            subject_alt_names: spec.subject_alt_names.iter().map(|name| name.as_str().into()).collect(),
            traffic_distribution: None,
            publish_not_ready: false,
        }
    }

    /// `spec.trafficDistribution`, else the Service's annotation, else the namespace's; an unknown word ends the search.
    fn traffic_distribution(
        &self,
        namespace: &Namespace,
        object: &Resource<kubernetes::Service>,
    ) -> Option<TrafficDistribution> {
        let of_namespace =
            || self.tables.namespace(namespace.as_str())?.meta.annotations.get(TRAFFIC_DISTRIBUTION);
        let word = object
            .spec
            .traffic_distribution
            .as_deref()
            .or_else(|| object.meta.annotations.get(TRAFFIC_DISTRIBUTION))
            .or_else(of_namespace)?;
        match word.to_ascii_lowercase().as_str() {
            "preferclose" | "prefersamezone" => Some(TrafficDistribution::SameZone),
            "prefersamenode" => Some(TrafficDistribution::SameNode),
            _ => None,
        }
    }
}

/// An endpoint from a workload.
fn endpoint_of(
    workload: &Workload,
    address: &Arc<str>,
    ports: BTreeMap<Arc<str>, u16>,
    health: Health,
) -> Endpoint {
    Endpoint {
        address: Arc::clone(address),
        ports,
        labels: workload.labels.clone(),
        workload: Arc::clone(&workload.key.name),
        namespace: workload.key.namespace.clone(),
        identity: workload.identity.clone(),
        tls: workload.tls,
        locality: workload.locality.clone(),
        network: workload.network.clone(),
        cluster: workload.key.cluster.clone(),
        weight: workload.weight,
        health,
        aggregate: false,
    }
}

/// A workload behind ports by Istio's rules (`we.ports` by service port name, else the target); an entry whose health check
/// does not say healthy is no endpoint at all. Entries with host names count only where names are resolved.
fn entry_endpoint(workload: &Workload, ports: &[ServicePort], dns: bool) -> Option<Endpoint> {
    let entry = workload.key.kind == WorkloadKind::Entry;
    if entry && workload.health != Health::Healthy {
        return None;
    }
    let empty = Arc::from("");
    let address = match workload.addresses.first() {
        Some(address) if dns || address.parse::<IpAddr>().is_ok() => address,
        // reachable through its network's gateway alone
        None if !workload.network.is_unnamed() => &empty,
        _ => return None,
    };
    let mut found = BTreeMap::new();
    for port in ports {
        let number = match (workload.ports.get(&port.name), &port.target) {
            (Some(number), _) => Some(*number),
            (None, TargetPort::Number(number)) => Some(*number),
            (None, TargetPort::Name(name)) => workload.ports.get(name).copied(),
        };
        if let Some(number) = number {
            found.insert(Arc::clone(&port.name), number);
        }
    }
    Some(endpoint_of(workload, address, found, workload.health))
}

fn entry_port(port: &istio::ServiceEntryPort) -> ServicePort {
    let target = if port.target_port == 0 { port.number } else { port.target_port };
    ServicePort {
        name: port.name.as_str().into(),
        number: port.number,
        protocol: if port.protocol.is_empty() { Protocol::Auto } else { Protocol::parse(&port.protocol) },
        target: TargetPort::Number(target),
    }
}

fn resolution(wire: istio::ServiceEntryResolution) -> Resolution {
    match wire {
        istio::ServiceEntryResolution::None | istio::ServiceEntryResolution::DynamicDns => Resolution::None,
        istio::ServiceEntryResolution::Static => Resolution::Static,
        istio::ServiceEntryResolution::Dns => Resolution::Dns,
        istio::ServiceEntryResolution::DnsRoundRobin => Resolution::DnsRoundRobin,
    }
}

fn auto_addresses(spec: &istio::ServiceEntry, host: &Hostname) -> Vec<IpAddr> {
    let own = spec.status.addresses.iter().filter(|entry| entry.host == host.as_str());
    own.filter_map(|entry| entry.value.parse().ok()).collect()
}

/// An IP, or a CIDR of one address; wider ranges name no listener.
fn single_address(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let net: ipnet::IpNet = text.parse().ok()?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

fn list(text: &str) -> Vec<Arc<str>> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(Arc::from).collect()
}

fn exported_everywhere(export_to: &[Arc<str>]) -> bool {
    export_to.is_empty() || export_to.iter().any(|to| &**to == "*")
}
