//! Pods and WorkloadEntries as workloads.

use std::sync::Arc;

use isthmus_model::{Common, Health, Labels, Namespace, NetworkId, SpiffeId, TlsMode, shared_ports};
use isthmus_resources::convert::{
    self, HEALTH_CHECKS_ANNOTATION, NETWORK_LABEL, Site, TLS_MODE_LABEL, topology_labels,
};
use isthmus_resources::{Resource, istio, kubernetes};

use crate::snapshot::{Workload, WorkloadKey, WorkloadKind};
use crate::tables::Tables;

/// One cluster's objects with what reading them needs to know.
pub(crate) struct Reader<'a> {
    pub(crate) site: Site<'a>,
    pub(crate) tables: &'a Tables,
}

impl Reader<'_> {
    /// A Pod that has an address and has not ended.
    pub(crate) fn pod(&self, namespace: &Namespace, pod: &Resource<kubernetes::Pod>) -> Option<Workload> {
        if !pod.spec.is_alive() {
            return None;
        }
        let meta = &pod.meta;
        let address = pod.spec.ips.first().map(ToString::to_string).unwrap_or_default();
        let network = self.site.network_of("", &meta.labels, &address);
        let locality = convert::pod_locality(pod, convert::Lookup::node(self.tables, &pod.spec.node));
        // of several ports with one name the first counts
        let ports = pod.spec.ports.iter().filter(|port| port.tcp && !port.name.is_empty()).rev();
        Some(Workload {
            key: self.key(namespace, &meta.name, WorkloadKind::Pod),
            ips: Arc::clone(&pod.spec.ips),
            labels: topology_labels(&meta.labels, &locality, self.site.cluster, &network, &pod.spec.node),
            weight: 1,
            health: if pod.spec.ready { Health::Healthy } else { Health::Unhealthy },
            dns: pod.spec.dns.clone(),
            ports: shared_ports(ports.map(|port| (Arc::clone(&port.name), port.number)).collect()),
            common: Common {
                namespace: namespace.clone(),
                identity: self.account_identity(namespace, &pod.spec.service_account),
                tls: label_tls(&meta.labels).unwrap_or(TlsMode::Disabled),
                locality,
                network,
                cluster: self.site.cluster.clone(),
                aggregate: false,
            }
            .shared(),
        })
    }

    /// A WorkloadEntry.
    pub(crate) fn entry(&self, namespace: &Namespace, object: &Resource<istio::WorkloadEntry>) -> Workload {
        let Resource { meta, spec } = object;
        let labels = convert::workload_labels(meta, spec);
        let network = self.site.network_of(&spec.network, &labels, &spec.address);
        let locality = convert::workload_entry_locality(spec, Some(meta));
        let has_account = !spec.service_account.is_empty();
        let by_account = if has_account { TlsMode::Istio } else { TlsMode::Disabled };
        let checked = meta.annotations.get(HEALTH_CHECKS_ANNOTATION) == Some("true");
        let healthy = !checked || spec.status.condition("Healthy") == Some("True");
        Workload {
            key: self.key(namespace, &meta.name, WorkloadKind::Entry),
            ips: spec.address.parse().into_iter().collect(),
            labels: topology_labels(&labels, &locality, self.site.cluster, &network, ""),
            weight: spec.weight.max(1),
            health: if healthy { Health::Healthy } else { Health::Unhealthy },
            dns: None,
            ports: shared_ports(
                spec.ports.iter().map(|(name, port)| (name.as_str().into(), *port)).collect(),
            ),
            common: Common {
                namespace: namespace.clone(),
                identity: self.account_identity(namespace, &spec.service_account),
                tls: label_tls(&labels).unwrap_or(by_account),
                locality,
                network,
                cluster: self.site.cluster.clone(),
                aggregate: false,
            }
            .shared(),
        }
    }

    /// The identity of a service account; none when it is empty or no certificate can carry it.
    pub(crate) fn account_identity(&self, namespace: &Namespace, account: &str) -> Option<SpiffeId> {
        if account.is_empty() {
            return None;
        }
        let id = SpiffeId {
            trust_domain: self.site.trust_domain.clone(),
            namespace: namespace.clone(),
            service_account: account.into(),
        };
        id.to_string().parse().ok()
    }

    fn key(&self, namespace: &Namespace, name: &Arc<str>, kind: WorkloadKind) -> WorkloadKey {
        WorkloadKey {
            cluster: self.site.cluster.clone(),
            namespace: namespace.clone(),
            name: Arc::clone(name),
            kind,
        }
    }
}

/// The network that a label names.
pub(crate) fn label_network(labels: &Labels) -> Option<NetworkId> {
    let network = NetworkId::new(labels.get(NETWORK_LABEL)?).ok()?;
    (!network.is_unnamed()).then_some(network)
}

fn label_tls(labels: &Labels) -> Option<TlsMode> {
    Some(if labels.get(TLS_MODE_LABEL)? == "istio" { TlsMode::Istio } else { TlsMode::Disabled })
}
