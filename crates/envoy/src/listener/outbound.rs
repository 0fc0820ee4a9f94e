//! Outbound: one listener for each address and port of a service, found by the original destination.

use std::net::IpAddr;

use envoy_types::pb::envoy::config::core::v3::TrafficDirection;
use envoy_types::pb::envoy::config::listener::v3 as pb;
use isthmus_model::{Endpoint, Health, ServicePort};
use isthmus_proto::resource::Resource;
use isthmus_registry::MeshService;
use prost::Message;

use super::{OUTBOUND_PORT, Route, tcp_proxy};
use crate::class::Class;
use crate::cluster::cluster_name;
use crate::cluster::fixed::{BLACK_HOLE, PASSTHROUGH};
use crate::names;
use crate::settings::OutboundPolicy;
use crate::wire::{boolean, number, socket};

/// What captures all outbound connections and knows those that no other listener does.
pub(crate) fn virtual_outbound(policy: OutboundPolicy, ipv4: bool) -> Resource {
    let name = "virtualOutbound";
    let unknown = match policy {
        OutboundPolicy::AllowAny => PASSTHROUGH,
        OutboundPolicy::RegistryOnly => BLACK_HOLE,
    };
    // a connection to the capture port itself would come back for ever
    let loops = pb::FilterChain {
        name: "virtualOutbound-blackhole".to_string(),
        filter_chain_match: Some(pb::FilterChainMatch {
            destination_port: Some(number(u32::from(OUTBOUND_PORT))),
            ..Default::default()
        }),
        filters: vec![tcp_proxy(BLACK_HOLE, &Route::Cluster(BLACK_HOLE.to_string()))],
        ..Default::default()
    };
    let rest = pb::FilterChain {
        name: "virtualOutbound-catchall-tcp".to_string(),
        filters: vec![tcp_proxy(unknown, &Route::Cluster(unknown.to_string()))],
        ..Default::default()
    };
    let listener = pb::Listener {
        name: name.to_string(),
        address: Some(socket(if ipv4 { "0.0.0.0" } else { "::" }, OUTBOUND_PORT)),
        use_original_dst: Some(boolean(true)),
        filter_chains: vec![loops],
        default_filter_chain: Some(rest),
        traffic_direction: TrafficDirection::Outbound as i32,
        ..Default::default()
    };
    Resource::new(name, listener.encode_to_vec().into())
}

/// The addresses at which a class finds a service.
pub(crate) fn addresses(class: &Class, service: &MeshService, endpoints: &[Endpoint]) -> Vec<IpAddr> {
    if service.service.is_headless() { headless(class, endpoints) } else { names::addresses(class, service) }
}

/// A headless service has the addresses of its endpoints: those that can be dialled from here.
fn headless(class: &Class, endpoints: &[Endpoint]) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = endpoints
        .iter()
        .filter(|endpoint| !endpoint.aggregate && endpoint.health != Health::Draining)
        .filter(|endpoint| class.network.reaches(&endpoint.network))
        .filter_map(|endpoint| endpoint.address.parse().ok())
        .filter(|address| class.has_family(*address))
        .collect();
    found.sort();
    found.dedup();
    found
}

/// The listener of an address and a port of a service.
pub(crate) fn listener(address: IpAddr, port: &ServicePort, host: &str, route: Option<Route>) -> Resource {
    let name = format!("{address}_{}", port.number);
    let listener = pb::Listener {
        name: name.clone(),
        address: Some(socket(&address.to_string(), port.number)),
        bind_to_port: Some(boolean(false)),
        filter_chains: filter_chains(port, host, route),
        traffic_direction: TrafficDirection::Outbound as i32,
        ..Default::default()
    };
    Resource::new(name, listener.encode_to_vec().into())
}

/// What happens to a connection to one service port. This is where HTTP routing will come in: ports whose protocol
/// `is_http` get a connection manager here; until then every port is carried as TCP.
fn filter_chains(port: &ServicePort, host: &str, route: Option<Route>) -> Vec<pb::FilterChain> {
    let whole = cluster_name(port.number, "", host);
    let route = route.unwrap_or_else(|| Route::Cluster(whole.clone()));
    vec![pb::FilterChain { filters: vec![tcp_proxy(&whole, &route)], ..Default::default() }]
}
