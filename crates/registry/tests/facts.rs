//! What a registry makes of objects and peers, as facts.

#![expect(clippy::unwrap_used, reason = "a test's helpers")]

use std::sync::Arc;

use isthmus_model::{
    Capacity, ClusterId, Health, Hostname, Locality, Location, Namespace, NetworkGateway, NetworkId,
    PeerChange, Protocol, ServiceExport, ServicePort, TargetPort,
};
use isthmus_registry::{
    CONFIG_KINDS, CORE_KINDS, PeerState, Refused, Registry, ServiceKey, Settings, Snapshot, exports,
    own_gateways,
};
use isthmus_resources::{Change, Event, parse_yaml};

struct World(Registry);

impl World {
    fn new() -> Self {
        Self(Registry::new(Settings {
            cluster: cluster("east"),
            network: NetworkId::new("east").unwrap(),
            trust_domain: "cluster.local".parse().unwrap(),
            system_namespace: Namespace::new("istio-system").unwrap(),
            domain: "cluster.local".into(),
        }))
    }

    fn apply(&mut self, at: &str, text: &str) {
        for object in parse_yaml(text) {
            self.0.apply(Event { cluster: cluster(at), change: Change::Applied(object.unwrap()) });
        }
    }

    fn snapshot(&mut self) -> Arc<Snapshot> {
        self.0.publish();
        self.0.snapshot()
    }

    fn hear(&mut self, change: PeerChange) {
        self.0.apply_peer(&cluster("west"), change).unwrap();
    }
}

fn cluster(name: &str) -> ClusterId {
    ClusterId::new(name).unwrap()
}

fn key(name: &str) -> ServiceKey {
    let host = Hostname::new(format!("{name}.a.svc.cluster.local")).unwrap();
    ServiceKey::new(host, Namespace::new("a").unwrap())
}

fn service(name: &str, ip: &str, more: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: a{more}}}, spec: {{clusterIP: {ip}, selector: {{app: {name}}}, ports: [{{name: http, port: 80}}]}}}}\n"
    )
}

/// A Pod and the slice that lists it.
fn pod(service: &str, name: &str, ip: &str, ready: bool, labels: &str) -> String {
    format!(
        "---
{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: a, labels: {{app: {service}{labels}}}}}, spec: {{serviceAccountName: {service}}}, status: {{phase: Running, podIP: {ip}, conditions: [{{type: Ready, status: 'True'}}]}}}}
---
{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}, namespace: a, labels: {{kubernetes.io/service-name: {service}}}}}, addressType: IPv4, ports: [{{name: http, port: 8080}}], endpoints: [{{addresses: [{ip}], conditions: {{ready: {ready}}}, targetRef: {{kind: Pod, name: {name}, namespace: a}}}}]}}
"
    )
}

const MESH: &str = ", security.istio.io/tlsMode: istio";

fn export(name: &str, port: u16, ready: u32) -> ServiceExport {
    ServiceExport {
        host: key(name).host,
        name: name.into(),
        namespace: Namespace::new("a").unwrap(),
        ports: vec![ServicePort {
            name: "other-name".into(),
            number: port,
            protocol: Protocol::Http,
            target: TargetPort::Number(1),
        }],
        addresses: vec!["10.96.0.1".parse().unwrap()],
        location: Location::MeshInternal,
        labels: Default::default(),
        capacity: vec![Capacity {
            locality: Locality::parse("west/b"),
            network: NetworkId::new("west").unwrap(),
            labels: [("version", "v3")].into_iter().collect(),
            ready,
            unready: 1,
        }],
        identities: vec!["spiffe://cluster.local/ns/a/sa/far".parse().unwrap()],
    }
}

#[test]
fn one_host_of_two_clusters_is_one_service_with_an_address_for_each() {
    let mut world = World::new();
    world.apply("east", &service("web", "10.96.0.5", ""));
    world.apply("remote", &service("web", "10.200.0.5", ""));
    world.apply("east", &pod("web", "near", "10.1.0.1", true, MESH));
    world.apply("remote", &pod("web", "far", "10.2.0.1", true, MESH));
    let snapshot = world.snapshot();
    let web = &snapshot.services.get(&key("web")).unwrap();
    assert_eq!(web.addresses(&cluster("east"))[0].to_string(), "10.96.0.5");
    assert_eq!(web.addresses(&cluster("remote"))[0].to_string(), "10.200.0.5");
    assert_eq!(
        web.addresses(&cluster("third"))[0].to_string(),
        "10.96.0.5",
        "the base's where there is none"
    );
    let endpoints = snapshot.endpoints(&key("web")).unwrap();
    let clusters: Vec<_> = endpoints.iter().map(|endpoint| endpoint.cluster.as_str()).collect();
    assert_eq!(clusters, ["east", "remote"]);
    assert_eq!(endpoints[0].network.as_str(), "east");
    assert!(endpoints[1].network.is_unnamed(), "another cluster's network is its own to say");
}

