//! What our cluster tells its peers: aggregates by place, never pods.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isthmus_model::{
    Capacity, ClusterId, Endpoint, Health, Labels, Locality, NetworkGateway, NetworkId, ServiceExport,
    Source, TlsMode,
};

use crate::peer_auth::{Mode, PeerPolicies};
use crate::snapshot::{MeshService, ServiceKey, Snapshot};

/// Labels that subsets usually select by; those of DestinationRules come besides.
const SUBSET_LABELS: [&str; 2] = ["app", "version"];

/// What `cluster` exports at this snapshot, in the order of hosts. Left out: `kube-system`, `kubernetes`, what opted out
/// (annotation `networking.istio.io/exportTo`, label `isthmus.io/export: "false"`), services outside the mesh or without
/// addresses of their own (headless), and those whose every endpoint is plain, by its agent or by PeerAuthentication: only mutual
/// TLS passes gateways.
#[must_use]
pub fn exports(snapshot: &Snapshot, cluster: &ClusterId) -> Vec<ServiceExport> {
    let subset_labels = subset_labels(snapshot);
    snapshot
        .services
        .iter()
        .filter(|(_, service)| is_local(service, cluster) && service.exportable)
        .filter(|(_, service)| !service.service.is_headless() && !service.service.ports.is_empty())
        .filter_map(|(key, service)| {
            let endpoints = snapshot.endpoints(key).map_or(&[][..], |endpoints| endpoints);
            let policies = PeerPolicies::of(snapshot, &key.namespace);
            export(key, service, endpoints, cluster, &subset_labels, &policies)
        })
        .collect()
}

/// Gateways that `cluster` itself declares, for its peers.
#[must_use]
pub fn own_gateways(snapshot: &Snapshot, cluster: &ClusterId) -> Vec<NetworkGateway> {
    snapshot.gateways.declared.iter().filter(|gateway| gateway.cluster == *cluster).cloned().collect()
}

/// Whether peers may be told of a service, as far as its declaration says: what a gateway serves to other networks.
#[must_use]
pub fn is_exported(service: &MeshService, cluster: &ClusterId) -> bool {
    is_local(service, cluster) && service.exportable && !service.service.is_headless()
}

fn is_local(service: &MeshService, cluster: &ClusterId) -> bool {
    match &service.service.source {
        Source::Kubernetes(owner) => owner == cluster,
        Source::ServiceEntry => true,
        Source::Imported(_) => false,
    }
}

fn export(
    key: &ServiceKey,
    service: &MeshService,
    endpoints: &[Endpoint],
    cluster: &ClusterId,
    subset_labels: &BTreeSet<Arc<str>>,
    policies: &PeerPolicies,
) -> Option<ServiceExport> {
    let own: Vec<&Endpoint> =
        endpoints.iter().filter(|endpoint| endpoint.cluster == *cluster && !endpoint.aggregate).collect();
    let mutual: Vec<&&Endpoint> = own.iter().filter(|endpoint| speaks_mutual(endpoint, policies)).collect();
    if mutual.is_empty() && !own.is_empty() {
        return None;
    }
    let mut places: BTreeMap<(Locality, NetworkId, Labels), (u32, u32)> = BTreeMap::new();
    for endpoint in mutual {
        let chosen: Labels =
            endpoint.labels.iter().filter(|(label, _)| subset_labels.contains(*label)).collect();
        let place = (endpoint.locality.clone(), endpoint.network.clone(), chosen);
        let (ready, unready) = places.entry(place).or_default();
        match endpoint.health {
            Health::Healthy => *ready = ready.saturating_add(endpoint.weight.max(1)),
            Health::Unhealthy | Health::Draining => *unready = unready.saturating_add(1),
        }
    }
    Some(ServiceExport {
        host: key.host.clone(),
        name: Arc::clone(&service.service.name),
        namespace: key.namespace.clone(),
        ports: service.service.ports.clone(),
        addresses: service.service.addresses.clone(),
        location: service.service.location,
        labels: service.service.labels.clone(),
        capacity: places
            .into_iter()
            .map(|((locality, network, labels), (ready, unready))| Capacity {
                locality,
                network,
                labels,
                ready,
                unready,
            })
            .collect(),
        identities: service.own_identities.clone(),
    })
}

/// Whether mutual TLS reaches an endpoint at some port of it.
fn speaks_mutual(endpoint: &Endpoint, policies: &PeerPolicies) -> bool {
    if endpoint.tls != TlsMode::Istio {
        return false;
    }
    let modes = policies.modes(&endpoint.labels);
    endpoint.ports.values().any(|port| modes.at(*port) != Mode::Disable)
}

fn subset_labels(snapshot: &Snapshot) -> BTreeSet<Arc<str>> {
    let mut labels: BTreeSet<Arc<str>> = SUBSET_LABELS.into_iter().map(Arc::from).collect();
    for config in snapshot.config.values() {
        for rule in config.destination_rules.iter() {
            for subset in &rule.spec.subsets {
                labels.extend(subset.labels.iter().map(|(label, _)| Arc::from(label)));
            }
        }
    }
    labels.retain(|label| !label.starts_with("topology.") && &**label != "kubernetes.io/hostname");
    labels
}
