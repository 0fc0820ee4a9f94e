//! Pure conversions to the model: what the registry calls to turn one cluster's objects into services and endpoints.

mod endpoint;
mod gateway;
mod locality;
mod service;

use isthmus_model::{ClusterId, Labels, Namespace, NetworkId, Service, Source, TrustDomain};

pub use endpoint::{
    inline_endpoints, pod_endpoint, slice_endpoints, workload_entry_endpoint, workload_labels,
};
pub use gateway::{gateway_addresses, network_gateways};
pub use locality::{node_locality, pod_locality, workload_entry_locality};
pub use service::{address_ranges, kubernetes_service, service_entry};

use crate::kubernetes;
use crate::meta::Resource;

/// Label with an endpoint's, a gateway's or a system namespace's network.
pub const NETWORK_LABEL: &str = "topology.istio.io/network";
/// Label that says whether a workload speaks mutual TLS.
pub const TLS_MODE_LABEL: &str = "security.istio.io/tlsMode";
/// Annotation of WorkloadEntries whose Healthy condition decides.
pub const HEALTH_CHECKS_ANNOTATION: &str = "proxy.istio.io/health-checks-enabled";
/// Label of EndpointSlices with their Service's name.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// The cluster whose objects are converted.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// Its name.
    pub cluster: &'a ClusterId,
    /// Trust domain of its identities.
    pub trust_domain: &'a TrustDomain,
    /// DNS domain of its Services, usually `cluster.local`.
    pub domain: &'a str,
    /// Its default network: label `topology.istio.io/network` of its system namespace.
    pub network: &'a NetworkId,
    /// Networks of addresses, where it has no default one; the first range that holds an address decides.
    pub ranges: &'a [(ipnet::IpNet, NetworkId)],
}

impl Site<'_> {
    /// Network of a workload: its own field, then its label, then its cluster's, then that of its address.
    #[must_use]
    pub fn network_of(&self, own: &str, labels: &Labels, address: &str) -> NetworkId {
        let text = if own.is_empty() { labels.get(NETWORK_LABEL).unwrap_or_default() } else { own };
        match NetworkId::new(text) {
            Ok(network) if !network.is_unnamed() => network,
            _ if !self.network.is_unnamed() => self.network.clone(),
            _ => self.by_address(address),
        }
    }

    fn by_address(&self, address: &str) -> NetworkId {
        let Ok(address) = address.parse::<std::net::IpAddr>() else { return self.network.clone() };
        let found = self.ranges.iter().find(|(range, _)| range.contains(&address));
        found.map_or_else(|| self.network.clone(), |(_, network)| network.clone())
    }
}

/// Finds what endpoints refer to. Called by the conversions of EndpointSlices.
pub trait Lookup {
    /// A Pod by namespace and name.
    fn pod(&self, namespace: &str, name: &str) -> Option<&Resource<kubernetes::Pod>>;
    /// A Node by name.
    fn node(&self, name: &str) -> Option<&Resource<kubernetes::Node>>;
}

/// Whether a service selects workloads with these labels: same namespace, and all pairs of its selector among them. A
/// Kubernetes Service with an empty selector selects nothing, a ServiceEntry with one selects its whole namespace.
#[must_use]
pub fn selects(service: &Service, namespace: &Namespace, labels: &Labels) -> bool {
    let Some(selector) = &service.selector else { return false };
    if service.namespace != *namespace || (selector.is_empty() && service.source != Source::ServiceEntry) {
        return false;
    }
    selector.matches(labels)
}

/// Labels as Istio matches subsets and failover priorities against: those of the workload and where it is. Of a node it may be empty.
#[must_use]
pub fn topology_labels(
    labels: &Labels,
    locality: &isthmus_model::Locality,
    cluster: &ClusterId,
    network: &NetworkId,
    node: &str,
) -> Labels {
    let pairs = [
        ("topology.kubernetes.io/region", &*locality.region),
        ("topology.kubernetes.io/zone", &*locality.zone),
        ("topology.istio.io/subzone", &*locality.subzone),
        ("topology.istio.io/cluster", cluster.as_str()),
        (NETWORK_LABEL, network.as_str()),
        ("kubernetes.io/hostname", node),
    ];
    labels.joined(&pairs.into_iter().filter(|(_, value)| !value.is_empty()).collect())
}

#[cfg(test)]
mod tests;
