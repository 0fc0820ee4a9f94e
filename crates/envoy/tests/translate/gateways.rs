//! What gateways pass on.

use std::collections::BTreeSet;
use std::sync::Arc;

use envoy_types::pb::envoy::config::listener::v3::{FilterChain, Listener};
use isthmus_envoy::Proxy;
use isthmus_proto::discovery::ExportedNames;
use isthmus_proto::resource::View;
use isthmus_proto::type_url::{CLUSTER, ENDPOINTS, EXPORTED_NAMES, LISTENER};
use isthmus_resources::Kind;
use isthmus_sni::name_hash;
use prost::Message;

use crate::world::{World, bookinfo, cluster_of};

/// `SERVER_NAME ALPNS -> CLUSTER` of every chain of a port.
fn chains(world: &mut World, network: &str, port: u16) -> Vec<String> {
    let gateway = world.gateway(network);
    let resources = world.resources(&gateway);
    let Some(listener) = resources.listeners.get(&format!("0.0.0.0_{port}")) else { return Vec::new() };
    listener.filter_chains.iter().map(describe).collect()
}

fn describe(chain: &FilterChain) -> String {
    assert!(chain.transport_socket.is_none(), "a gateway ends no TLS");
    let found = chain.filter_chain_match.as_ref().unwrap();
    let names = found.server_names.join(",");
    format!("{names} {} -> {}", found.application_protocols.len(), cluster_of(chain))
}

/// A gateway that fetches on demand.
fn on_demand(world: &World, network: &str) -> Proxy {
    Proxy { on_demand: true, ..world.gateway(network) }
}

/// Hashes of a table.
fn hashes(view: &View, table: &str) -> BTreeSet<u64> {
    let shards = view.set(EXPORTED_NAMES).unwrap().iter();
    let of_table = shards.filter(|shard| shard.name.starts_with(&format!("{table}/")));
    let all = of_table.map(|shard| ExportedNames::decode(shard.body.clone()).unwrap().hashes);
    all.flatten().collect()
}

fn gateway(name: &str, created: &str, servers: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {{name: {name}, namespace: bookinfo, creationTimestamp: '{created}'}}, spec: {{selector: {{istio: eastwestgateway}}, servers: [{servers}]}}}}"
    )
}

fn routes(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: {name}, namespace: bookinfo}}, spec: {{{spec}}}}}"
    )
}

const OLD: &str = "2020-01-01T00:00:00Z";
const NEW: &str = "2024-01-01T00:00:00Z";

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

#[test]
fn an_on_demand_gateway_gets_hashes_of_all_names_and_one_chain_for_them() {
    let (_, mut west) = bookinfo();
    let classic = west.view(&west.gateway("west"));
    let proxy = on_demand(&west, "west");
    let view = west.view(&proxy);
    assert_eq!(view.set(EXPORTED_NAMES).unwrap().len(), 256, "empty shards are known to be empty");
    assert!(classic.set(EXPORTED_NAMES).is_none());
    for url in [CLUSTER, ENDPOINTS] {
        assert_eq!(view.set(url), classic.set(url), "all may be asked for");
    }
    let names = classic.set(CLUSTER).unwrap().iter().map(|cluster| &*cluster.name);
    let names = names.filter(|name| name.starts_with("outbound_."));
    assert_eq!(hashes(&view, "all"), names.map(name_hash).collect());
    let listener = view.set(LISTENER).unwrap().get("0.0.0.0_15443").unwrap();
    let chains = Listener::decode(listener.body.clone()).unwrap().filter_chains;
    assert_eq!(chains.iter().map(describe).collect::<Vec<_>>(), [CONTROL, " 5 -> BlackHoleCluster"]);
    let ours = &chains[1].metadata.as_ref().unwrap().filter_metadata["isthmus"].fields["exported_names"];
    assert!(format!("{ours:?}").contains("all"));
}

