//! Listeners at all addresses: for services that have ranges of addresses, or none at all, so that their port, range and server name
//! alone tell them apart. One listener for each port holds the chains of all such services (Istio's `0.0.0.0_PORT`).

use std::collections::{BTreeMap, HashSet};

use envoy_types::pb::envoy::config::core::v3::TrafficDirection;
use envoy_types::pb::envoy::config::listener::v3 as pb;
use ipnet::IpNet;
use isthmus_model::{Endpoint, Protocol, ServicePort, Source};
use isthmus_proto::resource::Resource;
use isthmus_registry::MeshService;

use super::outbound::{addresses, reading_tls, undeclared};
use super::{INBOUND_PORT, OUTBOUND_PORT, Route, carried};
use crate::access_log::AccessLog;
use crate::class::Class;
use crate::cluster::is_tcp;
use crate::encoded::Inputs;
use crate::settings::OutboundPolicy;
use crate::wire::{boolean, range, socket};

/// A chain of a service at all addresses.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Open {
    port: u16,
    ranges: Vec<IpNet>,
    server_names: Vec<String>,
    stat_prefix: String,
    route: Route,
    filter: pb::Filter,
}

/// How a service's port is told from others at the same port: by ranges, by server name, or not at all.
struct Distinct {
    ranges: Vec<IpNet>,
    by_name: bool,
}

/// What tells a port's connections from others; none when it has addresses of its own, or nothing but its host could tell.
fn distinct(
    class: &Class,
    service: &MeshService,
    endpoints: &[Endpoint],
    port: &ServicePort,
) -> Option<Distinct> {
    if service.service.source != Source::ServiceEntry || !is_tcp(port) {
        return None;
    }
    if [OUTBOUND_PORT, INBOUND_PORT].contains(&port.number) {
        return None;
    }
    let usable = |range: &&IpNet| class.has_family(range.addr());
    let ranges: Vec<IpNet> = service.ranges.iter().filter(usable).copied().collect();
    if !ranges.is_empty() {
        // By its range alone a port of HTTP is as good as any.
        return Some(Distinct { ranges, by_name: port.protocol.is_tls() });
    }
    let declared = !service.service.addresses.is_empty() || !service.ranges.is_empty();
    if declared || service.service.selector.is_some() || !addresses(class, service, endpoints).is_empty() {
        return None;
    }
    match port.protocol {
        // Their hosts are in their requests, which nobody reads yet: to take the whole port for one of them would be wrong.
        Protocol::Http | Protocol::Http2 | Protocol::Grpc => None,
        protocol => Some(Distinct { ranges, by_name: protocol.is_tls() }),
    }
}

/// The chains of a service's ports.
pub(crate) fn chains(class: &Class, inputs: &Inputs, unknown: OutboundPolicy) -> Vec<Open> {
    let service = &*inputs.service;
    let mut found = Vec::new();
    for port in service.service.ports.iter().filter(|port| inputs.seen.is_own(port.number)) {
        let Some(distinct) = distinct(class, service, &inputs.endpoints, port) else { continue };
        let paths = inputs.paths(class, port, unknown);
        let mut add = |names: Vec<String>, route: Route| {
            found.push(Open {
                port: port.number,
                ranges: distinct.ranges.clone(),
                server_names: if names.iter().any(|name| name == "*") { Vec::new() } else { names },
                stat_prefix: paths.whole.to_string(),
                filter: carried(&paths.whole, &route, &paths.carriage),
                route,
            });
        };
        if paths.named.is_empty() {
            let host = service.service.host.to_string();
            let names = if distinct.by_name { vec![host] } else { Vec::new() };
            add(names, paths.route.unwrap_or_else(|| Route::Cluster(paths.whole.to_string())));
        } else {
            paths.named.into_iter().for_each(|(names, route)| add(names, route));
        }
    }
    found
}

/// One listener for each port of these chains, which are in the order of their age: where two would match the same the older stays.
pub(crate) fn listeners<'a>(
    all: impl Iterator<Item = &'a Open>,
    unknown: OutboundPolicy,
    ipv4: bool,
    log: &AccessLog,
) -> Vec<Resource> {
    let mut ports: BTreeMap<u16, Vec<&Open>> = BTreeMap::new();
    for open in all {
        ports.entry(open.port).or_default().push(open);
    }
    ports.into_iter().map(|(port, chains)| log.listener(listener(port, &chains, unknown, ipv4))).collect()
}

fn listener(port: u16, all: &[&Open], unknown: OutboundPolicy, ipv4: bool) -> pb::Listener {
    let mut taken: HashSet<(Option<IpNet>, &str)> = HashSet::new();
    let mut chains = Vec::new();
    let mut rest = None;
    for open in all {
        let ranges = if open.ranges.is_empty() {
            vec![None]
        } else {
            open.ranges.iter().map(|range| Some(*range)).collect()
        };
        let names: Vec<&str> = match open.server_names.as_slice() {
            [] => vec![""],
            names => names.iter().map(String::as_str).collect(),
        };
        let pairs: Vec<_> =
            ranges.iter().flat_map(|range| names.iter().map(move |name| (*range, *name))).collect();
        if pairs.iter().any(|pair| taken.contains(pair)) {
            tracing::debug!(
                port,
                dropped = open.stat_prefix,
                "an older service has the same range or server name"
            );
            continue;
        }
        taken.extend(pairs);
        let filters = vec![open.filter.clone()];
        if open.ranges.is_empty() && open.server_names.is_empty() {
            rest = Some(pb::FilterChain { filters, ..Default::default() });
            continue;
        }
        chains.push(pb::FilterChain {
            filter_chain_match: Some(pb::FilterChainMatch {
                prefix_ranges: open.ranges.iter().map(range).collect(),
                server_names: open.server_names.clone(),
                ..Default::default()
            }),
            filters,
            ..Default::default()
        });
    }
    let (chains, rest) = match (chains.is_empty(), rest) {
        (true, Some(only)) => (vec![only], None),
        (_, Some(rest)) => (chains, Some(rest)),
        (_, None) => (chains, Some(undeclared(unknown))),
    };
    let reads = all.iter().any(|open| !open.server_names.is_empty());
    let any = if ipv4 { "0.0.0.0" } else { "::" };
    pb::Listener {
        name: format!("{any}_{port}"),
        address: Some(socket(any, port)),
        bind_to_port: Some(boolean(false)),
        filter_chains: chains,
        default_filter_chain: rest,
        traffic_direction: TrafficDirection::Outbound as i32,
        ..if reads { reading_tls() } else { pb::Listener::default() }
    }
}
