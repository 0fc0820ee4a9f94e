//! One service from all that declare it.

use std::collections::BTreeSet;
use std::sync::Arc;

use isthmus_model::{ClusterId, Endpoint, Hostname, Namespace, Source, SpiffeId};
use isthmus_resources::{Kind, Object, Resource, istio};

use crate::allocate::Allocator;
use crate::declared::{Declared, selected_by};
use crate::peer::{aggregates, imported_service, is_cluster_local};
use crate::registry::Registry;
use crate::snapshot::{MeshService, ServiceKey};

/// A merged service and its endpoints.
pub(crate) type Merged = (MeshService, Vec<Endpoint>);

impl Registry {
    /// The service of a key: Kubernetes before ServiceEntry before import, our own cluster before others. None when nobody
    /// declares it.
    pub(crate) fn merge(&self, key: &ServiceKey, allocator: &mut Allocator) -> Option<Merged> {
        let mut declared = self.kubernetes_declarations(key);
        if declared.is_empty() {
            declared = self.entry_declarations(key);
        }
        let cluster_local = self.is_cluster_local(key);
        let exports: Vec<_> = self
            .peers
            .iter()
            .filter(|_| !cluster_local)
            .filter_map(|(peer, records)| Some((peer, records.exports.get(key)?)))
            .collect();
        let mut declared = declared.into_iter();
        let mut merged = match declared.next() {
            Some(base) => from_base(base, cluster_local, &self.settings.cluster),
            None => {
                let (peer, export) = exports.first()?;
                let mut service = imported_service(peer, export);
                match allocator.assign(&key.host) {
                    Ok(address) => service.auto_addresses.push(address.into()),
                    Err(error) => tracing::warn!(%error, "imported service gets no address"),
                }
                (bare(service), Vec::new())
            }
        };
        for other in declared {
            add_cluster(&mut merged, other);
        }
        let (service, endpoints) = &mut merged;
        for (peer, export) in exports {
            service.imported_from.insert(peer.clone());
            service.identities.extend(export.identities.iter().cloned());
            endpoints.extend(aggregates(peer, export, &service.service.ports));
        }
        sort_identities(&mut service.identities);
        sort_identities(&mut service.own_identities);
        endpoints.sort_by(|a, b| endpoint_key(a).cmp(&endpoint_key(b)));
        Some(merged)
    }

    fn kubernetes_declarations(&self, key: &ServiceKey) -> Vec<Declared> {
        let Some(name) = self.kubernetes_name(key) else { return Vec::new() };
        let clusters = self.clusters_own_first();
        let declarations = clusters.filter_map(|cluster| {
            let object = self.sources[cluster].service(&key.namespace, name)?;
            let Object::Service(object) = self.mesh.config.visible(&Object::Service(Arc::clone(object)))
            else {
                return None;
            };
            let network = self.default_network(cluster);
            self.reader(cluster, &network).kubernetes_service(&key.namespace, &object)
        });
        declarations.collect()
    }

    /// The name of the Kubernetes Service that would have this host.
    fn kubernetes_name<'a>(&self, key: &'a ServiceKey) -> Option<&'a str> {
        let suffix = format!(".{}.svc.{}", key.namespace, self.settings.domain);
        key.host.as_str().strip_suffix(&suffix).filter(|name| !name.contains('.'))
    }

    /// ServiceEntries of our cluster with this host in this namespace, oldest first.
    fn entry_declarations(&self, key: &ServiceKey) -> Vec<Declared> {
        let own = &self.settings.cluster;
        let Some(tables) = self.sources.get(own) else { return Vec::new() };
        let mut objects: Vec<Arc<Resource<istio::ServiceEntry>>> = tables
            .within(Kind::ServiceEntry, &key.namespace)
            .filter_map(|object| match self.mesh.config.visible(object) {
                Object::ServiceEntry(object) => Some(object),
                _ => None,
            })
            .filter(|object| {
                object.spec.hosts.iter().any(|host| host.eq_ignore_ascii_case(key.host.as_str()))
            })
            .collect();
        objects.sort_by(|a, b| a.meta.age_key().cmp(&b.meta.age_key()));
        let network = self.default_network(own);
        let reader = self.reader(own, &network);
        objects.into_iter().filter_map(|object| reader.service_entry(&key.host, &object)).collect()
    }

    /// Our own cluster, then the others by name.
    fn clusters_own_first(&self) -> impl Iterator<Item = &ClusterId> {
        let own = self.sources.get_key_value(&self.settings.cluster).map(|(id, _)| id);
        own.into_iter().chain(self.sources.keys().filter(|id| **id != self.settings.cluster))
    }

    fn is_cluster_local(&self, key: &ServiceKey) -> bool {
        if let Some(local) = self.is_set_local(key) {
            return local;
        }
        let name = self.kubernetes_name(key).unwrap_or_default();
        is_cluster_local(key.namespace.as_str(), name)
            || (key.namespace == self.settings.system_namespace && name.starts_with("istiod"))
    }

    /// What the most specific of the mesh's service settings says of a host.
    fn is_set_local(&self, key: &ServiceKey) -> Option<bool> {
        let settings = self.mesh.config.service_settings.iter();
        let named = settings
            .flat_map(|setting| setting.hosts.iter().map(|host| (host, setting.settings.cluster_local)));
        let covering = named.filter(|(host, _)| {
            Hostname::new(host.as_str()).is_ok_and(|host| host.covers(key.host.as_str()))
        });
        covering.max_by_key(|(host, _)| (!host.starts_with('*'), host.len())).map(|(_, local)| local)
    }

    /// Keys of services in a namespace that a workload with these labels may be behind.
    pub(crate) fn selecting(
        &self,
        cluster: &ClusterId,
        namespace: &Namespace,
        labels: &isthmus_model::Labels,
        entry: bool,
    ) -> BTreeSet<ServiceKey> {
        let mut keys = BTreeSet::new();
        let Some(tables) = self.sources.get(cluster) else { return keys };
        if entry {
            let services = tables.within(Kind::Service, namespace).filter(|o| selected_by(o, labels));
            keys.extend(services.filter_map(|object| self.kubernetes_key(&object.meta().name, namespace)));
        }
        if *cluster != self.settings.cluster {
            return keys;
        }
        for object in tables.within(Kind::ServiceEntry, namespace).filter(|o| selected_by(o, labels)) {
            if let Object::ServiceEntry(object) = object {
                keys.extend(entry_keys(object));
            }
        }
        keys
    }
}

