//! gRPC clients without a proxy: what their libraries accept, and nothing else.

use envoy_types::pb::envoy::config::cluster::v3::cluster::LbPolicy;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
use isthmus_envoy::ProxyKind::Grpc;
use isthmus_proto::type_url;
use prost::Message;

use crate::world::{Resources, World, bookinfo};

const REVIEWS: &str = "outbound|9080||reviews.bookinfo.svc.cluster.local";
const LISTENER: &str = "reviews.bookinfo.svc.cluster.local:9080";

/// The names of the route configuration that a listener asks for.
fn route_name(resources: &Resources, listener: &str) -> String {
    let any = resources.listeners[listener].api_listener.clone().unwrap().api_listener.unwrap();
    let manager = hcm::HttpConnectionManager::decode(&*any.value).unwrap();
    assert_eq!(manager.http_filters.len(), 1, "the router");
    match manager.route_specifier.unwrap() {
        hcm::http_connection_manager::RouteSpecifier::Rds(rds) => rds.route_config_name,
        other => panic!("{other:?}"),
    }
}

/// Where the one default route of a configuration leads.
fn default_route(world: &mut World, name: &str) -> ClusterSpecifier {
    let proxy = world.proxy(Grpc, "bookinfo", "client", "10.1.0.40");
    let view = world.view(&proxy);
    let body = view.set(type_url::ROUTE).unwrap().get(name).unwrap().body.clone();
    let configuration = RouteConfiguration::decode(body).unwrap();
    let [host] = &configuration.virtual_hosts[..] else { panic!("{configuration:?}") };
    let [route] = &host.routes[..] else { panic!("{host:?}") };
    match route.action.clone().unwrap() {
        Action::Route(action) => action.cluster_specifier.unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_port_of_a_service_is_a_listener_a_route_a_cluster_and_endpoints() {
    let (mut east, _) = bookinfo();
    let proxy = east.proxy(Grpc, "bookinfo", "client", "10.1.0.40");
    let resources = east.resources(&proxy);
    assert_eq!(route_name(&resources, LISTENER), REVIEWS);
    assert_eq!(default_route(&mut east, REVIEWS), ClusterSpecifier::Cluster(REVIEWS.to_string()));
    let cluster = &resources.clusters[REVIEWS];
    assert_eq!(cluster.lb_policy, LbPolicy::RoundRobin as i32);
    assert!(cluster.transport_socket.is_none() && cluster.transport_socket_matches.is_empty());
    // what is behind a gateway cannot be reached without mutual TLS
    assert_eq!(resources.hosts(REVIEWS), ["0 10.1.0.3:9080 x1"]);
    let assignment = &resources.endpoints[REVIEWS];
    assert!(assignment.endpoints.iter().all(|group| group.locality.is_some()), "{assignment:?}");
    assert!(!resources.listeners.contains_key("virtualOutbound"));
}

#[test]
fn an_unconditional_route_of_a_virtual_service_is_followed() {
    let (mut east, _) = bookinfo();
    east.apply(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: split, namespace: bookinfo}
spec:
  hosts: [reviews]
  http:
  - route:
    - {destination: {host: reviews, subset: v2}, weight: 90}
    - {destination: {host: reviews, subset: v3}, weight: 10}
",
    );
    let ClusterSpecifier::WeightedClusters(split) = default_route(&mut east, REVIEWS) else { panic!() };
    let weights: Vec<_> =
        split.clusters.iter().map(|part| (part.name.as_str(), part.weight.unwrap().value)).collect();
    assert_eq!(
        weights,
        [
            ("outbound|9080|v2|reviews.bookinfo.svc.cluster.local", 90),
            ("outbound|9080|v3|reviews.bookinfo.svc.cluster.local", 10)
        ]
    );
}

#[test]
fn mutual_tls_is_asked_for_by_a_rule_and_names_the_clients_own_certificates() {
    let (mut east, _) = bookinfo();
    east.apply(
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a-details, namespace: bookinfo}
spec: {host: details, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}
",
    );
    let proxy = east.proxy(Grpc, "bookinfo", "client", "10.1.0.40");
    let resources = east.resources(&proxy);
    let cluster = &resources.clusters["outbound|9080||details.bookinfo.svc.cluster.local"];
    let socket = cluster.transport_socket.clone().unwrap();
    let envoy_types::pb::envoy::config::core::v3::transport_socket::ConfigType::TypedConfig(any) =
        socket.config_type.unwrap();
    let common = UpstreamTlsContext::decode(&*any.value).unwrap().common_tls_context.unwrap();
    assert_eq!(common.tls_certificate_provider_instance.unwrap().instance_name, "default");
    assert!(common.tls_certificate_sds_secret_configs.is_empty(), "gRPC knows no SDS");
}
