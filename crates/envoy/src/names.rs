//! Istio's name table: what an agent answers for the hosts of the mesh.

use std::collections::BTreeMap;
use std::net::IpAddr;

use isthmus_model::{Endpoint, Health, Source};
use isthmus_proto::nds::name_table::NameInfo;
use isthmus_proto::resource::Resource;
use isthmus_registry::{MeshService, Snapshot, WorkloadKey, WorkloadKind};
use isthmus_resources::kubernetes::PodDns;
use prost::Message;

use crate::class::Class;
use crate::wire::sorted;

/// The one resource of its type.
pub(crate) const NAME: &str = "name-table";

/// Entries of one service.
pub(crate) type Entries = Vec<(String, NameInfo)>;

/// What a service adds to the table of a class; nothing without an address that the class can use.
pub(crate) fn entries(
    snapshot: &Snapshot,
    class: &Class,
    service: &MeshService,
    endpoints: &[Endpoint],
    domain: &str,
) -> Entries {
    let host = service.service.host.as_str();
    if !service.service.is_headless() {
        let ips = addresses(class, service);
        return if ips.is_empty() {
            Vec::new()
        } else {
            vec![(host.to_string(), info(service, &ips, domain))]
        };
    }
    let reachable: Vec<&Endpoint> = endpoints
        .iter()
        .filter(|endpoint| !endpoint.aggregate && class.network.reaches(&endpoint.network))
        .filter(|endpoint| endpoint.health == Health::Healthy)
        .collect();
    let mut ips: Vec<IpAddr> =
        reachable.iter().filter_map(|endpoint| endpoint.address.parse().ok()).collect();
    ips.retain(|ip| class.has_family(*ip));
    ips.sort();
    ips.dedup();
    if ips.is_empty() || service.service.ports.is_empty() {
        return Vec::new();
    }
    let mut found = vec![(host.to_string(), info(service, &ips, domain))];
    found.extend(pods(snapshot, class, service, &reachable, domain));
    found
}

/// Names of a StatefulSet's pods: `HOSTNAME.SUBDOMAIN.NAMESPACE.svc.DOMAIN`; pods of the class's own cluster win.
fn pods(
    snapshot: &Snapshot,
    class: &Class,
    service: &MeshService,
    endpoints: &[&Endpoint],
    domain: &str,
) -> Entries {
    let mut names: BTreeMap<String, (bool, NameInfo)> = BTreeMap::new();
    for endpoint in endpoints {
        let key = WorkloadKey {
            cluster: endpoint.cluster.clone(),
            namespace: endpoint.namespace.clone(),
            name: endpoint.workload.clone(),
            kind: WorkloadKind::Pod,
        };
        let Some(workload) = snapshot.workloads.get(&key) else { continue };
        let Some(PodDns { hostname: Some(hostname), subdomain: Some(subdomain) }) = workload.dns.as_deref()
        else {
            continue;
        };
        if **subdomain != *service.service.name {
            continue;
        }
        let local = endpoint.cluster == class.cluster;
        let name = format!("{hostname}.{subdomain}.{}.svc.{domain}", endpoint.namespace);
        let entry = names.entry(name).or_insert_with(|| {
            let info = NameInfo {
                registry: "Kubernetes".to_string(),
                shortname: format!("{hostname}.{subdomain}"),
                namespace: endpoint.namespace.to_string(),
                ..Default::default()
            };
            (local, info)
        });
        if local && !entry.0 {
            entry.0 = true;
            entry.1.ips.clear();
        }
        if local == entry.0 {
            entry.1.ips.push(endpoint.address.to_string());
        }
    }
    names.into_iter().map(|(name, (_, info))| (name, info)).collect()
}

/// Addresses that a class uses for a service: those of its cluster, in families that it has. Allocated ones mean something only
/// where an agent answers DNS.
pub(crate) fn addresses(class: &Class, service: &MeshService) -> Vec<IpAddr> {
    let addresses = service.addresses(&class.cluster);
    let allocated = std::ptr::eq(addresses, service.service.auto_addresses.as_slice());
    if allocated && !class.dns_capture {
        return Vec::new();
    }
    let usable = |address: &IpAddr| class.has_family(*address) && !address.is_unspecified();
    addresses.iter().copied().filter(usable).collect()
}

fn info(service: &MeshService, ips: &[IpAddr], domain: &str) -> NameInfo {
    let declared = &service.service;
    let cluster_host = format!("{}.{}.svc.{domain}", declared.name, declared.namespace);
    let kubernetes = match declared.source {
        Source::Kubernetes(_) => true,
        Source::ServiceEntry => false,
        Source::Imported(_) => declared.host.as_str() == cluster_host,
    };
    let text = |value: &str| if kubernetes { value.to_string() } else { String::new() };
    NameInfo {
        ips: ips.iter().map(ToString::to_string).collect(),
        registry: if kubernetes { "Kubernetes" } else { "External" }.to_string(),
        shortname: text(&declared.name),
        namespace: text(declared.namespace.as_str()),
        ..Default::default()
    }
}

/// The table of all entries. A Kubernetes entry replaces another one of its host; two others join.
pub(crate) fn table<'a>(entries: impl Iterator<Item = &'a (String, NameInfo)>) -> Resource {
    let mut table: BTreeMap<String, NameInfo> = BTreeMap::new();
    for (host, info) in entries {
        match table.get_mut(host) {
            None => {
                table.insert(host.clone(), info.clone());
            }
            Some(known) if known.registry == "Kubernetes" => {}
            Some(known) if info.registry == "Kubernetes" => known.clone_from(info),
            Some(known) => known.ips.extend(info.ips.iter().cloned()),
        }
    }
    Resource::new(NAME, sorted::NameTable { table }.encode_to_vec().into())
}