#[test]
fn a_service_of_a_kubernetes_name_wins_over_a_service_entry_with_it() {
    let mut world = World::new();
    world.apply("east", &service("web", "10.96.0.5", ""));
    world.apply("east", "{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: e, namespace: a}, spec: {hosts: [web.a.svc.cluster.local], addresses: [10.99.0.1], ports: [{number: 80, name: http, protocol: HTTP}]}}");
    let snapshot = world.snapshot();
    let web = snapshot.services.get(&key("web")).unwrap();
    assert_eq!(web.service.addresses[0].to_string(), "10.96.0.5");
}

#[test]
fn a_client_means_the_service_of_its_own_namespace_and_never_a_hidden_one() {
    let mut world = World::new();
    for (namespace, more) in [("b", ""), ("c", ", exportTo: ['.']")] {
        world.apply("east", &format!("{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: e, namespace: {namespace}}}, spec: {{hosts: [api.example], resolution: STATIC, ports: [{{number: 80, name: http, protocol: HTTP}}]{more}}}}}"));
    }
    let snapshot = world.snapshot();
    let host = Hostname::new("api.example").unwrap();
    let meant = |namespace: &str| {
        let namespace = Namespace::new(namespace).unwrap();
        let one = snapshot.service(&host, &namespace).map(|service| service.service.namespace.to_string());
        let all: Vec<_> = snapshot
            .visible(&namespace)
            .iter()
            .map(|service| service.service.namespace.to_string())
            .collect();
        assert_eq!(one.iter().collect::<Vec<_>>(), all.iter().collect::<Vec<_>>());
        one.unwrap()
    };
    assert_eq!((meant("a").as_str(), meant("c").as_str()), ("b", "c"));
}

#[test]
fn an_endpoint_whose_pod_is_unknown_waits_for_it() {
    let mut world = World::new();
    world.apply("east", &service("web", "10.96.0.5", ""));
    let both = pod("web", "p", "10.1.0.1", true, MESH);
    let (pod, slice) = both[4..].split_once("---").unwrap();
    world.apply("east", slice);
    assert!(world.snapshot().endpoints(&key("web")).unwrap().is_empty());
    world.apply("east", pod);
    let snapshot = world.snapshot();
    let endpoint = &snapshot.endpoints(&key("web")).unwrap()[0];
    assert_eq!(endpoint.identity.as_ref().unwrap().to_string(), "spiffe://cluster.local/ns/a/sa/web");
}

#[test]
fn the_system_namespaces_label_moves_every_workload() {
    let mut world = World::new();
    world.apply("east", &service("web", "10.96.0.5", ""));
    world.apply("east", &pod("web", "p", "10.1.0.1", true, MESH));
    assert_eq!(world.snapshot().endpoints(&key("web")).unwrap()[0].network.as_str(), "east");
    world.apply("east", "{apiVersion: v1, kind: Namespace, metadata: {name: istio-system, labels: {topology.istio.io/network: blue}}}");
    let (snapshot, changes) = world.0.publish().unwrap();
    assert_eq!(snapshot.endpoints(&key("web")).unwrap()[0].network.as_str(), "blue");
    assert!(
        changes.networks
            && changes.endpoints.contains(&key("web"))
            && !changes.services.contains(&key("web"))
    );
}

#[test]
fn a_change_names_what_it_touched_and_shares_the_rest() {
    let mut world = World::new();
    for name in ["web", "api"] {
        world.apply("east", &service(name, "10.96.0.5", ""));
        world.apply("east", &pod(name, name, "10.1.0.1", true, MESH));
    }
    let old = world.snapshot();
    world.apply("east", &pod("web", "web", "10.1.0.1", false, MESH));
    let (new, changes) = world.0.publish().unwrap();
    assert_eq!(changes.endpoints.iter().collect::<Vec<_>>(), [&key("web")]);
    assert!(changes.services.is_empty() && changes.config.is_empty() && changes.workloads.is_empty());
    assert_eq!(new.endpoints(&key("web")).unwrap()[0].health, Health::Unhealthy);
    let kept = |key: &ServiceKey| Arc::ptr_eq(old.services.get(key).unwrap(), new.services.get(key).unwrap());
    assert!(kept(&key("web")) && kept(&key("api")));
    assert!(Arc::ptr_eq(old.endpoints(&key("api")).unwrap(), new.endpoints(&key("api")).unwrap()));
    assert!(world.0.publish().is_none());
}