#[test]
fn a_change_of_one_service_changes_one_shard_and_a_change_of_endpoints_none() {
    let (_, mut west) = bookinfo();
    let proxy = on_demand(&west, "west");
    let before = west.view(&proxy);
    west.apply("{apiVersion: v1, kind: Service, metadata: {name: fresh, namespace: bookinfo}, spec: {clusterIP: 10.96.9.4, selector: {app: fresh}, ports: [{name: tcp, port: 80}]}}");
    let after = west.view(&proxy);
    let name = "outbound_.80_._.fresh.bookinfo.svc.cluster.local";
    let (old, new) = (before.set(EXPORTED_NAMES).unwrap(), after.set(EXPORTED_NAMES).unwrap());
    let changed = new.iter().filter(|shard| old.get(&shard.name) != Some(shard));
    let shard = format!("all/{:02x}", name_hash(name) >> 56);
    assert_eq!(changed.map(|shard| shard.name.to_string()).collect::<Vec<_>>(), [shard]);
    assert!(Arc::ptr_eq(before.set(LISTENER).unwrap(), after.set(LISTENER).unwrap()));

    let (clusters, endpoints) = west.translator.encoded();
    west.apply("{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: ratings-a, namespace: bookinfo, labels: {kubernetes.io/service-name: ratings}}, addressType: IPv4, ports: [{name: http, port: 9080}], endpoints: [{addresses: [10.2.0.4], conditions: {ready: false}, targetRef: {kind: Pod, name: ratings-v2-mysql-vm, namespace: bookinfo}}]}");
    let third = west.view(&proxy);
    assert_eq!(west.translator.encoded(), (clusters, endpoints + 1));
    for url in [CLUSTER, LISTENER, EXPORTED_NAMES] {
        assert!(Arc::ptr_eq(after.set(url).unwrap(), third.set(url).unwrap()), "{url}");
    }
    let ratings = |view: &View| {
        view.set(ENDPOINTS).unwrap().get("outbound_.9080_._.ratings.bookinfo.svc.cluster.local").cloned()
    };
    assert_ne!(ratings(&third), ratings(&after));
}

#[test]
fn hosts_of_servers_have_tables_of_their_own() {
    let (_, mut west) = bookinfo();
    let auto = "tls: {mode: AUTO_PASSTHROUGH}";
    west.apply(&gateway("g", OLD, &format!("{{port: {{number: 15443, name: a, protocol: TLS}}, {auto}, hosts: ['*.internal']}}, {{port: {{number: 15444, name: b, protocol: TLS}}, {auto}, hosts: ['bookinfo/*']}}")));
    let proxy = on_demand(&west, "west");
    let view = west.view(&proxy);
    let tables: BTreeSet<&str> =
        view.set(EXPORTED_NAMES).unwrap().iter().map(|shard| shard.name.split_once('/').unwrap().0).collect();
    let found: Vec<BTreeSet<u64>> = tables.into_iter().map(|table| hashes(&view, table)).collect();
    let mysql = name_hash("outbound_.3306_._.mysqldb.vm.mesh.internal");
    let ratings = name_hash("outbound_.9080_._.ratings.bookinfo.svc.cluster.local");
    assert_eq!(found.len(), 2);
    assert!(found.iter().any(|table| *table == BTreeSet::from([mysql])));
    assert!(found.iter().any(|table| table.contains(&ratings) && !table.contains(&mysql)));
}

