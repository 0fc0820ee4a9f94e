//! What a proxyless gRPC client gets: for each port of a service an API listener `HOST:PORT`, a route with one default, a
//! cluster and its endpoints, in the subset of xDS that gRPC libraries accept (gRFC A27, A28, A29). They ask by name.
//!
//! They refuse what they do not know: clusters balance by `ROUND_ROBIN`, TLS names certificate providers of the client's own
//! bootstrap instead of secrets, and there are no transport socket matches. As in Istio, mutual TLS is what a DestinationRule
//! with `ISTIO_MUTUAL` asks for, and never automatic.

use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3 as pb;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy};
use envoy_types::pb::envoy::config::listener::v3::{ApiListener, Listener};
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::util::pack_any;
use isthmus_model::Endpoint;
use isthmus_proto::resource::{Resource, ResourceSet};
use prost::Message;

use crate::class::Class;
use crate::cluster::{Target, Use, breakers, cluster_name, connect_timeout, is_tcp, outlier, tls};
use crate::destination::{Effective, Rule};
use crate::encoded::{Encoded, inputs, targets};
use crate::endpoint;
use crate::listener::Route;
use crate::lists::kept_set;
use crate::outbound::Source;
use crate::scope::Scope;
use crate::wire::{ads, duration, number};

/// What one class of clients gets.
#[derive(Debug)]
pub(crate) struct Grpc {
    pub(crate) clusters: Arc<ResourceSet>,
    pub(crate) endpoints: Arc<ResourceSet>,
    pub(crate) listeners: Arc<ResourceSet>,
    pub(crate) routes: Arc<ResourceSet>,
}

impl Grpc {
    /// The resources of a class; a set that came out equal is the old one.
    pub(crate) fn build(
        source: &Source<'_>,
        class: &Class,
        encoded: &mut Encoded,
        old: Option<&Self>,
    ) -> Self {
        let domain: Arc<str> = source.settings.domain.as_str().into();
        let scope = Scope::of(source.snapshot, class);
        let (mut clusters, mut endpoints) = (Vec::new(), Vec::new());
        let (mut listeners, mut routes) = (Vec::new(), Vec::new());
        for service in source.snapshot.visible(&class.namespace) {
            let Some(seen) = scope.seen(service).filter(|_| !service.service.host.is_wildcard()) else {
                continue;
            };
            let sees = |port: u16| seen.places(port).is_some();
            let inputs = inputs(source.snapshot, class, service, source.config, &domain);
            let all = targets(service, inputs.rule.as_deref(), Use::Grpc);
            for target in all.filter(|target| sees(target.port.number)) {
                if target.discovery(inputs.endpoints.len()) == DiscoveryType::StrictDns {
                    continue; // names that resolve to several hosts are unknown to gRPC (gRFC A37)
                }
                let (cluster, assignment) = encoded.target(target, &inputs, class);
                clusters.push(cluster);
                endpoints.extend(assignment);
            }
            let host = service.service.host.as_str();
            for port in service.service.ports.iter().filter(|port| is_tcp(port) && sees(port.number)) {
                let to = inputs.routes.route(class, service, port);
                listeners.push(listener(host, port.number));
                routes.push(routes_of(host, port.number, to));
            }
        }
        Self {
            clusters: kept_set(old.map(|old| &old.clusters), clusters),
            endpoints: kept_set(old.map(|old| &old.endpoints), endpoints),
            listeners: kept_set(old.map(|old| &old.listeners), listeners),
            routes: kept_set(old.map(|old| &old.routes), routes),
        }
    }
}

/// `HOST:PORT`, which a client dials as `xds:///HOST:PORT`.
fn listener(host: &str, port: u16) -> Resource {
    let manager = hcm::HttpConnectionManager {
        route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::Rds(hcm::Rds {
            config_source: Some(ads()),
            route_config_name: cluster_name(port, "", host),
        })),
        http_filters: vec![hcm::HttpFilter {
            name: "envoy.filters.http.router".to_string(),
            config_type: Some(hcm::http_filter::ConfigType::TypedConfig(pack_any(Router::default()))),
            ..Default::default()
        }],
        ..Default::default()
    };
    let name = format!("{host}:{port}");
    let listener = Listener {
        name: name.clone(),
        api_listener: Some(ApiListener { api_listener: Some(pack_any(manager)) }),
        ..Default::default()
    };
    Resource::new(name, listener.encode_to_vec().into())
}

/// The routes of one port: everything to the service, or to where its VirtualService's unconditional route leads.
fn routes_of(host: &str, port: u16, to: Option<Route>) -> Resource {
    let name = cluster_name(port, "", host);
    let specifier = match to.unwrap_or_else(|| Route::Cluster(name.clone())) {
        Route::Cluster(cluster) => route::route_action::ClusterSpecifier::Cluster(cluster),
        Route::Weighted(clusters) => {
            let weighted = |(name, weight): (String, u32)| route::weighted_cluster::ClusterWeight {
                name,
                weight: Some(number(weight)),
                ..Default::default()
            };
            route::route_action::ClusterSpecifier::WeightedClusters(route::WeightedCluster {
                clusters: clusters.into_iter().map(weighted).collect(),
                ..Default::default()
            })
        }
    };
    let action = route::RouteAction { cluster_specifier: Some(specifier), ..Default::default() };
    let all = route::RouteMatch {
        path_specifier: Some(route::route_match::PathSpecifier::Prefix(String::new())),
        ..Default::default()
    };
    let default = route::Route {
        name: "default".to_string(),
        r#match: Some(all),
        action: Some(route::route::Action::Route(action)),
        ..Default::default()
    };
    let virtual_host = route::VirtualHost {
        name: format!("{host}:{port}"),
        // a listener is one host's: whatever authority the client sends is meant for it
        domains: vec!["*".to_string()],
        routes: vec![default],
        ..Default::default()
    };
    let configuration = route::RouteConfiguration {
        name: name.clone(),
        virtual_hosts: vec![virtual_host],
        ..Default::default()
    };
    Resource::new(name, configuration.encode_to_vec().into())
}

/// The cluster of a target.
pub(crate) fn cluster(target: Target<'_>, rule: Option<&Rule>, endpoints: &[Endpoint]) -> Resource {
    let policy = Effective::of(rule, target.port.number, target.subset);
    let name = target.name();
    let discovery = target.discovery(endpoints.len());
    let mut cluster = pb::Cluster {
        name: name.clone(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(discovery as i32)),
        connect_timeout: Some(duration(connect_timeout(&policy))),
        circuit_breakers: Some(breakers(policy.pool)),
        lb_policy: LbPolicy::RoundRobin as i32,
        outlier_detection: policy.outlier.map(outlier::detection),
        transport_socket: tls::provided(target, policy.tls),
        ..Default::default()
    };
    if discovery == DiscoveryType::Eds {
        cluster.eds_cluster_config =
            Some(pb::cluster::EdsClusterConfig { eds_config: Some(ads()), service_name: name.clone() });
    } else {
        cluster.load_assignment = Some(endpoint::inline(target, &name, endpoints));
    }
    Resource::new(name, cluster.encode_to_vec().into())
}
