//! Listeners: what a proxy takes in, and where it sends it.

pub(crate) mod inbound;
pub(crate) mod open;
pub(crate) mod outbound;

use std::time::Duration;

use envoy_types::pb::envoy::config::listener::v3 as pb;
use envoy_types::pb::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use envoy_types::pb::envoy::r#type::v3::{HashPolicy, hash_policy};

use crate::destination::{Effective, Rule};
use crate::wire::{duration, filter, listener_filter, number};

/// Outbound capture.
pub(crate) const OUTBOUND_PORT: u16 = 15001;
/// Inbound capture.
pub(crate) const INBOUND_PORT: u16 = 15006;

/// Endpoints that are tried, one after the other, before a connection is given up; no byte was sent until then. Envoy's own default
/// is one.
const CONNECT_ATTEMPTS: u32 = 3;

/// Where a chain sends a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Route {
    /// One cluster.
    Cluster(String),
    /// Clusters by weight.
    Weighted(Vec<(String, u32)>),
}

/// What a rule says of each connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Carriage {
    /// Longest time without a byte.
    idle: Option<Duration>,
    /// Longest time at all.
    longest: Option<Duration>,
    /// Whether the client's address chooses among endpoints.
    by_source: bool,
}

impl Carriage {
    /// What a rule says of connections to a port.
    pub(crate) fn of(rule: Option<&Rule>, port: u16) -> Self {
        let effective = Effective::of(rule, port, "");
        let tcp = effective.pool.and_then(|pool| pool.tcp.as_ref());
        let hash = effective.balancer.and_then(|balancer| balancer.consistent_hash.as_ref());
        Self {
            idle: tcp.and_then(|tcp| tcp.idle_timeout).map(|time| time.0),
            longest: tcp.and_then(|tcp| tcp.max_connection_duration).map(|time| time.0),
            by_source: hash.is_some_and(|hash| hash.use_source_ip),
        }
    }
}

/// The TCP proxy filter.
pub(crate) fn tcp_proxy(stat_prefix: &str, route: &Route) -> pb::Filter {
    carried(stat_prefix, route, &Carriage::default())
}

/// The TCP proxy filter under a rule.
pub(crate) fn carried(stat_prefix: &str, route: &Route, carriage: &Carriage) -> pb::Filter {
    let specifier = match route {
        Route::Cluster(name) => tcp::tcp_proxy::ClusterSpecifier::Cluster(name.clone()),
        Route::Weighted(clusters) => {
            let weight = |(name, weight): &(String, u32)| tcp::tcp_proxy::weighted_cluster::ClusterWeight {
                name: name.clone(),
                weight: *weight,
                ..Default::default()
            };
            tcp::tcp_proxy::ClusterSpecifier::WeightedClusters(tcp::tcp_proxy::WeightedCluster {
                clusters: clusters.iter().map(weight).collect(),
            })
        }
    };
    let config = tcp::TcpProxy {
        stat_prefix: stat_prefix.to_string(),
        cluster_specifier: Some(specifier),
        max_connect_attempts: Some(number(CONNECT_ATTEMPTS)),
        idle_timeout: carriage.idle.map(duration),
        max_downstream_connection_duration: carriage.longest.map(duration),
        hash_policy: if carriage.by_source { vec![by_source()] } else { Vec::new() },
        ..Default::default()
    };
    filter("envoy.filters.network.tcp_proxy", config)
}

fn by_source() -> HashPolicy {
    HashPolicy { policy_specifier: Some(hash_policy::PolicySpecifier::SourceIp(hash_policy::SourceIp {})) }
}

/// Finds the address that a captured connection was meant for.
pub(crate) fn original_destination() -> pb::ListenerFilter {
    listener_filter("envoy.filters.listener.original_dst", OriginalDst {})
}

/// Reads a ClientHello.
pub(crate) fn tls_inspector() -> pb::ListenerFilter {
    listener_filter("envoy.filters.listener.tls_inspector", TlsInspector::default())
}