#[test]
fn a_status_that_says_nothing_new_makes_no_snapshot() {
    let mut world = World::new();
    let rule = |version: u8| {
        format!(
            "{{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {{name: p, namespace: a, resourceVersion: '{version}'}}, spec: {{mtls: {{mode: STRICT}}}}}}"
        )
    };
    world.apply("east", &rule(1));
    world.snapshot();
    world.apply("east", &rule(2));
    assert!(world.0.publish().is_none());
}

#[test]
fn a_peer_that_never_spoke_is_unknown_and_one_that_said_nothing_is_empty() {
    let mut world = World::new();
    world.0.link(&cluster("west"));
    let view = |snapshot: &Snapshot| snapshot.peers[&cluster("west")].state;
    assert_eq!(view(&world.snapshot()), PeerState::Unknown);
    world.hear(PeerChange::Synced);
    assert_eq!(view(&world.snapshot()), PeerState::Synced);
    world.hear(PeerChange::Unlinked);
    assert!(world.snapshot().peers.is_empty());
}

#[test]
fn a_cluster_is_synced_when_every_kind_was_listed() {
    let mut world = World::new();
    for kind in CORE_KINDS.into_iter().chain(CONFIG_KINDS) {
        assert!(!world.snapshot().is_complete());
        world.0.apply(Event { cluster: cluster("east"), change: Change::Listed(kind, Vec::new()) });
    }
    assert!(world.snapshot().is_complete());
}

#[test]
fn a_peers_capacity_joins_a_local_service_by_port_number() {
    let mut world = World::new();
    world.apply("east", &service("web", "10.96.0.5", ""));
    world.hear(PeerChange::Service(export("web", 80, 7)));
    let snapshot = world.snapshot();
    let endpoint = &snapshot.endpoints(&key("web")).unwrap()[0];
    assert!(endpoint.aggregate && endpoint.address.is_empty());
    assert_eq!((endpoint.weight, endpoint.cluster.as_str(), endpoint.ports["http"]), (7, "west", 80));
    assert_eq!(endpoint.labels.get("version"), Some("v3"));
    assert_eq!(endpoint.labels.get("topology.istio.io/network"), Some("west"));
    let web = snapshot.services.get(&key("web")).unwrap();
    assert_eq!(web.identities[0].to_string(), "spiffe://cluster.local/ns/a/sa/far");
    assert!(web.own_identities.is_empty() && web.service.auto_addresses.is_empty());

    world.hear(PeerChange::Service(export("web", 81, 7)));
    assert!(world.snapshot().endpoints(&key("web")).unwrap()[0].ports.is_empty(), "it has no such port");
    world.hear(PeerChange::Service(export("web", 80, 0)));
    assert!(world.snapshot().endpoints(&key("web")).unwrap().is_empty(), "no capacity is no endpoint");
}

#[test]
fn an_imported_host_keeps_its_address_when_a_local_service_comes_and_goes() {
    let mut world = World::new();
    world.hear(PeerChange::Service(export("web", 80, 1)));
    let allocated =
        |snapshot: &Snapshot| snapshot.services.get(&key("web")).unwrap().service.auto_addresses.clone();
    let first = allocated(&world.snapshot());
    assert!(first[0].to_string().starts_with("240.241."));
    world.apply("east", &service("web", "10.96.0.5", ""));
    assert!(allocated(&world.snapshot()).is_empty());
    let gone =
        Change::Removed(isthmus_resources::Kind::Service, Some(Namespace::new("a").unwrap()), "web".into());
    world.0.apply(Event { cluster: cluster("east"), change: gone });
    assert_eq!(allocated(&world.snapshot()), first);
}

