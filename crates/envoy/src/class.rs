//! Proxies that must get the same resources: what of a proxy translation may look at.

use std::sync::Arc;

use isthmus_model::{ClusterId, Labels, Locality, Namespace, NetworkId};

use crate::config::Config;
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
    /// Gateways only: what is exported comes as names, and clusters as they are asked for.
    pub(crate) on_demand: bool,
    pub(crate) ipv4: bool,
    pub(crate) ipv6: bool,
    /// Labels that some selector or failover rule asks for; all of a gateway's.
    pub(crate) labels: Labels,
    /// Its node, where some service asks for near ones by node.
    pub(crate) node: Option<Arc<str>>,
}

impl Class {
    /// The class of a proxy under a configuration, by the labels, place and network that it is found to have.
    pub(crate) fn of(
        proxy: &Proxy,
        (labels, locality, network): (&Labels, &Locality, NetworkId),
        config: &Config,
        nodes_matter: bool,
    ) -> Self {
        let labels = match proxy.kind {
            ProxyKind::Router => labels.clone(),
            ProxyKind::Sidecar | ProxyKind::Grpc => config.relevant(labels, &proxy.namespace),
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
            network,
            locality: locality.clone(),
            network_view,
            dns_capture: proxy.dns_capture,
            on_demand: proxy.on_demand && proxy.kind == ProxyKind::Router,
            ipv4: ipv4 || unknown,
            ipv6: ipv6 || unknown,
            labels,
            node: proxy.node.clone().filter(|_| nodes_matter),
        }
    }

    /// This class in no namespace in particular: classes that are alike get the same of a service that no route, rule or Sidecar of one of
    /// their namespaces touches.
    pub(crate) fn anywhere(&self) -> Self {
        let namespace = Namespace::new("any").unwrap_or_else(|_| self.namespace.clone());
        Self { namespace, ..self.clone() }
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