#[test]
fn tls_routes_have_weights_subsets_wildcards_and_ports() {
    let (_, mut west) = bookinfo();
    let server = "{port: {number: 8443, name: tls, protocol: TLS}, tls: {mode: PASSTHROUGH}, hosts: ['*.shop.example', 'bookinfo/only.example', 'other/never.example']}";
    west.apply(&gateway("g", OLD, server));
    west.apply(&routes("v", "hosts: ['*.shop.example', only.example, never.example], gateways: [g, mesh], tls: [
      {match: [{port: 8443, sniHosts: ['*.shop.example']}], route: [{destination: {host: reviews, subset: v3, port: {number: 9080}}, weight: 90}, {destination: {host: ratings, port: {number: 9080}}, weight: 10}]},
      {match: [{sniHosts: [only.example]}], route: [{destination: {host: details}}]},
      {match: [{sniHosts: [never.example]}], route: [{destination: {host: details}}]},
      {match: [{port: 9, sniHosts: [nine.shop.example]}], route: [{destination: {host: details}}]},
      {match: [{gateways: [mesh], sniHosts: [mesh.shop.example]}], route: [{destination: {host: details}}]}]"));
    let reviews = "outbound|9080|v3|reviews.bookinfo.svc.cluster.local";
    let ratings = "outbound|9080||ratings.bookinfo.svc.cluster.local";
    assert_eq!(
        chains(&mut west, "west", 8443),
        [
            format!("*.shop.example 0 -> {reviews}=90 {ratings}=10"),
            "only.example 0 -> outbound|9080||details.bookinfo.svc.cluster.local".to_string(),
        ]
    );
    let gateway = west.gateway("west");
    let clusters = west.resources(&gateway).clusters;
    assert!(clusters.contains_key(reviews) && clusters.contains_key(ratings));
}

#[test]
fn plain_tcp_follows_the_first_route_for_its_port() {
    let (_, mut west) = bookinfo();
    west.apply(&gateway("g", OLD, "{port: {number: 3306, name: tcp, protocol: TCP}, hosts: ['*']}, {port: {number: 3307, name: tcp2, protocol: TCP}, bind: 127.0.0.9, hosts: ['*']}"));
    west.apply(&routes("v", "hosts: ['*'], gateways: [bookinfo/g], tcp: [
      {match: [{port: 3307}], route: [{destination: {host: details}}]},
      {match: [{port: 3306}], route: [{destination: {host: ratings}, weight: 1}, {destination: {host: reviews}, weight: 3}]}]"));
    let ratings = "outbound|9080||ratings.bookinfo.svc.cluster.local";
    let reviews = "outbound|9080||reviews.bookinfo.svc.cluster.local";
    assert_eq!(chains(&mut west, "west", 3306), [format!(" 0 -> {ratings}=1 {reviews}=3")]);
    let gateway = west.gateway("west");
    let listeners = west.resources(&gateway).listeners;
    assert!(listeners["0.0.0.0_3306"].listener_filters.is_empty(), "the server may speak first");
    assert_eq!(
        listeners["127.0.0.9_3307"].filter_chains.iter().map(describe).collect::<Vec<_>>(),
        [" 0 -> outbound|9080||details.bookinfo.svc.cluster.local"]
    );
}

#[test]
fn of_gateways_that_cannot_share_a_port_or_a_host_the_older_stays() {
    let (_, mut west) = bookinfo();
    let tls = |host: &str| {
        format!(
            "{{port: {{number: 8443, name: tls, protocol: TLS}}, tls: {{mode: PASSTHROUGH}}, hosts: [{host}]}}"
        )
    };
    west.apply(&gateway(
        "young",
        NEW,
        &format!(
            "{{port: {{number: 8443, name: tcp, protocol: TCP}}, hosts: ['*']}}, {}, {}",
            tls("a.example"),
            tls("b.example")
        ),
    ));
    west.apply(&gateway("aged", OLD, &tls("a.example")));
    west.apply(&routes("y", "hosts: [a.example, b.example], gateways: [young], tls: [{match: [{sniHosts: [a.example]}], route: [{destination: {host: details}}]}, {match: [{sniHosts: [b.example]}], route: [{destination: {host: details}}]}], tcp: [{route: [{destination: {host: details}}]}]"));
    west.apply(&routes("a", "hosts: [a.example], gateways: [aged], tls: [{match: [{sniHosts: [a.example]}], route: [{destination: {host: ratings}}]}]"));
    assert_eq!(
        chains(&mut west, "west", 8443),
        [
            "a.example 0 -> outbound|9080||ratings.bookinfo.svc.cluster.local",
            "b.example 0 -> outbound|9080||details.bookinfo.svc.cluster.local"
        ]
    );
}

#[test]
fn a_gateway_with_both_families_listens_on_both() {
    let (_, mut west) = bookinfo();
    let addresses = |ips: &[&str]| {
        let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        let proxy = Proxy { ips, ..west.gateway("west") };
        let listeners = west.resources(&proxy).listeners;
        let of = |listener: &Listener| format!("{:?}", listener.additional_addresses).contains("\"::\"");
        listeners.iter().map(|(name, listener)| format!("{name} {}", of(listener))).collect::<Vec<_>>()
    };
    let mut addresses = addresses;
    assert_eq!(
        addresses(&["10.8.0.1"]),
        ["0.0.0.0_15012 false", "0.0.0.0_15017 false", "0.0.0.0_15443 false"]
    );
    assert_eq!(
        addresses(&["10.8.0.1", "fd00::1"]),
        ["0.0.0.0_15012 true", "0.0.0.0_15017 true", "0.0.0.0_15443 true"]
    );
    assert_eq!(addresses(&["fd00::1"]), ["::_15012 false", "::_15017 false", "::_15443 false"]);
}

#[test]
fn a_gateway_knows_the_endpoints_of_what_its_clients_did_not_dial() {
    let objects = "
{apiVersion: v1, kind: Service, metadata: {name: db, namespace: a}, spec: {clusterIP: None, ports: [{name: tcp, port: 5432}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: db, namespace: a, labels: {kubernetes.io/service-name: db}}, addressType: IPv4, ports: [{name: tcp, port: 5432}], endpoints: [{addresses: [10.1.0.50]}]}
---
{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: door, namespace: a}, spec: {selector: {istio: eastwestgateway}, servers: [{port: {number: 5432, name: tcp, protocol: TCP}, hosts: ['*']}]}}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: db, namespace: a}, spec: {hosts: ['*'], gateways: [door], tcp: [{route: [{destination: {host: db}}]}]}}
";
    let mut world = World::new("east", &[objects]);
    let gateway = world.gateway("east");
    let resources = world.resources(&gateway);
    let name = "outbound|5432||db.a.svc.cluster.local";
    assert_eq!(resources.clusters[name].eds_cluster_config.as_ref().unwrap().service_name, name);
    assert_eq!(resources.hosts(name), ["0 10.1.0.50:5432 x1"]);
}