#[test]
fn a_peer_may_only_speak_of_itself() {
    let mut world = World::new();
    let gateway = |owner: &str| {
        PeerChange::Gateway(NetworkGateway {
            network: NetworkId::new("east").unwrap(),
            cluster: cluster(owner),
            address: "203.0.113.9".into(),
            port: 15443,
        })
    };
    let refused = world.0.apply_peer(&cluster("west"), gateway("east")).unwrap_err();
    assert!(matches!(refused, Refused::ForeignGateway { .. }), "{refused}");
    assert!(
        refused.to_string().contains("peer west announced gateway 203.0.113.9 in the name of cluster east")
    );
    assert!(world.0.apply_peer(&cluster("east"), gateway("east")).is_err(), "our own name is no peer's");
    let mut system = export("coredns", 53, 1);
    system.namespace = Namespace::new("kube-system").unwrap();
    assert!(world.0.apply_peer(&cluster("west"), PeerChange::Service(system)).is_err());
    let snapshot = world.snapshot();
    assert!(snapshot.gateways.all.is_empty() && snapshot.services.is_empty());
}

#[test]
fn exports_are_aggregates_of_what_gateways_can_pass() {
    let mut world = World::new();
    world.apply("east", &service("web", "10.96.0.5", ""));
    world.apply(
        "east",
        &pod("web", "w1", "10.1.0.1", true, &format!("{MESH}, version: v1, pod-template-hash: x")),
    );
    world.apply(
        "east",
        &pod("web", "w2", "10.1.0.2", true, &format!("{MESH}, version: v1, pod-template-hash: y")),
    );
    world.apply("east", &pod("web", "w3", "10.1.0.3", false, &format!("{MESH}, version: v1")));
    world.apply("east", &pod("web", "w4", "10.1.0.4", true, ", version: v1"));
    world.apply("east", &service("plain", "10.96.0.6", ""));
    world.apply("east", &pod("plain", "p", "10.1.0.5", true, ""));
    world.apply("east", &service("empty", "10.96.0.7", ""));
    world.apply("east", &service("none", "None", ""));
    world.apply("east", &service("secret", "10.96.0.8", ", annotations: {networking.istio.io/exportTo: .}"));
    world.apply("east", &service("opted", "10.96.0.9", ", labels: {isthmus.io/export: 'false'}"));
    world.apply("east", &service("off", "10.96.0.10", ""));
    world.apply("east", &pod("off", "o", "10.1.0.6", true, MESH));
    world.apply("east", "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: off, namespace: a}, spec: {selector: {matchLabels: {app: off}}, mtls: {mode: DISABLE}}}");
    world.hear(PeerChange::Service(export("theirs", 80, 1)));
    let snapshot = world.snapshot();
    let found = exports(&snapshot, &cluster("east"));
    let names: Vec<_> = found.iter().map(|export| &*export.name).collect();
    assert_eq!(names, ["empty", "web"]);
    assert!(found[0].capacity.is_empty(), "known, and truly without endpoints");
    let [place] = &found[1].capacity[..] else { panic!("one place: {:?}", found[1].capacity) };
    assert_eq!((place.ready, place.unready), (2, 1));
    assert_eq!(place.labels.iter().collect::<Vec<_>>(), [("app", "web"), ("version", "v1")]);
    assert_eq!(found[1].identities[0].to_string(), "spiffe://cluster.local/ns/a/sa/web");
}

#[test]
fn labelled_services_are_gateways_and_only_ours_are_told_to_peers() {
    let mut world = World::new();
    world.apply("east", "{apiVersion: v1, kind: Service, metadata: {name: gw, namespace: istio-system, labels: {topology.istio.io/network: east}}, spec: {clusterIP: 10.96.0.1, externalIPs: [192.0.2.1], ports: [{name: tls, port: 15443}]}, status: {loadBalancer: {ingress: [{hostname: gw.example}]}}}");
    let theirs = NetworkGateway {
        network: NetworkId::new("west").unwrap(),
        cluster: cluster("west"),
        address: "192.0.2.2".into(),
        port: 15443,
    };
    world.hear(PeerChange::Gateway(theirs.clone()));
    let snapshot = world.snapshot();
    let addresses: Vec<_> = snapshot.gateways.all.iter().map(|gateway| &*gateway.address).collect();
    assert_eq!(addresses, ["192.0.2.1", "gw.example", "192.0.2.2"]);
    assert_eq!(own_gateways(&snapshot, &cluster("east")).len(), 2);
    world.hear(PeerChange::GatewayRemoved(theirs));
    assert_eq!(world.snapshot().gateways.all.len(), 2);
}
