//! Networks, localities, priorities and weights of endpoints.

use isthmus_envoy::ProxyKind::Sidecar;
use isthmus_model::{Locality, NetworkId};

use crate::world::{Resources, World};

const CLUSTER: &str = "outbound|80||web.a.svc.cluster.local";

/// A service `web` with one pod at each `(IP, NETWORK, LOCALITY, more labels)`.
fn world(pods: &[(&str, &str, &str, &str)]) -> World {
    let mut world = World::new("east", &[]);
    world.apply("{apiVersion: v1, kind: Service, metadata: {name: web, namespace: a}, spec: {clusterIP: 10.96.0.5, selector: {app: web}, ports: [{name: http, port: 80}]}}");
    for (ip, network, locality, more) in pods {
        let name = format!("p-{ip}");
        world.apply(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: a, labels: {{app: web, security.istio.io/tlsMode: istio, topology.istio.io/network: '{network}', topology.istio.io/locality: {locality}{more}}}}}, spec: {{}}, status: {{phase: Running, podIP: {ip}}}}}
---
{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}, namespace: a, labels: {{kubernetes.io/service-name: web}}}}, addressType: IPv4, ports: [{{name: http, port: 8080}}], endpoints: [{{addresses: [{ip}], targetRef: {{kind: Pod, name: {name}, namespace: a}}}}]}}"
        ));
    }
    world
}

fn gateway(world: &mut World, network: &str, addresses: &str) {
    world.apply(&format!("{{apiVersion: v1, kind: Service, metadata: {{name: gw-{network}, namespace: istio-system, labels: {{topology.istio.io/network: {network}}}}}, spec: {{clusterIP: 10.96.9.1, externalIPs: [{addresses}], ports: [{{name: tls, port: 15443}}]}}}}"));
}

fn rule(world: &mut World, policy: &str) {
    world.apply(&format!("{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: web, namespace: a}}, spec: {{host: web, trafficPolicy: {{{policy}}}}}}}"));
}

fn seen(world: &mut World, network: &str, locality: &str) -> Resources {
    let mut proxy = world.proxy(Sidecar, "a", "client", "10.1.9.9");
    proxy.network = NetworkId::new(network).unwrap();
    if network.is_empty() {
        // of a cluster whose network is not known either
        proxy.cluster = "elsewhere".parse().unwrap();
    }
    proxy.locality = Locality::parse(locality);
    world.resources(&proxy)
}

fn hosts(world: &mut World, network: &str, locality: &str) -> Vec<String> {
    seen(world, network, locality).hosts(CLUSTER)
}

const OUTLIER: &str = "outlierDetection: {consecutive5xxErrors: 1}";

#[test]
fn without_gateways_everything_is_direct() {
    let mut world = world(&[("10.1.0.1", "east", "r1/z1/s1", ""), ("10.2.0.1", "west", "r2", "")]);
    assert_eq!(hosts(&mut world, "east", ""), ["0 10.1.0.1:8080 x1 mtls", "0 10.2.0.1:8080 x1 mtls"]);
}

#[test]
fn weights_are_whole_shares_of_each_networks_gateways() {
    let mut world = world(&[
        ("10.1.0.1", "east", "r1", ""),
        ("10.2.0.1", "west", "r1", ""),
        ("10.2.0.2", "west", "r1", ""),
    ]);
    gateway(&mut world, "west", "192.0.2.1, 192.0.2.2");
    gateway(&mut world, "east", "192.0.2.3, 192.0.2.4, 192.0.2.5");
    let expected = ["0 10.1.0.1:8080 x6 mtls", "0 192.0.2.1:15443 x6 mtls", "0 192.0.2.2:15443 x6 mtls"];
    assert_eq!(hosts(&mut world, "east", ""), expected);
    let unnamed = hosts(&mut world, "", "");
    assert_eq!(unnamed.len(), 5, "a client that knows no network takes gateways to all: {unnamed:?}");
    assert!(unnamed.iter().all(|host| host.contains(":15443")));
}

#[test]
fn what_speaks_no_mutual_tls_stays_inside_its_network() {
    let mut world = world(&[("10.2.0.1", "west", "r1", "")]);
    gateway(&mut world, "west", "192.0.2.1");
    world.apply("{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: p, namespace: a}, spec: {mtls: {mode: DISABLE}}}");
    assert!(hosts(&mut world, "east", "").is_empty());
    assert_eq!(hosts(&mut world, "west", ""), ["0 10.2.0.1:8080 x1"]);
}

