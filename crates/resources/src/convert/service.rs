//! Services from Kubernetes Services and ServiceEntries.

use std::net::IpAddr;
use std::sync::Arc;

use isthmus_model::{
    Hostname, Location, Protocol, Resolution, Selector, Service, ServicePort, Source, TargetPort,
};

use super::Site;
use crate::istio::{self, ServiceEntryLocation, ServiceEntryResolution};
use crate::kubernetes::{self, ServiceType};
use crate::meta::Resource;

/// The service behind a Kubernetes Service; none for type ExternalName and for names that are not hosts.
#[must_use]
pub fn kubernetes_service(site: Site<'_>, service: &Resource<kubernetes::Service>) -> Option<Service> {
    let Resource { meta, spec } = service;
    if spec.kind == ServiceType::ExternalName {
        return None;
    }
    let namespace = meta.namespace.clone()?;
    let host = Hostname::new(format!("{}.{namespace}.svc.{}", meta.name, site.domain)).ok()?;
    let ports = spec.ports.iter().map(|port| ServicePort {
        name: Arc::clone(&port.name),
        number: port.number,
        protocol: port.protocol,
        target: port.target.clone(),
    });
    let export_to = meta.annotations.get("networking.istio.io/exportTo").unwrap_or_default();
    Some(Service {
        host,
        name: Arc::clone(&meta.name),
        namespace,
        source: Source::Kubernetes(site.cluster.clone()),
        addresses: spec.cluster_ips.clone(),
        auto_addresses: Vec::new(),
        ports: ports.collect(),
        resolution: if spec.headless { Resolution::None } else { Resolution::Static },
        location: Location::MeshInternal,
        selector: (!spec.selector.is_empty()).then(|| Selector(spec.selector.clone())),
        labels: meta.labels.clone(),
        export_to: export_to.split(',').map(str::trim).filter(|to| !to.is_empty()).map(Arc::from).collect(),
        created: meta.created,
    })
}

/// The services of a ServiceEntry, one for each host. Hosts that are no host names are left out; validation names them.
#[must_use]
pub fn service_entry(entry: &Resource<istio::ServiceEntry>) -> Vec<Service> {
    let Resource { meta, spec } = entry;
    let Some(namespace) = &meta.namespace else { return Vec::new() };
    let ports: Vec<ServicePort> = spec.ports.iter().map(port).collect();
    let addresses: Vec<IpAddr> = spec.addresses.iter().filter_map(|text| single_address(text)).collect();
    let auto_addresses = |host: &str| -> Vec<IpAddr> {
        if !spec.addresses.is_empty() || spec.resolution == ServiceEntryResolution::None {
            return Vec::new();
        }
        let of_host = spec.status.addresses.iter().filter(|address| address.host.eq_ignore_ascii_case(host));
        of_host.filter_map(|address| address.value.parse().ok()).collect()
    };
    let hosts = spec.hosts.iter().filter_map(|host| Hostname::new(host.to_ascii_lowercase()).ok());
    hosts
        .map(|host| Service {
            auto_addresses: auto_addresses(host.as_str()),
            host,
            name: Arc::clone(&meta.name),
            namespace: namespace.clone(),
            source: Source::ServiceEntry,
            addresses: addresses.clone(),
            ports: ports.clone(),
            resolution: match spec.resolution {
                ServiceEntryResolution::None => Resolution::None,
                ServiceEntryResolution::Static => Resolution::Static,
                ServiceEntryResolution::Dns | ServiceEntryResolution::DynamicDns => Resolution::Dns,
                ServiceEntryResolution::DnsRoundRobin => Resolution::DnsRoundRobin,
            },
            location: match spec.location {
                ServiceEntryLocation::MeshInternal => Location::MeshInternal,
                ServiceEntryLocation::MeshExternal => Location::MeshExternal,
            },
            selector: spec.workload_selector.as_ref().map(|selector| Selector(selector.labels.clone())),
            labels: meta.labels.clone(),
            export_to: spec.export_to.iter().map(|to| Arc::from(to.as_str())).collect(),
            created: meta.created,
        })
        .collect()
}

/// Addresses of a ServiceEntry that are ranges of several.
#[must_use]
pub fn address_ranges(spec: &istio::ServiceEntry) -> Vec<ipnet::IpNet> {
    let several = spec.addresses.iter().filter(|text| single_address(text).is_none());
    several.filter_map(|text| text.parse::<ipnet::IpNet>().ok()).map(|range| range.trunc()).collect()
}

fn port(port: &istio::ServiceEntryPort) -> ServicePort {
    // The fallback for well-known ports is for Kubernetes Services only; number 0 keeps clear of it.
    let protocol = if port.protocol.is_empty() {
        Protocol::declared(None, &port.name, 0, false)
    } else {
        Protocol::parse(&port.protocol)
    };
    ServicePort {
        name: port.name.as_str().into(),
        number: port.number,
        protocol,
        target: TargetPort::Number(if port.target_port == 0 { port.number } else { port.target_port }),
    }
}

/// An address, or a CIDR that holds one only.
fn single_address(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let network: ipnet::IpNet = text.parse().ok()?;
    (network.prefix_len() == network.max_prefix_len()).then(|| network.addr())
}
