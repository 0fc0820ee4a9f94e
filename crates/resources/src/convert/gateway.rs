//! Network gateways from labelled Services.

use std::collections::BTreeMap;
use std::sync::Arc;

use isthmus_model::{NetworkGateway, NetworkId};

use super::{NETWORK_LABEL, Site};
use crate::kubernetes;
use crate::meta::Resource;

const PORT: u16 = 15443;

/// The gateways that a Service declares by label `topology.istio.io/network`: its load balancer's addresses and external
/// IPs, at port 15443 or the one of label `networking.istio.io/gatewayPort`, which the Service must own. With annotation
/// `traffic.istio.io/nodeSelector` the matching nodes' addresses at the node port.
#[must_use]
pub fn network_gateways<'n>(
    site: Site<'_>,
    service: &Resource<kubernetes::Service>,
    nodes: impl IntoIterator<Item = &'n Resource<kubernetes::Node>>,
) -> Vec<NetworkGateway> {
    let Resource { meta, spec } = service;
    let Some(network) = meta.labels.get(NETWORK_LABEL).filter(|text| !text.is_empty()) else {
        return Vec::new();
    };
    let Ok(network) = NetworkId::new(network) else { return Vec::new() };
    let labelled = meta.labels.get("networking.istio.io/gatewayPort").and_then(|text| text.parse().ok());
    let wanted = labelled.unwrap_or(PORT);
    let Some(port) = spec.ports.iter().find(|port| port.number == wanted) else { return Vec::new() };
    let gateway = |address: Arc<str>, port: u16| NetworkGateway {
        network: network.clone(),
        cluster: site.cluster.clone(),
        address,
        port,
    };

    let selector = meta.annotations.get("traffic.istio.io/nodeSelector");
    let selector = selector.and_then(|text| serde_json::from_str::<BTreeMap<String, String>>(text).ok());
    let mut found = Vec::new();
    if let (Some(selector), Some(node_port)) = (selector, port.node_port) {
        let matches = |node: &Resource<kubernetes::Node>| {
            selector.iter().all(|(key, value)| node.meta.labels.get(key) == Some(value))
        };
        for node in nodes.into_iter().filter(|node| matches(node)) {
            let of_type = |kind: &str| node.spec.addresses.iter().find(|(found, _)| &**found == kind);
            if let Some((_, address)) = of_type("ExternalIP").or_else(|| of_type("InternalIP")) {
                found.push(gateway(Arc::clone(address), node_port));
            }
        }
    } else {
        found.extend(gateway_addresses(spec).map(|address| gateway(address, port.number)));
    }
    found.sort();
    found.dedup();
    found
}

/// Where a gateway's Service is reached from outside: its load balancer's addresses and its external IPs.
pub fn gateway_addresses(spec: &kubernetes::Service) -> impl Iterator<Item = Arc<str>> {
    let external = spec.external_ips.iter().map(|ip| Arc::from(ip.to_string()));
    spec.load_balancer.iter().cloned().chain(external)
}
