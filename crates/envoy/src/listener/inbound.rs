//! Inbound: what a workload's agent lets in, port by port.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::TrafficDirection;
use envoy_types::pb::envoy::config::listener::v3 as pb;
use envoy_types::pb::envoy::r#type::v3::Int32Range;
use isthmus_proto::resource::Resource;
use isthmus_sni::ISTIO_ALPN;

use super::{INBOUND_PORT, Route, original_destination, tcp_proxy, tls_inspector};
use crate::access_log::AccessLog;
use crate::cluster::fixed::{self, BLACK_HOLE, INBOUND_PASSTHROUGH, inbound_name};
use crate::cluster::tls;
use crate::rbac::Filters;
use crate::wire::{duration, number, socket};
use isthmus_registry::peer_auth::Mode;

const NAME: &str = "virtualInbound";
/// Patience for a ClientHello: a server-first protocol in the clear at a PERMISSIVE port works after it. Istio waits for ever.
const INSPECTION: Duration = Duration::from_secs(5);

/// Everything that one workload's inbound side depends on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Inbound {
    /// Modes by workload port, for ports that a service names.
    pub(crate) ports: BTreeMap<u16, Mode>,
    /// Where ports go on that do not go on to themselves.
    pub(crate) endpoints: BTreeMap<u16, Arc<str>>,
    /// Modes of ports that only a policy names.
    pub(crate) policy_ports: BTreeMap<u16, Mode>,
    /// The mode of all other ports.
    pub(crate) rest: Mode,
    /// What decides who may come in.
    pub(crate) filters: Filters,
    /// Trust domains whose identities are let through TLS.
    pub(crate) trust_domains: Vec<String>,
    /// Whether the workload has an IPv4 address.
    pub(crate) ipv4: bool,
}

impl Inbound {
    /// The clusters of its ports.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = Resource> {
        self.ports.keys().map(|port| match self.endpoints.get(port) {
            Some(endpoint) => fixed::inbound_at(*port, endpoint),
            None => fixed::inbound(*port),
        })
    }
}

/// The inbound listener.
pub(crate) fn virtual_inbound(inbound: &Inbound, log: &AccessLog) -> Resource {
    let mut chains = vec![loops()];
    for (port, mode) in &inbound.ports {
        chains.extend(port_chains(inbound, Some(*port), *mode, &inbound_name(*port)));
    }
    for (port, mode) in &inbound.policy_ports {
        chains.extend(port_chains(inbound, Some(*port), *mode, INBOUND_PASSTHROUGH));
    }
    chains.extend(port_chains(inbound, None, inbound.rest, INBOUND_PASSTHROUGH));
    let mut inspector = tls_inspector();
    inspector.filter_disabled = plain_ports(inbound);
    let listener = pb::Listener {
        name: NAME.to_string(),
        address: Some(socket(if inbound.ipv4 { "0.0.0.0" } else { "::" }, INBOUND_PORT)),
        filter_chains: chains,
        listener_filters: vec![original_destination(), inspector],
        listener_filters_timeout: Some(duration(INSPECTION)),
        continue_on_listener_filters_timeout: true,
        traffic_direction: TrafficDirection::Inbound as i32,
        ..Default::default()
    };
    log.listener(listener)
}

/// A connection to the capture port itself would come back for ever.
fn loops() -> pb::FilterChain {
    pb::FilterChain {
        name: "virtualInbound-blackhole".to_string(),
        filter_chain_match: Some(pb::FilterChainMatch {
            destination_port: Some(number(u32::from(INBOUND_PORT))),
            ..Default::default()
        }),
        filters: vec![tcp_proxy(BLACK_HOLE, &Route::Cluster(BLACK_HOLE.to_string()))],
        ..Default::default()
    }
}

/// The chains of one port, or of all ports that have none of their own (Istio's sets for TCP).
fn port_chains(inbound: &Inbound, port: Option<u16>, mode: Mode, cluster: &str) -> Vec<pb::FilterChain> {
    let chain = |kind: Kind| {
        let mut filters = inbound.filters.0.clone();
        filters.push(tcp_proxy(cluster, &Route::Cluster(cluster.to_string())));
        pb::FilterChain {
            name: chain_name(port, kind),
            filter_chain_match: Some(chain_match(port, kind)),
            filters,
            transport_socket: matches!(kind, Kind::Mesh | Kind::AnyMesh)
                .then(|| tls::server(&inbound.trust_domains)),
            ..Default::default()
        }
    };
    match mode {
        Mode::Strict => vec![chain(Kind::AnyMesh)],
        Mode::Permissive => vec![chain(Kind::Mesh), chain(Kind::ForeignTls), chain(Kind::Plain)],
        Mode::Disable => vec![chain(Kind::All)],
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// TLS that says it is the mesh's: terminated.
    Mesh,
    /// All TLS: terminated.
    AnyMesh,
    /// Other TLS: the application's own, passed on.
    ForeignTls,
    /// No TLS.
    Plain,
    /// Whatever it is, passed on unread.
    All,
}

fn chain_match(port: Option<u16>, kind: Kind) -> pb::FilterChainMatch {
    let transport = match kind {
        Kind::Mesh | Kind::AnyMesh | Kind::ForeignTls => "tls",
        Kind::Plain => "raw_buffer",
        Kind::All => "",
    };
    let alpn: &[&str] = if kind == Kind::Mesh { &ISTIO_ALPN } else { &[] };
    pb::FilterChainMatch {
        destination_port: port.map(|port| number(u32::from(port))),
        transport_protocol: transport.to_string(),
        application_protocols: alpn.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

fn chain_name(port: Option<u16>, kind: Kind) -> String {
    let base = match port {
        Some(port) => format!("0.0.0.0_{port}"),
        None => NAME.to_string(),
    };
    let suffix = match kind {
        Kind::Mesh | Kind::AnyMesh => "mtls",
        Kind::ForeignTls => "tls",
        Kind::Plain => "plain",
        Kind::All => "all",
    };
    format!("{base}_{suffix}")
}

/// Ports where nobody waits for a ClientHello: a server that speaks first would never get to.
fn plain_ports(inbound: &Inbound) -> Option<pb::ListenerFilterChainMatchPredicate> {
    use pb::listener_filter_chain_match_predicate::{MatchSet, Rule};
    let disabled = |ports: &BTreeMap<u16, Mode>| -> Vec<u16> {
        ports.iter().filter(|(_, mode)| **mode == Mode::Disable).map(|(port, _)| *port).collect()
    };
    let mut ports = disabled(&inbound.ports);
    ports.extend(disabled(&inbound.policy_ports));
    let mut rules: Vec<_> = ports
        .into_iter()
        .map(|port| {
            let range = Int32Range { start: i32::from(port), end: i32::from(port) + 1 };
            pb::ListenerFilterChainMatchPredicate { rule: Some(Rule::DestinationPortRange(range)) }
        })
        .collect();
    match rules.len() {
        0 => None,
        1 => rules.pop(),
        // Envoy wants two rules at least in a set
        _ => Some(pb::ListenerFilterChainMatchPredicate { rule: Some(Rule::OrMatch(MatchSet { rules })) }),
    }
}
