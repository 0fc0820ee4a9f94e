//! Listeners: what a proxy takes in, and where it sends it.

pub(crate) mod inbound;
pub(crate) mod outbound;

use envoy_types::pb::envoy::config::listener::v3 as pb;
use envoy_types::pb::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;

use crate::wire::{filter, listener_filter};

/// Outbound capture.
pub(crate) const OUTBOUND_PORT: u16 = 15001;
/// Inbound capture.
pub(crate) const INBOUND_PORT: u16 = 15006;

/// Where a chain sends a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Route {
    /// One cluster.
    Cluster(String),
    /// Clusters by weight.
    Weighted(Vec<(String, u32)>),
}

/// The TCP proxy filter.
pub(crate) fn tcp_proxy(stat_prefix: &str, route: &Route) -> pb::Filter {
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
        ..Default::default()
    };
    filter("envoy.filters.network.tcp_proxy", config)
}

/// Finds the address that a captured connection was meant for.
pub(crate) fn original_destination() -> pb::ListenerFilter {
    listener_filter("envoy.filters.listener.original_dst", OriginalDst {})
}

/// Reads a ClientHello.
pub(crate) fn tls_inspector() -> pb::ListenerFilter {
    listener_filter("envoy.filters.listener.tls_inspector", TlsInspector::default())
}
