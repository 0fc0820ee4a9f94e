//! Proxies that must get the same resources: what of a proxy translation may look at.

use std::collections::BTreeSet;
use std::sync::Arc;

use isthmus_model::{ClusterId, Labels, Locality, Namespace, NetworkId};
use isthmus_registry::Snapshot;

use crate::settings::{Proxy, ProxyKind};

/// Everything of a proxy that outbound resources depend on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Class {
    pub(crate) kind: ProxyKind,
    pub(crate) namespace: Namespace,
    pub(crate) cluster: ClusterId,
    pub(crate) network: NetworkId,
    pub(crate) locality: Locality,
    pub(crate) network_view: Vec<NetworkId>,
    pub(crate) dns_capture: bool,
    pub(crate) ipv4: bool,
    pub(crate) ipv6: bool,
    /// Labels that some selector or failover rule asks for; all of a gateway's.
    pub(crate) labels: Labels,
    pub(crate) node: Option<Arc<str>>,
}

impl Class {
    /// The class of a proxy at a snapshot.
    pub(crate) fn of(proxy: &Proxy, labels: &Labels, locality: &Locality, snapshot: &Snapshot) -> Self {
        let labels = match proxy.kind {
            ProxyKind::Router => labels.clone(),
            ProxyKind::Sidecar => {
                let keys = label_keys(snapshot, &proxy.namespace);
                labels.iter().filter(|(key, _)| keys.contains(*key)).collect()
            }
        };
        let ipv4 = proxy.ips.iter().any(std::net::IpAddr::is_ipv4);
        let ipv6 = proxy.ips.iter().any(std::net::IpAddr::is_ipv6);
        let unknown = proxy.ips.is_empty();
        let mut network_view = proxy.requested_network_view.clone();
        network_view.sort();
        Self {
            kind: proxy.kind,
            namespace: proxy.namespace.clone(),
            cluster: proxy.cluster.clone(),
            network: proxy.network.clone(),
            locality: locality.clone(),
            network_view,
            dns_capture: proxy.dns_capture,
            ipv4: ipv4 || unknown,
            ipv6: ipv6 || unknown,
            labels,
            node: None,
        }
    }

    /// The value that a failover label has for this class of proxies, topology included.
    pub(crate) fn label(&self, key: &str) -> &str {
        match key {
            "topology.istio.io/network" => self.network.as_str(),
            "topology.istio.io/cluster" => self.cluster.as_str(),
            "topology.kubernetes.io/region" => &self.locality.region,
            "topology.kubernetes.io/zone" => &self.locality.zone,
            "topology.istio.io/subzone" => &self.locality.subzone,
            "kubernetes.io/hostname" => self.node.as_deref().unwrap_or_default(),
            _ => self.labels.get(key).unwrap_or_default(),
        }
    }

    /// Whether the proxies have an address of this family.
    pub(crate) fn has_family(&self, address: std::net::IpAddr) -> bool {
        if address.is_ipv4() { self.ipv4 } else { self.ipv6 }
    }
}

/// Labels of client workloads that configuration looks at, for clients in `namespace`.
fn label_keys(snapshot: &Snapshot, namespace: &Namespace) -> BTreeSet<Arc<str>> {
    let mut keys = BTreeSet::new();
    let mut add = |labels: &Labels| keys.extend(labels.iter().map(|(key, _)| Arc::from(key)));
    if let Some(config) = snapshot.config(namespace) {
        for rule in config.destination_rules.iter() {
            rule.spec.workload_selector.iter().for_each(|selector| add(&selector.labels));
        }
        for sidecar in config.sidecars.iter() {
            sidecar.spec.workload_selector.iter().for_each(|selector| add(&selector.labels));
        }
    }
    for config in snapshot.config.values() {
        for rule in config.destination_rules.iter() {
            for label in crate::destination::failover_labels(&rule.spec) {
                keys.insert(Arc::from(label));
            }
        }
        for routes in config.virtual_services.iter() {
            for route in &routes.spec.tcp {
                for found in &route.r#match {
                    keys.extend(found.source_labels.iter().map(|(key, _)| Arc::from(key)));
                }
            }
        }
    }
    keys
}
