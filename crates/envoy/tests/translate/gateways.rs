//! What gateways pass on.

use crate::world::{World, bookinfo, cluster_of};

/// `SERVER_NAME ALPNS -> CLUSTER` of every chain of a port.
fn chains(world: &mut World, network: &str, port: u16) -> Vec<String> {
    let gateway = world.gateway(network);
    let resources = world.resources(&gateway);
    let Some(listener) = resources.listeners.get(&format!("0.0.0.0_{port}")) else { return Vec::new() };
    let describe = |chain: &envoy_types::pb::envoy::config::listener::v3::FilterChain| {
        assert!(chain.transport_socket.is_none(), "a gateway ends no TLS");
        let found = chain.filter_chain_match.as_ref().unwrap();
        format!(
            "{} {} -> {}",
            found.server_names.join(","),
            found.application_protocols.len(),
            cluster_of(chain)
        )
    };
    listener.filter_chains.iter().map(describe).collect()
}

const CONTROL: &str = "default.west.federation.isthmus.internal,istiod.istio-system.svc 0 -> control-plane";

#[test]
fn without_a_gateway_object_an_east_west_gateway_passes_what_is_exported() {
    let (_, mut west) = bookinfo();
    let found = chains(&mut west, "west", 15443);
    assert_eq!(found[0], CONTROL);
    for name in [
        "outbound_.9080_._.ratings.bookinfo.svc.cluster.local",
        "outbound_.3306_._.mysqldb.vm.mesh.internal",
        "outbound_.9080_.v3_.reviews.bookinfo.svc.cluster.local",
    ] {
        assert!(found.contains(&format!("{name} 5 -> {name}")), "{name} in {found:#?}");
    }
    assert_eq!(chains(&mut west, "west", 15012), [CONTROL]);
}

#[test]
fn a_gateway_knows_its_own_network_only_and_plain_endpoints_not_at_all() {
    let (_, mut west) = bookinfo();
    let gateway = west.gateway("site");
    let resources = west.resources(&gateway);
    let mysql = "outbound_.3306_._.mysqldb.vm.mesh.internal";
    assert_eq!(resources.hosts(mysql), ["0 10.3.0.7:3306 x1 mtls"]);
    assert!(resources.hosts("outbound_.9080_._.ratings.bookinfo.svc.cluster.local").is_empty());
    assert!(resources.clusters[mysql].transport_socket_matches.is_empty());
    assert!(!resources.clusters.contains_key("control-plane"), "the control plane is not on this network");
    let gateway = west.gateway("west");
    let resources = west.resources(&gateway);
    assert!(resources.hosts(mysql).is_empty());
    let reviews = "outbound_.9080_._.reviews.bookinfo.svc.cluster.local";
    assert_eq!(
        resources.hosts(reviews),
        ["0 10.2.0.3:9080 x1 mtls"],
        "east's aggregate would send it in circles"
    );
}

#[test]
fn a_gateway_objects_hosts_restrict_what_passes_and_the_control_plane_always_does() {
    let (_, mut west) = bookinfo();
    west.apply("{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: g, namespace: istio-system}, spec: {selector: {istio: eastwestgateway}, servers: [{port: {number: 15443, name: tls, protocol: TLS}, tls: {mode: AUTO_PASSTHROUGH}, hosts: ['*.internal']}]}}");
    let found = chains(&mut west, "west", 15443);
    let mysql = "outbound_.3306_._.mysqldb.vm.mesh.internal";
    assert_eq!(found, [CONTROL.to_string(), format!("{mysql} 5 -> {mysql}")]);
}

#[test]
fn services_that_opted_out_do_not_pass() {
    let (_, mut west) = bookinfo();
    west.apply("{apiVersion: v1, kind: Service, metadata: {name: ratings, namespace: bookinfo, labels: {isthmus.io/export: 'false'}}, spec: {clusterIP: 10.96.0.4, selector: {app: ratings}, ports: [{name: http, port: 9080}]}}");
    assert!(!chains(&mut west, "west", 15443).iter().any(|chain| chain.contains("ratings")));
}

#[test]
fn passthrough_servers_follow_virtual_services() {
    let (_, mut west) = bookinfo();
    west.apply("{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: g, namespace: bookinfo}, spec: {selector: {istio: eastwestgateway}, servers: [{port: {number: 443, name: tls, protocol: TLS}, tls: {mode: PASSTHROUGH}, hosts: ['shop.example']}]}}");
    west.apply("{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: v, namespace: bookinfo}, spec: {hosts: [shop.example], gateways: [g], tls: [{match: [{port: 443, sniHosts: [shop.example]}], route: [{destination: {host: productpage, port: {number: 9080}}}]}]}}");
    let found = chains(&mut west, "west", 443);
    assert_eq!(found, ["shop.example 0 -> outbound|9080||productpage.bookinfo.svc.cluster.local"]);
}
