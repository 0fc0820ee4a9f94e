//! Services without addresses of their own: found by port, range and server name.

use envoy_types::pb::envoy::config::listener::v3::{FilterChain, Listener};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use isthmus_envoy::ProxyKind::Sidecar;

use crate::world::{Resources, World, cluster_of, typed};

/// `RANGES | NAMES -> CLUSTER` of each chain, the default one last.
fn chains(listener: &Listener) -> Vec<String> {
    let shown = |chain: &FilterChain| {
        let found = chain.filter_chain_match.clone().unwrap_or_default();
        let ranges = found.prefix_ranges.iter().map(|range| {
            format!("{}/{}", range.address_prefix, range.prefix_len.as_ref().map_or(0, |length| length.value))
        });
        let ranges: Vec<String> = ranges.collect();
        format!("{} | {} -> {}", ranges.join(","), found.server_names.join(","), cluster_of(chain))
    };
    let mut all: Vec<String> = listener.filter_chains.iter().map(shown).collect();
    all.extend(listener.default_filter_chain.iter().map(|chain| format!("default {}", shown(chain))));
    all
}

/// What a sidecar whose agent answers no DNS gets.
fn resources(objects: &str) -> Resources {
    let mut world = World::new("east", &[objects]);
    let mut proxy = world.proxy(Sidecar, "a", "client", "10.1.0.1");
    proxy.dns_capture = false;
    world.resources(&proxy)
}

fn entry(name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: {name}, namespace: a}}, spec: {{{spec}}}}}\n"
    )
}

const TLS: &str = "ports: [{number: 443, name: tls, protocol: TLS}]";

#[test]
fn hosts_of_tls_share_a_port_by_their_server_names() {
    let mut objects = entry("a", &format!("hosts: [a.example], resolution: DNS, {TLS}"));
    objects += &entry("b", &format!("hosts: ['*.b.example'], resolution: NONE, {TLS}"));
    let resources = resources(&objects);
    let listener = &resources.listeners["0.0.0.0_443"];
    let expected = [
        " | *.b.example -> outbound|443||*.b.example",
        " | a.example -> outbound|443||a.example",
        "default  |  -> PassthroughCluster",
    ];
    assert_eq!(chains(listener), expected);
    assert_eq!(listener.listener_filters[0].name, "envoy.filters.listener.tls_inspector");
    assert_eq!(listener.bind_to_port.as_ref().map(|on| on.value), Some(false));
}

#[test]
fn ranges_tell_services_of_one_port_apart_and_the_oldest_takes_the_rest() {
    let tcp = "ports: [{number: 9000, name: tcp, protocol: TCP}]";
    let mut objects = entry(
        "ranges",
        &format!("hosts: [r.example], addresses: [10.50.0.0/16, '2001:db8::/64'], resolution: NONE, {tcp}"),
    );
    objects += &entry("rest", &format!("hosts: [rest.example], resolution: NONE, {tcp}"));
    objects += &entry("late", &format!("hosts: [z.example], resolution: NONE, {tcp}"));
    let resources = resources(&objects);
    let expected =
        ["10.50.0.0/16 |  -> outbound|9000||r.example", "default  |  -> outbound|9000||rest.example"];
    assert_eq!(chains(&resources.listeners["0.0.0.0_9000"]), expected);
    assert!(resources.listeners["0.0.0.0_9000"].listener_filters.is_empty(), "a server may speak first");
}

#[test]
fn http_without_an_address_takes_no_port_from_others() {
    let objects = entry(
        "web",
        "hosts: [web.example], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]",
    );
    let resources = resources(&objects);
    assert!(resources.clusters.contains_key("outbound|80||web.example"));
    assert!(
        !resources.listeners.keys().any(|name| name.ends_with("_80")),
        "{:?}",
        resources.listeners.keys()
    );
}

#[test]
fn an_allocated_address_is_used_where_the_agent_answers_dns() {
    let objects = "{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: a, namespace: a}, spec: {hosts: [a.example], resolution: DNS, ports: [{number: 443, name: tls, protocol: TLS}]}, status: {addresses: [{value: 240.240.0.5, host: a.example}]}}";
    assert!(resources(objects).listeners.contains_key("0.0.0.0_443"));
    let mut world = World::new("east", &[objects]);
    let proxy = world.proxy(Sidecar, "a", "client", "10.1.0.1");
    let resources = world.resources(&proxy);
    assert!(resources.listeners.contains_key("240.240.0.5_443"));
    assert!(!resources.listeners.contains_key("0.0.0.0_443"));
}

#[test]
fn a_virtual_service_routes_tls_by_server_name() {
    let objects = "
{apiVersion: v1, kind: Service, metadata: {name: door, namespace: a}, spec: {clusterIP: 10.0.0.9, ports: [{name: tls, port: 443}]}}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: door, namespace: a}, spec: {hosts: [door], tls: [
  {match: [{port: 443, sniHosts: [one.example]}], route: [{destination: {host: one.a.svc.cluster.local, port: {number: 8443}}}]},
  {match: [{sniHosts: [two.example, one.example]}, {port: 9, sniHosts: [never.example]}], route: [{destination: {host: door, subset: v1}, weight: 70}, {destination: {host: door, subset: v2}, weight: 30}]}]}}
";
    let resources = resources(objects);
    let expected = [
        " | one.example -> outbound|8443||one.a.svc.cluster.local",
        " | two.example -> outbound|443|v1|door.a.svc.cluster.local=70 outbound|443|v2|door.a.svc.cluster.local=30",
        "default  |  -> PassthroughCluster",
    ];
    assert_eq!(chains(&resources.listeners["10.0.0.9_443"]), expected);
}

#[test]
fn a_rule_says_how_long_connections_last_and_what_chooses_among_endpoints() {
    let objects = "
{apiVersion: v1, kind: Service, metadata: {name: db, namespace: a}, spec: {clusterIP: 10.0.0.9, ports: [{name: tcp, port: 5432}]}}
---
{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: db, namespace: a}, spec: {host: db, trafficPolicy: {connectionPool: {tcp: {idleTimeout: 90s, maxConnectionDuration: 1h}}, loadBalancer: {consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: '2048'}}}}}}
";
    let resources = resources(objects);
    let proxy: TcpProxy =
        typed(resources.listeners["10.0.0.9_5432"].filter_chains[0].filters.last().unwrap());
    let seconds = |time: Option<envoy_types::pb::google::protobuf::Duration>| time.map(|time| time.seconds);
    assert_eq!(seconds(proxy.idle_timeout), Some(90));
    assert_eq!(seconds(proxy.max_downstream_connection_duration), Some(3600));
    assert_eq!(proxy.hash_policy.len(), 1);
    let cluster = &resources.clusters["outbound|5432||db.a.svc.cluster.local"];
    assert_eq!(cluster.lb_policy().as_str_name(), "RING_HASH");
}