/// Keys of the hosts of a ServiceEntry; hosts that are none are left out.
pub(crate) fn entry_keys(object: &Resource<istio::ServiceEntry>) -> Vec<ServiceKey> {
    let Some(namespace) = &object.meta.namespace else { return Vec::new() };
    let hosts = object.spec.hosts.iter();
    hosts
        .filter_map(|host| match isthmus_model::Hostname::new(host.to_ascii_lowercase()) {
            Ok(host) => Some(ServiceKey::new(host, namespace.clone())),
            Err(error) => {
                tracing::warn!(object = %object.meta, %error, "host of a service entry left out");
                None
            }
        })
        .collect()
}

fn bare(service: isthmus_model::Service) -> MeshService {
    MeshService {
        service,
        vips: Vec::new(),
        identities: Vec::new(),
        own_identities: Vec::new(),
        subject_alt_names: Vec::new(),
        ranges: Vec::new(),
        traffic_distribution: None,
        cluster_local: false,
        node_local: false,
        publish_not_ready: false,
        exportable: false,
        imported_from: BTreeSet::new(),
    }
}

fn from_base(base: Declared, cluster_local: bool, own: &ClusterId) -> Merged {
    let mut merged = MeshService {
        subject_alt_names: base.subject_alt_names,
        ranges: base.ranges,
        traffic_distribution: base.traffic_distribution,
        node_local: base.node_local,
        publish_not_ready: base.publish_not_ready,
        cluster_local,
        exportable: base.exportable && !cluster_local,
        identities: base.identities.clone(),
        ..bare(base.service)
    };
    match &merged.service.source {
        Source::Kubernetes(cluster) => {
            merged.vips = vec![(cluster.clone(), merged.service.addresses.clone())];
            if cluster == own {
                merged.own_identities = base.identities;
            } else {
                merged.exportable = false;
            }
        }
        _ => merged.own_identities = base.identities,
    }
    (merged, base.endpoints)
}

/// Another declaration of the same host: the base's shape stays.
fn add_cluster((merged, endpoints): &mut Merged, other: Declared) {
    match &other.service.source {
        Source::Kubernetes(cluster) => {
            merged.vips.push((cluster.clone(), other.service.addresses));
        }
        _ => {
            append(&mut merged.service.addresses, other.service.addresses);
            append(&mut merged.service.auto_addresses, other.service.auto_addresses);
            append(&mut merged.ranges, other.ranges);
            merged.own_identities.extend(other.identities.iter().cloned());
        }
    }
    merged.identities.extend(other.identities);
    endpoints.extend(other.endpoints);
}

fn append<T: PartialEq>(addresses: &mut Vec<T>, more: Vec<T>) {
    for address in more {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
}

fn sort_identities(identities: &mut Vec<SpiffeId>) {
    identities.sort();
    identities.dedup();
    // Each pod had one.
    identities.shrink_to_fit();
}

/// An order that does not depend on the history of a snapshot.
fn endpoint_key(endpoint: &Endpoint) -> impl Ord + '_ {
    (
        &endpoint.cluster,
        &endpoint.address,
        &endpoint.workload,
        &endpoint.network,
        &endpoint.locality,
        &endpoint.labels,
        &endpoint.ports,
    )
}
