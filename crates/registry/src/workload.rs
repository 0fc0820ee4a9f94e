//! Pods and WorkloadEntries as workloads.

use std::collections::BTreeMap;
use std::sync::Arc;

use isthmus_model::{
    ClusterId, Health, Labels, Locality, Namespace, NetworkId, SpiffeId, TlsMode, TrustDomain,
};
use isthmus_resources::{Meta, Resource, istio, kubernetes};

use crate::snapshot::{Workload, WorkloadKey, WorkloadKind};
use crate::tables::Tables;

const NETWORK: &str = "topology.istio.io/network";
const TLS_MODE: &str = "security.istio.io/tlsMode";
/// On entries whose agent reports health: without a `True` they take no traffic (`automatic health checks`).
const HEALTH_CHECKED: &str = "proxy.istio.io/health-checks-enabled";

/// What reading one cluster's objects needs to know.
pub(crate) struct Reader<'a> {
    pub(crate) cluster: &'a ClusterId,
    pub(crate) trust_domain: &'a TrustDomain,
    pub(crate) default_network: &'a NetworkId,
    pub(crate) tables: &'a Tables,
}

impl Reader<'_> {
    /// A Pod that has an address and has not ended.
    pub(crate) fn pod(&self, namespace: &Namespace, pod: &Resource<kubernetes::Pod>) -> Option<Workload> {
        if !pod.spec.is_alive() {
            return None;
        }
        let meta = &pod.meta;
        let network = label_network(&meta.labels).unwrap_or_else(|| self.default_network.clone());
        let locality = self.pod_locality(pod);
        let ports = pod.spec.ports.iter().filter(|port| port.tcp && !port.name.is_empty()).rev();
        Some(Workload {
            key: self.key(namespace, &meta.name, WorkloadKind::Pod),
            addresses: pod.spec.ips.iter().map(|ip| ip.to_string().into()).collect(),
            labels: self.with_topology(&meta.labels, &locality, &network, &pod.spec.node),
            identity: self.identity(namespace, &pod.spec.service_account),
            tls: label_tls(&meta.labels).unwrap_or(TlsMode::Disabled),
            locality,
            network,
            ports: ports.map(|port| (Arc::clone(&port.name), port.number)).collect(),
            weight: 1,
            health: if pod.spec.ready { Health::Healthy } else { Health::Unhealthy },
            hostname: pod.spec.hostname.clone(),
            subdomain: pod.spec.subdomain.clone(),
        })
    }

    /// A WorkloadEntry object, or an inline endpoint of a ServiceEntry under that name.
    pub(crate) fn entry(
        &self,
        namespace: &Namespace,
        meta: &Meta,
        name: &Arc<str>,
        entry: &istio::WorkloadEntry,
    ) -> Workload {
        let labels = entry.labels.with(meta.labels.iter());
        let network = match NetworkId::new(entry.network.as_str()) {
            Ok(network) if !network.is_unnamed() => network,
            _ => label_network(&labels).unwrap_or_default(),
        };
        let locality = Locality::parse(&entry.locality);
        let has_account = !entry.service_account.is_empty();
        let by_account = if has_account { TlsMode::Istio } else { TlsMode::Disabled };
        let checked = meta.annotations.get(HEALTH_CHECKED).is_some_and(|value| value == "true");
        let healthy = !checked || entry.status.condition("Healthy") == Some("True");
        Workload {
            key: self.key(namespace, name, WorkloadKind::Entry),
            addresses: if entry.address.is_empty() {
                Vec::new()
            } else {
                vec![entry.address.as_str().into()]
            },
            tls: label_tls(&labels).unwrap_or(by_account),
            labels: self.with_topology(&labels, &locality, &network, ""),
            identity: if has_account { self.identity(namespace, &entry.service_account) } else { None },
            locality,
            network,
            ports: entry.ports.iter().map(|(name, port)| (name.as_str().into(), *port)).collect(),
            weight: entry.weight.max(1),
            health: if healthy { Health::Healthy } else { Health::Unhealthy },
            hostname: None,
            subdomain: None,
        }
    }

    fn key(&self, namespace: &Namespace, name: &Arc<str>, kind: WorkloadKind) -> WorkloadKey {
        WorkloadKey {
            cluster: self.cluster.clone(),
            namespace: namespace.clone(),
            name: Arc::clone(name),
            kind,
        }
    }

    fn identity(&self, namespace: &Namespace, account: &str) -> Option<SpiffeId> {
        let id = SpiffeId {
            trust_domain: self.trust_domain.clone(),
            namespace: namespace.clone(),
            service_account: account.into(),
        };
        // round trip: an account that no certificate can carry is no identity
        id.to_string().parse().ok()
    }

    /// Istio's order: label `topology.istio.io/locality`, its older name (dots for slashes), the node's labels.
    fn pod_locality(&self, pod: &Resource<kubernetes::Pod>) -> Locality {
        let labels = &pod.meta.labels;
        if let Some(text) = labels.get("topology.istio.io/locality").or_else(|| labels.get("istio-locality"))
        {
            return if text.contains('/') {
                Locality::parse(text)
            } else {
                Locality::parse(&text.replace('.', "/"))
            };
        }
        let Some(node) = self.tables.node(&pod.spec.node) else { return Locality::default() };
        let part = |key: &str, older: &str| {
            let labels = &node.meta.labels;
            labels.get(key).or_else(|| labels.get(older)).unwrap_or_default().into()
        };
        Locality {
            region: part("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"),
            zone: part("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"),
            subzone: part("topology.istio.io/subzone", ""),
        }
    }

    fn with_topology(&self, labels: &Labels, locality: &Locality, network: &NetworkId, node: &str) -> Labels {
        topology_labels(labels, locality, self.cluster, network, node)
    }
}

/// Labels as Istio augments them, for subsets and failover priorities.
pub(crate) fn topology_labels(
    labels: &Labels,
    locality: &Locality,
    cluster: &ClusterId,
    network: &NetworkId,
    node: &str,
) -> Labels {
    let pairs: BTreeMap<&str, &str> = BTreeMap::from([
        ("topology.kubernetes.io/region", &*locality.region),
        ("topology.kubernetes.io/zone", &*locality.zone),
        ("topology.istio.io/subzone", &*locality.subzone),
        ("topology.istio.io/cluster", cluster.as_str()),
        (NETWORK, network.as_str()),
        ("kubernetes.io/hostname", node),
    ]);
    labels.with(pairs.into_iter().filter(|(_, value)| !value.is_empty()))
}

/// The network that a label names.
pub(crate) fn label_network(labels: &Labels) -> Option<NetworkId> {
    let network = NetworkId::new(labels.get(NETWORK)?).ok()?;
    (!network.is_unnamed()).then_some(network)
}

fn label_tls(labels: &Labels) -> Option<TlsMode> {
    Some(if labels.get(TLS_MODE)? == "istio" { TlsMode::Istio } else { TlsMode::Disabled })
}
