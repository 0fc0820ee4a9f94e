//! One host of an assignment.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::core::v3::HealthStatus;
use envoy_types::pb::envoy::config::endpoint::v3 as pb;
use isthmus_model::{Endpoint, Health};

use crate::wire::{number, place, sorted};

/// A workload at its own address.
pub(crate) fn direct(endpoint: &Endpoint, port: u16, weight: u32, mutual: bool) -> sorted::LbEndpoint {
    let health = match endpoint.health {
        Health::Healthy => HealthStatus::Healthy,
        Health::Unhealthy => HealthStatus::Unhealthy,
        Health::Draining => HealthStatus::Draining,
    };
    host(&endpoint.address, port, weight, health, mutual, &workload(endpoint))
}

/// A gateway in the place of the workloads behind it.
pub(crate) fn gateway(address: &str, port: u16, weight: u32, cluster: &str) -> sorted::LbEndpoint {
    host(address, port, weight, HealthStatus::Healthy, true, &format!(";;;;{cluster}"))
}

/// Istio's five parts: workload, namespace, canonical service, canonical revision (empty when `latest`), cluster.
fn workload(endpoint: &Endpoint) -> String {
    let label = |names: &[&str]| names.iter().find_map(|name| endpoint.labels.get(name));
    let service = label(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"])
        .unwrap_or(&endpoint.workload);
    let revision = label(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"])
        .filter(|revision| *revision != "latest")
        .unwrap_or_default();
    format!("{};{};{service};{revision};{}", endpoint.workload, endpoint.namespace, endpoint.cluster)
}

fn host(
    address: &str,
    port: u16,
    weight: u32,
    health: HealthStatus,
    mutual: bool,
    workload: &str,
) -> sorted::LbEndpoint {
    let mut metadata = BTreeMap::from([("istio".to_string(), sorted::texts([("workload", workload)]))]);
    if mutual {
        metadata.insert("envoy.transport_socket_match".to_string(), sorted::texts([("tlsMode", "istio")]));
    }
    sorted::LbEndpoint {
        endpoint: Some(pb::Endpoint { address: Some(place(address, port)), ..Default::default() }),
        health_status: health as i32,
        metadata: Some(sorted::Metadata { filter_metadata: metadata }),
        load_balancing_weight: Some(number(weight)),
    }
}