#[test]
fn a_rules_tls_decides_over_what_endpoints_say() {
    let mut world = world(&[("10.1.0.1", "east", "r1", "")]);
    rule(&mut world, "tls: {mode: DISABLE}");
    let resources = seen(&mut world, "east", "");
    assert_eq!(resources.hosts(CLUSTER), ["0 10.1.0.1:8080 x1"]);
    let cluster = &resources.clusters[CLUSTER];
    assert!(cluster.transport_socket.is_none() && cluster.transport_socket_matches.is_empty());
    rule(&mut world, "tls: {mode: ISTIO_MUTUAL}");
    let resources = seen(&mut world, "east", "");
    assert_eq!(resources.hosts(CLUSTER), ["0 10.1.0.1:8080 x1 mtls"]);
    assert!(resources.clusters[CLUSTER].transport_socket.is_some());
}

const FOUR: [(&str, &str, &str, &str); 4] = [
    ("10.1.0.1", "", "r1/z1/s1", ""),
    ("10.1.0.2", "", "r1/z2/s1", ""),
    ("10.1.0.3", "", "r2/z3/s1", ""),
    ("10.1.0.4", "", "r3/z4/s1", ""),
];

fn priorities(world: &mut World, locality: &str) -> Vec<String> {
    let hosts = hosts(world, "east", locality);
    hosts.iter().map(|host| format!("{}={}", &host[9..10], &host[..1])).collect()
}

#[test]
fn localities_fail_over_by_distance_only_where_failures_are_noticed() {
    let mut world = world(&FOUR);
    assert_eq!(priorities(&mut world, "r1/z1/s1"), ["1=0", "2=0", "3=0", "4=0"]);
    rule(&mut world, OUTLIER);
    assert_eq!(priorities(&mut world, "r1/z1/s1"), ["1=0", "2=1", "3=2", "4=2"]);
    assert_eq!(priorities(&mut world, "r9/z/s"), ["1=0", "2=0", "3=0", "4=0"], "no gaps");
    rule(
        &mut world,
        &format!("{OUTLIER}, loadBalancer: {{localityLbSetting: {{failover: [{{from: r1, to: r3}}]}}}}"),
    );
    assert_eq!(priorities(&mut world, "r1/z1/s1"), ["1=0", "2=1", "4=2", "3=3"]);
    rule(&mut world, &format!("{OUTLIER}, loadBalancer: {{localityLbSetting: {{enabled: false}}}}"));
    assert_eq!(priorities(&mut world, "r1/z1/s1"), ["1=0", "2=0", "3=0", "4=0"]);
}

#[test]
fn labels_decide_priorities_in_their_order() {
    let mut world = world(&[
        ("10.1.0.1", "", "r1/z1/s1", ", tier: gold"),
        ("10.1.0.2", "", "r1/z2/s1", ", tier: gold"),
        ("10.1.0.3", "", "r1/z1/s1", ", tier: tin"),
    ]);
    rule(
        &mut world,
        &format!(
            "{OUTLIER}, loadBalancer: {{localityLbSetting: {{failoverPriority: ['tier=gold', 'topology.kubernetes.io/zone']}}}}"
        ),
    );
    assert_eq!(priorities(&mut world, "r1/z1/s1"), ["1=0", "2=1", "3=2"]);
}

#[test]
fn a_service_that_prefers_near_endpoints_needs_no_outlier_detection() {
    let mut world = world(&FOUR);
    world.apply("{apiVersion: v1, kind: Service, metadata: {name: web, namespace: a}, spec: {clusterIP: 10.96.0.5, selector: {app: web}, trafficDistribution: PreferClose, ports: [{name: http, port: 80}]}}");
    assert_eq!(priorities(&mut world, "r1/z1/s1"), ["1=0", "2=1", "3=2", "4=2"]);
}

#[test]
fn a_service_of_its_node_has_the_endpoints_of_the_clients_node() {
    let mut world = world(&[("10.1.0.1", "", "r1", ""), ("10.1.0.2", "", "r1", "")]);
    for (ip, node) in [("10.1.0.1", "n1"), ("10.1.0.2", "n2")] {
        world.apply(&format!("{{apiVersion: v1, kind: Pod, metadata: {{name: p-{ip}, namespace: a, labels: {{app: web}}}}, spec: {{nodeName: {node}}}, status: {{phase: Running, podIP: {ip}}}}}"));
    }
    let mut proxy = world.proxy(Sidecar, "a", "client", "10.1.9.9");
    proxy.node = Some("n2".into());
    assert_eq!(world.resources(&proxy).hosts(CLUSTER).len(), 2);
    world.apply("{apiVersion: v1, kind: Service, metadata: {name: web, namespace: a}, spec: {clusterIP: 10.96.0.5, selector: {app: web}, internalTrafficPolicy: Local, ports: [{name: http, port: 80}]}}");
    assert_eq!(world.resources(&proxy).hosts(CLUSTER), ["0 10.1.0.2:8080 x1"]);
    proxy.node = None;
    assert!(world.resources(&proxy).hosts(CLUSTER).is_empty());
}