#[test]
fn what_a_gateway_object_loses_to_an_older_one_is_known_without_any_proxy_and_forgotten_with_its_cause() {
    let object = |name: &str, created: u8, selector: &str, servers: &str| {
        format!(
            "{{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {{name: {name}, namespace: a, creationTimestamp: '2026-01-0{created}T00:00:00Z'}}, spec: {{selector: {{{selector}}}, servers: [{servers}]}}}}"
        )
    };
    let tls = |hosts: &str| {
        format!(
            "{{port: {{number: 8443, name: tls, protocol: TLS}}, tls: {{mode: PASSTHROUGH}}, hosts: [{hosts}]}}"
        )
    };
    let tcp = "{port: {number: 8443, name: tcp, protocol: TCP}, hosts: ['*']}";
    let mut world = World::new("east", &[]);
    world.apply(&object("old", 1, "app: gw", &tls("a.example")));
    world.apply(&object("same-host", 2, "app: gw", &tls("b.example, a.example")));
    world.apply(&object("other-protocol", 3, "app: gw", tcp));
    world.apply(&object("other-host", 4, "app: gw", &tls("c.example")));
    world.apply(&object("elsewhere", 5, "app: other", tcp));
    let lost = |world: &mut World| -> Vec<String> {
        let all = isthmus_envoy::gateway_conflicts(&world.snapshot());
        all.into_iter().map(|((_, name), messages)| format!("{name}: {}", messages.join("; "))).collect()
    };
    let by_selectors = [
        "other-protocol: server of port 8443: Gateway a/old, which is older, has the port for another protocol",
        "same-host: server of port 8443: Gateway a/old, which is older, has host */a.example of it",
    ];
    assert_eq!(lost(&mut world), by_selectors);
    // A Pod that both selectors choose, with a Service that leads two ports to one.
    world.apply("{apiVersion: v1, kind: Pod, metadata: {name: gw, namespace: a, labels: {app: gw, tier: edge}}, spec: {}, status: {phase: Running, podIP: 10.1.0.1}}");
    world.apply("{apiVersion: v1, kind: Service, metadata: {name: gw, namespace: a}, spec: {clusterIP: 10.0.0.1, selector: {app: gw}, ports: [{name: a, port: 443, targetPort: 8443}]}}");
    world.apply(&object("edge", 6, "tier: edge", &tcp.replace("8443", "443")));
    let edge = "edge: server of port 443: Gateway a/old, which is older, has the port for another protocol";
    assert_eq!(lost(&mut world), [&[edge], &by_selectors[..]].concat());
    world.delete(Kind::Gateway, "a", "old");
    world.delete(Kind::Gateway, "a", "edge");
    assert_eq!(
        lost(&mut world),
        [
            "other-protocol: server of port 8443: Gateway a/same-host, which is older, has the port for another protocol"
        ]
    );
    world.delete(Kind::Gateway, "a", "other-protocol");
    assert!(lost(&mut world).is_empty());
}
