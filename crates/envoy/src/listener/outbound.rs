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
use crate::cluster::fixed::{BLACK_HOLE, PASSTHROUGH};
use crate::cluster::{cluster_name, is_tcp};
use crate::names;
use crate::routes::Routes;
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

/// The listeners of a service for a class.
pub(crate) fn listeners(
    class: &Class,
    service: &MeshService,
    endpoints: &[Endpoint],
    routes: &Routes,
) -> Vec<Resource> {
    let addresses = if service.service.is_headless() {
        headless(class, endpoints)
    } else {
        names::addresses(class, service)
    };
    let ports: Vec<&ServicePort> = service.service.ports.iter().filter(|port| is_tcp(port)).collect();
    addresses
        .iter()
        .flat_map(|address| ports.iter().map(move |port| listener(class, service, *address, port, routes)))
        .collect()
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

fn listener(
    class: &Class,
    service: &MeshService,
    address: IpAddr,
    port: &ServicePort,
    routes: &Routes,
) -> Resource {
    let name = format!("{address}_{}", port.number);
    let listener = pb::Listener {
        name: name.clone(),
        address: Some(socket(&address.to_string(), port.number)),
        bind_to_port: Some(boolean(false)),
        filter_chains: filter_chains(class, service, port, routes),
        traffic_direction: TrafficDirection::Outbound as i32,
        ..Default::default()
    };
    Resource::new(name, listener.encode_to_vec().into())
}

/// What happens to a connection to one service port. This is where HTTP routing will come in: ports whose protocol
/// `is_http` get a connection manager here; until then every port is carried as TCP.
fn filter_chains(
    class: &Class,
    service: &MeshService,
    port: &ServicePort,
    routes: &Routes,
) -> Vec<pb::FilterChain> {
    let whole = cluster_name(port.number, "", service.service.host.as_str());
    let route = routes.route(class, service, port).unwrap_or_else(|| Route::Cluster(whole.clone()));
    vec![pb::FilterChain { filters: vec![tcp_proxy(&whole, &route)], ..Default::default() }]
}