#[test]
fn shares_by_locality_leave_out_what_they_do_not_name() {
    let mut world = world(&FOUR);
    rule(
        &mut world,
        "loadBalancer: {localityLbSetting: {distribute: [{from: 'r1/z1/*', to: {'r1/z1/*': 70, 'r1/z2/*': 20, 'r3/*': 10}}]}}",
    );
    let resources = seen(&mut world, "east", "r1/z1/s1");
    let places: Vec<_> = resources.endpoints[CLUSTER]
        .endpoints
        .iter()
        .map(|place| {
            (place.locality.as_ref().unwrap().zone.clone(), place.load_balancing_weight.unwrap().value)
        })
        .collect();
    assert_eq!(places, [("z1".to_string(), 70), ("z2".to_string(), 20), ("z4".to_string(), 10)]);
    let config = resources.clusters[CLUSTER].common_lb_config.as_ref().unwrap();
    assert!(config.locality_config_specifier.is_some());
}

#[test]
fn unready_endpoints_are_known_and_get_nothing() {
    let mut world = world(&[("10.1.0.1", "east", "r1", "")]);
    world.apply("{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: p-10.1.0.1, namespace: a, labels: {kubernetes.io/service-name: web}}, addressType: IPv4, ports: [{name: http, port: 8080}], endpoints: [{addresses: [10.1.0.1], conditions: {ready: false}, targetRef: {kind: Pod, name: p-10.1.0.1, namespace: a}}]}");
    let resources = seen(&mut world, "east", "");
    assert_eq!(resources.hosts(CLUSTER), ["0 10.1.0.1:8080 x1 mtls unhealthy"]);
    let panic = resources.clusters[CLUSTER].common_lb_config.as_ref().unwrap().healthy_panic_threshold;
    assert!(panic.unwrap().value.abs() < f64::EPSILON, "never in panic");
}

#[test]
fn a_sidecar_object_narrows_what_its_workloads_see() {
    let mut world = world(&FOUR);
    world.apply("{apiVersion: v1, kind: Service, metadata: {name: other, namespace: b}, spec: {clusterIP: 10.96.0.6, ports: [{name: tcp, port: 81}]}}");
    world.apply("{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {name: s, namespace: a}, spec: {egress: [{hosts: ['./*']}], outboundTrafficPolicy: {mode: REGISTRY_ONLY}}}");
    let resources = seen(&mut world, "east", "");
    assert!(resources.clusters.contains_key(CLUSTER) && resources.names.table.len() == 1);
    assert!(!resources.clusters.contains_key("outbound|81||other.b.svc.cluster.local"));
    let unknown = resources.listeners["virtualOutbound"].default_filter_chain.as_ref().unwrap();
    assert_eq!(crate::world::cluster_of(unknown), "BlackHoleCluster");
}

#[test]
fn of_two_services_at_one_address_the_older_stays() {
    let mut world = World::new("east", &[]);
    for (name, created) in [("young", "2024-01-02T00:00:00Z"), ("old", "2023-01-01T00:00:00Z")] {
        world.apply(&format!("{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: {name}, namespace: a, creationTimestamp: '{created}'}}, spec: {{hosts: [{name}.example], addresses: [10.9.0.1], resolution: STATIC, ports: [{{number: 80, name: tcp, protocol: TCP}}]}}}}"));
    }
    let listener = &seen(&mut world, "east", "").listeners["10.9.0.1_80"];
    assert_eq!(crate::world::cluster_of(&listener.filter_chains[0]), "outbound|80||old.example");
}

#[test]
fn a_proxy_header_goes_before_whatever_is_spoken_and_not_before_what_a_gateway_passes_on() {
    use envoy_types::pb::envoy::config::core::v3::transport_socket::ConfigType;
    use envoy_types::pb::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
    use prost::Message;

    let mut world = world(&[("10.1.0.1", "east", "r1", "")]);
    rule(
        &mut world,
        "proxyProtocol: {version: V2}, portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}]",
    );
    let resources = seen(&mut world, "east", "");
    let cluster = &resources.clusters[CLUSTER];
    let inner = cluster.transport_socket_matches.iter().map(|matched| {
        let socket = matched.transport_socket.as_ref().unwrap();
        assert_eq!(socket.name, "envoy.transport_sockets.upstream_proxy_protocol");
        let Some(ConfigType::TypedConfig(any)) = &socket.config_type else { panic!("{socket:?}") };
        let outer = ProxyProtocolUpstreamTransport::decode(&*any.value).unwrap();
        assert_eq!(outer.config.unwrap().version, 1, "V2");
        outer.transport_socket.unwrap().name
    });
    let inner: Vec<String> = inner.collect();
    assert_eq!(inner, ["envoy.transport_sockets.tls", "envoy.transport_sockets.raw_buffer"]);
    let gateway = world.gateway("east");
    let passed = world.resources(&gateway);
    let passed = &passed.clusters["outbound_.80_._.web.a.svc.cluster.local"];
    assert!(passed.transport_socket.is_none() && passed.transport_socket_matches.is_empty());
}
