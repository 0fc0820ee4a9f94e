//! Kubernetes Services and ServiceEntries with what they select.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use isthmus_model::{Endpoint, Health, Hostname, Namespace, Selector, Service, SpiffeId, shared_ports};
use isthmus_resources::{Object, Resource, convert, istio, kubernetes};

use crate::snapshot::TrafficDistribution;
use crate::workload::Reader;

const EXPORT: &str = "isthmus.io/export";
const TRAFFIC_DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";

/// One declaration of a service.
pub(crate) struct Declared {
    pub(crate) service: Service,
    pub(crate) endpoints: Vec<Endpoint>,
    /// Of workloads that are not ready too.
    pub(crate) identities: Vec<SpiffeId>,
    pub(crate) subject_alt_names: Vec<Arc<str>>,
    pub(crate) ranges: Vec<IpNet>,
    pub(crate) traffic_distribution: Option<TrafficDistribution>,
    pub(crate) node_local: bool,
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
        namespace: &Namespace,
        object: &Resource<kubernetes::Service>,
    ) -> Option<Declared> {
        let service = convert::kubernetes_service(self.site, object)?;
        let mut endpoints = self.slice_endpoints(namespace, object);
        let mut identities: Vec<SpiffeId> =
            endpoints.iter().filter_map(|endpoint| endpoint.identity.clone()).collect();
        if !service.is_headless() {
            self.select_entries(&service, &mut endpoints, &mut identities);
        }
        let opted_out = object.meta.labels.get(EXPORT) == Some("false");
        Some(Declared {
            endpoints,
            identities,
            subject_alt_names: Vec::new(),
            ranges: Vec::new(),
            traffic_distribution: self.traffic_distribution(namespace, object),
            node_local: object.spec.internal_local,
            publish_not_ready: object.spec.publish_not_ready,
            exportable: !opted_out && exported_everywhere(&service.export_to),
            service,
        })
    }

    /// Endpoints of all slices of a service; slices that name one address with different ports are one endpoint.
    fn slice_endpoints(
        &self,
        namespace: &Namespace,
        object: &Resource<kubernetes::Service>,
    ) -> Vec<Endpoint> {
        let mut found: BTreeMap<Arc<str>, Endpoint> = BTreeMap::new();
        for slice in self.tables.slices(namespace, &object.meta.name) {
            for mut endpoint in convert::slice_endpoints(self.site, slice, self.tables) {
                if object.spec.publish_not_ready && endpoint.health == Health::Unhealthy {
                    endpoint.health = Health::Healthy;
                }
                match found.get_mut(&endpoint.address) {
                    Some(known) => {
                        let more = endpoint.ports.iter().map(|(name, port)| (Arc::clone(name), *port));
                        known.ports = shared_ports(
                            known
                                .ports
                                .iter()
                                .map(|(name, port)| (Arc::clone(name), *port))
                                .chain(more)
                                .collect(),
                        );
                    }
                    None => drop(found.insert(Arc::clone(&endpoint.address), endpoint)),
                }
            }
        }
        found.into_values().collect()
    }

    /// WorkloadEntries that a service selects; one that is not healthy is no endpoint, and keeps its identity known.
    fn select_entries(
        &self,
        service: &Service,
        endpoints: &mut Vec<Endpoint>,
        identities: &mut Vec<SpiffeId>,
    ) {
        if service.selector.is_none() {
            return;
        }
        for entry in self.tables.workload_entries(&service.namespace) {
            let labels = convert::workload_labels(&entry.meta, &entry.spec);
            if convert::selects(service, &service.namespace, &labels) {
                identities.extend(self.account_identity(&service.namespace, &entry.spec.service_account));
                endpoints.extend(convert::workload_entry_endpoint(self.site, service, entry));
            }
        }
    }

    /// A host of a ServiceEntry, with inline endpoints or what its selector selects in its namespace.
    pub(crate) fn service_entry(
        &self,
        host: &Hostname,
        object: &Resource<istio::ServiceEntry>,
    ) -> Option<Declared> {
        let service = convert::service_entry(object).into_iter().find(|service| service.host == *host)?;
        let mut endpoints = convert::inline_endpoints(self.site, &service, object);
        let mut identities: Vec<SpiffeId> =
            endpoints.iter().filter_map(|endpoint| endpoint.identity.clone()).collect();
        self.select_entries(&service, &mut endpoints, &mut identities);
        if let Some(selector) = &service.selector {
            for pod in self.tables.pods(&service.namespace) {
                if !selector.matches(&pod.meta.labels) {
                    continue;
                }
                let node = convert::Lookup::node(self.tables, &pod.spec.node);
                let endpoint = convert::pod_endpoint(self.site, &service, pod, node);
                identities.extend(endpoint.as_ref().and_then(|endpoint| endpoint.identity.clone()));
                endpoints.extend(endpoint);
            }
        }
        let opted_out = object.meta.labels.get(EXPORT) == Some("false");
        let statically = object.spec.resolution == istio::ServiceEntryResolution::Static;
        let internal = object.spec.location == istio::ServiceEntryLocation::MeshInternal;
        Some(Declared {
            exportable: internal && statically && !opted_out && exported_everywhere(&service.export_to),
            endpoints,
            identities,
            subject_alt_names: object
                .spec
                .subject_alt_names
                .iter()
                .map(|name| name.as_str().into())
                .collect(),
            ranges: convert::address_ranges(&object.spec),
            traffic_distribution: None,
            node_local: false,
            publish_not_ready: false,
            service,
        })
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

/// Keys of services of a table whose selector a workload's labels meet: Kubernetes Services, which take entries only, and
/// ServiceEntries.
pub(crate) fn selected_by(object: &Object, labels: &isthmus_model::Labels) -> bool {
    match object {
        Object::Service(service) => {
            !service.spec.selector.is_empty() && Selector(service.spec.selector.clone()).matches(labels)
        }
        Object::ServiceEntry(entry) => {
            let selector = entry.spec.workload_selector.as_ref();
            selector.is_some_and(|selector| Selector(selector.labels.clone()).matches(labels))
        }
        _ => false,
    }
}

fn exported_everywhere(export_to: &[Arc<str>]) -> bool {
    export_to.is_empty() || export_to.iter().any(|to| &**to == "*")
}
