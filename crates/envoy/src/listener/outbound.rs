//! Outbound: one listener for each address and port of a service, found by the original destination.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::TrafficDirection;
use envoy_types::pb::envoy::config::listener::v3 as pb;
use isthmus_model::{Endpoint, Health};
use isthmus_proto::resource::Resource;
use isthmus_registry::MeshService;

use super::{Carriage, OUTBOUND_PORT, Route, carried, tcp_proxy, tls_inspector};
use crate::access_log::AccessLog;
use crate::class::Class;
use crate::cluster::fixed::{BLACK_HOLE, PASSTHROUGH};
use crate::names;
use crate::settings::OutboundPolicy;
use crate::wire::{boolean, duration, number, socket};

/// Patience for a ClientHello.
const INSPECTION: Duration = Duration::from_secs(5);

/// What captures all outbound connections and knows those that no other listener does.
pub(crate) fn virtual_outbound(policy: OutboundPolicy, ipv4: bool, log: &AccessLog) -> Resource {
    let unknown = unknown_cluster(policy);
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
        name: "virtualOutbound".to_string(),
        address: Some(socket(if ipv4 { "0.0.0.0" } else { "::" }, OUTBOUND_PORT)),
        use_original_dst: Some(boolean(true)),
        filter_chains: vec![loops],
        default_filter_chain: Some(rest),
        traffic_direction: TrafficDirection::Outbound as i32,
        ..Default::default()
    };
    log.listener(listener)
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

/// What a connection to one port of a service meets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Paths {
    /// The cluster of the whole port, which names the statistics.
    pub(crate) whole: Arc<str>,
    /// Where connections go; none is to the service itself.
    pub(crate) route: Option<Route>,
    /// Where those with these server names go; where there are some, others go where nobody declared anything.
    pub(crate) named: Vec<(Vec<String>, Route)>,
    /// What happens to others.
    pub(crate) unknown: OutboundPolicy,
    pub(crate) carriage: Carriage,
}

/// The listener of an address and a port of a service: `bound` has a socket, others are found by original destination.
pub(crate) fn listener(address: IpAddr, port: u16, bound: bool, paths: &Paths, log: &AccessLog) -> Resource {
    let listener = pb::Listener {
        name: format!("{address}_{port}"),
        address: Some(socket(&address.to_string(), port)),
        bind_to_port: (!bound).then(|| boolean(false)),
        traffic_direction: TrafficDirection::Outbound as i32,
        ..filter_chains(paths)
    };
    log.listener(listener)
}

/// What happens to a connection to one service port. This is where HTTP routing will come in: ports whose protocol
/// `is_http` get a connection manager here; until then every port is carried as TCP.
fn filter_chains(paths: &Paths) -> pb::Listener {
    if paths.named.is_empty() {
        let whole = || Route::Cluster(paths.whole.to_string());
        let route = paths.route.clone().unwrap_or_else(whole);
        let filters = vec![carried(&paths.whole, &route, &paths.carriage)];
        let chain = pb::FilterChain { filters, ..Default::default() };
        return pb::Listener { filter_chains: vec![chain], ..Default::default() };
    }
    let chains = paths.named.iter().map(|(names, route)| pb::FilterChain {
        filter_chain_match: names_match(names),
        filters: vec![carried(&paths.whole, route, &paths.carriage)],
        ..Default::default()
    });
    // `*` matches all, and a chain that does is the default one
    let (rest, named): (Vec<_>, Vec<_>) = chains.partition(|chain| chain.filter_chain_match.is_none());
    let rest = rest.into_iter().next().unwrap_or_else(|| undeclared(paths.unknown));
    pb::Listener { filter_chains: named, default_filter_chain: Some(rest), ..reading_tls() }
}

/// A listener that waits for a ClientHello, and not for ever: a server may speak first.
pub(crate) fn reading_tls() -> pb::Listener {
    pb::Listener {
        listener_filters: vec![tls_inspector()],
        listener_filters_timeout: Some(duration(INSPECTION)),
        continue_on_listener_filters_timeout: true,
        ..Default::default()
    }
}

/// Matches connections with one of these server names; none when one of them is `*`.
fn names_match(names: &[String]) -> Option<pb::FilterChainMatch> {
    if names.iter().any(|name| name == "*") {
        return None;
    }
    Some(pb::FilterChainMatch { server_names: names.to_vec(), ..Default::default() })
}

/// The chain of destinations that nobody declared (Istio's name).
pub(crate) fn undeclared(policy: OutboundPolicy) -> pb::FilterChain {
    let unknown = unknown_cluster(policy);
    pb::FilterChain {
        name: "PassthroughFilterChain".to_string(),
        filters: vec![tcp_proxy(unknown, &Route::Cluster(unknown.to_string()))],
        ..Default::default()
    }
}

fn unknown_cluster(policy: OutboundPolicy) -> &'static str {
    match policy {
        OutboundPolicy::AllowAny => PASSTHROUGH,
        OutboundPolicy::RegistryOnly => BLACK_HOLE,
    }
}
