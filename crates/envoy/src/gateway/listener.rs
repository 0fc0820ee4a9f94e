//! The listener of one place, from its chains.

use std::collections::HashSet;

use envoy_types::pb::envoy::config::core::v3::{Metadata, TrafficDirection};
use envoy_types::pb::envoy::config::listener::v3 as pb;
use envoy_types::pb::envoy::extensions::filters::network::sni_cluster::v3::SniCluster;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use isthmus_proto::resource::Resource;
use isthmus_sni::ISTIO_ALPN;

use super::plan::Place;
use crate::access_log::AccessLog;
use crate::class::Class;
use crate::cluster::fixed::BLACK_HOLE;
use crate::listener::{Route, tcp_proxy, tls_inspector};
use crate::wire::{ads, filter, one_text, socket};

/// Filter metadata of a chain that serves a table of names.
const METADATA: &str = "isthmus";
/// The field in it.
const TABLE: &str = "exported_names";

/// Chains of one place.
pub(super) struct Chains {
    number: u16,
    chains: Vec<pb::FilterChain>,
    /// Server names that have a chain, by whether it is for mesh TLS alone: Envoy refuses a listener with two equal matches.
    taken: HashSet<(String, bool)>,
    tls: bool,
}

impl Chains {
    pub(super) fn new(number: u16) -> Self {
        Self { number, chains: Vec::new(), taken: HashSet::new(), tls: false }
    }

    /// A chain for those server names that no earlier chain has; `*` is every name. `mesh`: for mutual TLS of the mesh alone.
    pub(super) fn by_name(&mut self, name: &str, server_names: &[String], mesh: bool, route: &Route) {
        self.tls = true;
        if server_names.iter().any(|name| name == "*") {
            if self.taken.insert(("*".to_string(), mesh)) {
                self.push(name, any_name(mesh), vec![tcp_proxy(name, route)], None);
            }
            return;
        }
        let free = server_names.iter().filter(|name| self.taken.insert(((*name).clone(), mesh)));
        let free: Vec<String> = free.cloned().collect();
        if free.is_empty() {
            return;
        }
        let found = pb::FilterChainMatch {
            server_names: free,
            application_protocols: if mesh { istio() } else { Vec::new() },
            ..Default::default()
        };
        self.push(name, found, vec![tcp_proxy(name, route)], None);
    }

    /// One chain for all names of a table, whose clusters are fetched as connections name them.
    pub(super) fn on_demand(&mut self, table: &str) {
        self.tls = true;
        if !self.taken.insert(("*".to_string(), true)) {
            return;
        }
        let proxy = tcp::TcpProxy {
            stat_prefix: BLACK_HOLE.to_string(),
            // replaced by the server name
            cluster_specifier: Some(tcp::tcp_proxy::ClusterSpecifier::Cluster(BLACK_HOLE.to_string())),
            on_demand: Some(tcp::tcp_proxy::OnDemand { odcds_config: Some(ads()), ..Default::default() }),
            ..Default::default()
        };
        let filters = vec![
            filter("envoy.filters.network.sni_cluster", SniCluster {}),
            filter("envoy.filters.network.tcp_proxy", proxy),
        ];
        let metadata = std::iter::once((METADATA.to_string(), one_text(TABLE, table)));
        let metadata = Metadata { filter_metadata: metadata.collect(), ..Default::default() };
        self.push("auto-passthrough", any_name(true), filters, Some(metadata));
    }

    /// The chain of a port of plain TCP.
    pub(super) fn plain(&mut self, name: &str, route: &Route) {
        if self.chains.is_empty() {
            self.push(name, pb::FilterChainMatch::default(), vec![tcp_proxy(name, route)], None);
        }
    }

    fn push(
        &mut self,
        name: &str,
        found: pb::FilterChainMatch,
        filters: Vec<pb::Filter>,
        metadata: Option<Metadata>,
    ) {
        self.chains.push(pb::FilterChain {
            name: format!("{}_{name}", self.number),
            filter_chain_match: Some(found),
            filters,
            metadata,
            ..Default::default()
        });
    }

    /// The listener, on every family of addresses that the class has; none without a chain, which nothing could pass.
    pub(super) fn listener(self, place: Place, class: &Class, log: &AccessLog) -> Option<Resource> {
        if self.chains.is_empty() {
            return None;
        }
        let (first, more) = match place.bind {
            Some(address) => (address.to_string(), None),
            None if !class.ipv4 => ("::".to_string(), None),
            None => ("0.0.0.0".to_string(), class.ipv6.then_some("::")),
        };
        let more = more.map(|address| pb::AdditionalAddress {
            address: Some(socket(address, place.port)),
            ..Default::default()
        });
        let listener = pb::Listener {
            name: format!("{first}_{}", place.port),
            address: Some(socket(&first, place.port)),
            additional_addresses: more.into_iter().collect(),
            filter_chains: self.chains,
            // a port of plain TCP alone must not wait for a ClientHello: the server may speak first
            listener_filters: if self.tls { vec![tls_inspector()] } else { Vec::new() },
            traffic_direction: TrafficDirection::Outbound as i32,
            ..Default::default()
        };
        Some(log.listener(listener))
    }
}

fn istio() -> Vec<String> {
    ISTIO_ALPN.iter().map(ToString::to_string).collect()
}

/// Every connection of TLS, or of the mesh's.
fn any_name(mesh: bool) -> pb::FilterChainMatch {
    pb::FilterChainMatch {
        transport_protocol: "tls".to_string(),
        application_protocols: if mesh { istio() } else { Vec::new() },
        ..Default::default()
    }
}
