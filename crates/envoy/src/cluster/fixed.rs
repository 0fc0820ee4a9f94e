//! Clusters that every sidecar or gateway has.

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3 as pb;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy};
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
use isthmus_proto::resource::Resource;
use prost::Message;

use crate::settings::ControlPlane;
use crate::wire::{duration, number, socket};

/// Destinations that nobody declared, as they are.
pub(crate) const PASSTHROUGH: &str = "PassthroughCluster";
/// Nowhere.
pub(crate) const BLACK_HOLE: &str = "BlackHoleCluster";
/// The workload, at ports that no service names.
pub(crate) const INBOUND_PASSTHROUGH: &str = "InboundPassthroughCluster";
/// Our own control plane, as gateways reach it.
pub(crate) const CONTROL_PLANE: &str = "control-plane";

/// The address from which an agent dials its own workload, so that capture lets it through (Istio's).
const INBOUND_SOURCE: &str = "127.0.0.6";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The cluster of a workload's own port.
pub(crate) fn inbound_name(port: u16) -> String {
    format!("inbound|{port}||")
}

/// Clusters that do not depend on anything.
pub(crate) fn sidecar() -> Vec<Resource> {
    vec![black_hole(), original(PASSTHROUGH, None), original(INBOUND_PASSTHROUGH, Some(INBOUND_SOURCE))]
}

/// Nowhere.
pub(crate) fn black_hole() -> Resource {
    let cluster = pb::Cluster {
        name: BLACK_HOLE.to_string(),
        connect_timeout: Some(duration(CONNECT_TIMEOUT)),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static as i32)),
        ..Default::default()
    };
    Resource::new(BLACK_HOLE, cluster.encode_to_vec().into())
}

/// A workload's own port: where the client meant to go, from the inbound source address.
pub(crate) fn inbound(port: u16) -> Resource {
    original(&inbound_name(port), Some(INBOUND_SOURCE))
}

/// A workload's port that goes on elsewhere within it: to `ADDRESS:PORT`, or to `unix://PATH`.
pub(crate) fn inbound_at(port: u16, place: &str) -> Resource {
    let name = inbound_name(port);
    let address = match place.parse::<SocketAddr>() {
        Ok(address) => socket(&address.ip().to_string(), address.port()),
        Err(_) => crate::wire::place(place, 0),
    };
    let host = endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
            address: Some(address),
            ..Default::default()
        })),
        ..Default::default()
    };
    let cluster = pb::Cluster {
        name: name.clone(),
        connect_timeout: Some(duration(CONNECT_TIMEOUT)),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static as i32)),
        circuit_breakers: Some(unlimited()),
        load_assignment: Some(endpoint::ClusterLoadAssignment {
            cluster_name: name.clone(),
            endpoints: vec![endpoint::LocalityLbEndpoints { lb_endpoints: vec![host], ..Default::default() }],
            ..Default::default()
        }),
        ..Default::default()
    };
    Resource::new(name, cluster.encode_to_vec().into())
}

fn original(name: &str, source: Option<&str>) -> Resource {
    let cluster = pb::Cluster {
        name: name.to_string(),
        connect_timeout: Some(duration(CONNECT_TIMEOUT)),
        lb_policy: LbPolicy::ClusterProvided as i32,
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst as i32)),
        circuit_breakers: Some(unlimited()),
        upstream_bind_config: source.map(|source| core::BindConfig {
            source_address: Some(core::SocketAddress {
                address: source.to_string(),
                port_specifier: Some(core::socket_address::PortSpecifier::PortValue(0)),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    Resource::new(name, cluster.encode_to_vec().into())
}

/// The control plane behind a gateway; the caller makes sure that it has an address.
pub(crate) fn control_plane(settings: &ControlPlane) -> Resource {
    let hosts = settings.addresses.iter().map(|address| endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
            address: Some(socket(&address.ip().to_string(), address.port())),
            ..Default::default()
        })),
        ..Default::default()
    });
    let cluster = pb::Cluster {
        name: CONTROL_PLANE.to_string(),
        connect_timeout: Some(duration(CONNECT_TIMEOUT)),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static as i32)),
        circuit_breakers: Some(unlimited()),
        load_assignment: Some(endpoint::ClusterLoadAssignment {
            cluster_name: CONTROL_PLANE.to_string(),
            endpoints: vec![endpoint::LocalityLbEndpoints {
                lb_endpoints: hosts.collect(),
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..Default::default()
    };
    Resource::new(CONTROL_PLANE, cluster.encode_to_vec().into())
}

fn unlimited() -> pb::CircuitBreakers {
    let most = || Some(number(u32::MAX));
    pb::CircuitBreakers {
        thresholds: vec![pb::circuit_breakers::Thresholds {
            max_connections: most(),
            max_pending_requests: most(),
            max_requests: most(),
            max_retries: most(),
            ..Default::default()
        }],
        ..Default::default()
    }
}
