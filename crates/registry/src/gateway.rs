//! Gateways of networks, as Services declare them.

use std::sync::Arc;

use isthmus_model::{ClusterId, NetworkGateway};
use isthmus_resources::{Resource, kubernetes};

use crate::workload::label_network;

/// Mutual TLS port of a gateway that names no other.
const GATEWAY_PORT: u16 = 15443;

/// The gateways that a Service with label `topology.istio.io/network` stands for: each of its external addresses, at port 15443
/// or that of label `networking.istio.io/gatewayPort`, when the Service has that port.
pub(crate) fn service_gateways(
    cluster: &ClusterId,
    service: &Resource<kubernetes::Service>,
) -> Vec<NetworkGateway> {
    let labels = &service.meta.labels;
    let Some(network) = label_network(labels) else { return Vec::new() };
    let port = labels
        .get("networking.istio.io/gatewayPort")
        .and_then(|text| text.parse().ok())
        .unwrap_or(GATEWAY_PORT);
    if !service.spec.ports.iter().any(|declared| declared.number == port) {
        return Vec::new();
    }
    let external = service.spec.external_ips.iter().map(|ip| Arc::from(ip.to_string()));
    let addresses = service.spec.load_balancer.iter().cloned().chain(external);
    addresses
        .map(|address| NetworkGateway { network: network.clone(), cluster: cluster.clone(), address, port })
        .collect()
}
