//! A snapshot that grew change by change equals one that is built from the same objects at once.

#![expect(clippy::unwrap_used, reason = "a test's helpers")]

use std::sync::Arc;

use isthmus_model::{
    Capacity, ClusterId, Hostname, Locality, Location, Namespace, NetworkGateway, NetworkId, PeerChange,
    Protocol, ServiceExport, ServicePort, TargetPort,
};
use isthmus_registry::{Registry, Settings};
use isthmus_resources::{Change, Event, Kind, parse};
use proptest::prelude::*;
use serde_json::{Value, json};

fn settings() -> Settings {
    Settings {
        cluster: ClusterId::new("east").unwrap(),
        network: NetworkId::new("east").unwrap(),
        trust_domain: "cluster.local".parse().unwrap(),
        system_namespace: Namespace::new("istio-system").unwrap(),
        domain: "cluster.local".into(),
    }
}

/// One step: some cluster, some object of a small world, put or deleted, or a word of a peer.
#[derive(Clone, Debug)]
enum Step {
    Put(u8, Value),
    Delete(u8, Kind, Option<&'static str>, String),
    List(u8, Kind, Vec<Value>),
    Peer(u8, PeerChange),
    Forget,
    Publish,
}

const NAMESPACES: [&str; 3] = ["istio-system", "a", "b"];

fn meta(namespace: &str, name: &str, version: u8) -> Value {
    json!({"namespace": namespace, "name": name, "resourceVersion": version.to_string()})
}

fn object(kind: u8, namespace: u8, name: u8, variant: u8) -> (Kind, Option<&'static str>, String, Value) {
    let ns = NAMESPACES[usize::from(namespace % 3)];
    let (n, v) = (name % 3, variant % 4);
    let named = format!("o{n}");
    let app = json!({"app": format!("o{}", v % 2)});
    match kind % 9 {
        0 => (
            Kind::Service,
            Some(ns),
            named.clone(),
            json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": ns, "name": named, "labels": if v == 3 { json!({"topology.istio.io/network": "east"}) } else { json!({}) }},
            "spec": {"clusterIP": if v == 2 { "None".to_string() } else { format!("10.0.{n}.{v}") },
                "externalIPs": ["192.0.2.1"],
                "ports": [{"name": "tls", "port": 15443, "targetPort": if v == 1 { json!("p") } else { json!(80) }}],
                "selector": app}}),
        ),
        1 => (
            Kind::Pod,
            Some(ns),
            named.clone(),
            json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": ns, "name": named, "labels": {"app": format!("o{}", v % 2), "security.istio.io/tlsMode": if v == 0 { "disabled" } else { "istio" }}},
            "spec": {"serviceAccountName": format!("sa{v}"), "nodeName": format!("n{}", v % 2), "containers": [{"ports": [{"name": "p", "containerPort": 8080}]}]},
            "status": {"phase": if v == 3 { "Failed" } else { "Running" }, "podIP": format!("10.1.0.{n}"), "conditions": [{"type": "Ready", "status": "True"}]}}),
        ),
        2 => (
            Kind::EndpointSlice,
            Some(ns),
            named.clone(),
            json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": ns, "name": named, "labels": {"kubernetes.io/service-name": format!("o{}", v % 2)}},
            "addressType": "IPv4", "ports": [{"name": "tls", "port": 80}],
            "endpoints": [
                {"addresses": [format!("10.1.0.{n}")], "conditions": {"ready": v != 1, "terminating": v == 2}, "targetRef": {"kind": "Pod", "namespace": ns, "name": format!("o{n}")}},
                {"addresses": [format!("10.9.0.{v}")]}]}),
        ),
        3 => (
            Kind::WorkloadEntry,
            Some(ns),
            named.clone(),
            json!({
            "apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry",
            "metadata": {"namespace": ns, "name": named, "annotations": {"proxy.istio.io/health-checks-enabled": "true"}},
            "spec": {"address": format!("10.2.0.{n}"), "labels": app, "serviceAccount": "vm", "network": if v == 3 { "" } else { "site" }},
            "status": {"conditions": [{"type": "Healthy", "status": if v == 0 { "False" } else { "True" }}]}}),
        ),
        4 => (
            Kind::ServiceEntry,
            Some(ns),
            named.clone(),
            json!({
            "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
            "metadata": {"namespace": ns, "name": named},
            "spec": {"hosts": [format!("h{v}.example"), format!("o0.{ns}.svc.cluster.local")], "location": "MESH_INTERNAL", "resolution": "STATIC",
                "ports": [{"number": 3306, "name": "tcp", "protocol": "TCP"}], "workloadSelector": {"labels": app}},
            "status": {"addresses": [{"value": "240.240.0.1", "host": format!("h{v}.example")}]}}),
        ),
        5 => (
            Kind::Namespace,
            None,
            ns.to_string(),
            json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": ns, "labels": if v < 2 { json!({"topology.istio.io/network": format!("net{v}")}) } else { json!({}) },
                "annotations": {"networking.istio.io/traffic-distribution": if v == 1 { "PreferClose" } else { "Any" }}}}),
        ),
        6 => (
            Kind::Node,
            None,
            format!("n{}", n % 2),
            json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("n{}", n % 2), "labels": {"topology.kubernetes.io/region": format!("r{v}")}}}),
        ),
        7 => (
            Kind::DestinationRule,
            Some(ns),
            named.clone(),
            json!({
            "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": meta(ns, &named, v),
            "spec": {"host": format!("o{}", v / 2)}}),
        ),
        _ => (
            Kind::PeerAuthentication,
            Some(ns),
            named.clone(),
            json!({
            "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": meta(ns, &named, v),
            "spec": {"mtls": {"mode": if v < 2 { "STRICT" } else { "PERMISSIVE" }}}}),
        ),
    }
}

fn peer_change(kind: u8, name: u8, variant: u8, peer: u8) -> PeerChange {
    let namespace = NAMESPACES[usize::from(1 + name % 2)];
    let host = Hostname::new(format!("o{}.{namespace}.svc.cluster.local", variant % 3)).unwrap();
    let cluster = ClusterId::new(format!("peer{}", peer % 2)).unwrap();
    let gateway = NetworkGateway {
        network: NetworkId::new("far").unwrap(),
        cluster,
        address: format!("198.51.100.{}", name % 2).into(),
        port: 15443,
    };
    match kind % 6 {
        0 | 1 => PeerChange::Service(ServiceExport {
            host,
            name: "o".into(),
            namespace: Namespace::new(namespace).unwrap(),
            ports: vec![ServicePort {
                name: "x".into(),
                number: 15443,
                protocol: Protocol::Tcp,
                target: TargetPort::Number(1),
            }],
            addresses: vec![],
            location: Location::MeshInternal,
            labels: Default::default(),
            capacity: vec![Capacity {
                locality: Locality::parse("r1"),
                network: NetworkId::new("far").unwrap(),
                labels: Default::default(),
                ready: u32::from(variant),
                unready: 0,
            }],
            identities: vec!["spiffe://cluster.local/ns/a/sa/x".parse().unwrap()],
        }),
        2 => PeerChange::ServiceRemoved(host),
        3 => PeerChange::Gateway(gateway),
        4 => PeerChange::GatewayRemoved(gateway),
        _ if variant < 50 => PeerChange::Unlinked,
        _ => PeerChange::Synced,
    }
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = || (any::<u8>(), any::<u8>(), any::<u8>(), any::<u8>());
    prop_oneof![
        12 => (any::<u8>(), bytes()).prop_map(|(cluster, (k, ns, n, v))| Step::Put(cluster, object(k, ns, n, v).3)),
        4 => (any::<u8>(), bytes()).prop_map(|(cluster, (k, ns, n, v))| {
            let (kind, namespace, name, _) = object(k, ns, n, v);
            Step::Delete(cluster, kind, namespace, name)
        }),
        1 => (any::<u8>(), any::<u8>(), prop::collection::vec((any::<u8>(), any::<u8>(), any::<u8>()), 0..4)).prop_map(|(cluster, k, items)| {
            let items: Vec<_> = items.into_iter().map(|(ns, n, v)| object(k, ns, n, v)).collect();
            Step::List(cluster, object(k, 0, 0, 0).0, items.into_iter().map(|item| item.3).collect())
        }),
        4 => (bytes()).prop_map(|(k, n, v, p)| Step::Peer(p, peer_change(k, n, v, p))),
        1 => Just(Step::Forget),
        4 => Just(Step::Publish),
    ]
}

fn cluster(byte: u8) -> ClusterId {
    ClusterId::new(if byte % 4 == 3 { "remote" } else { "east" }).unwrap()
}

fn run(registry: &mut Registry, step: Step) {
    let event = |cluster, change| Event { cluster, change };
    match step {
        Step::Put(at, value) => registry.apply(event(cluster(at), Change::Applied(parse(value).unwrap()))),
        Step::Delete(at, kind, namespace, name) => {
            let namespace = namespace.map(|text| Namespace::new(text).unwrap());
            registry.apply(event(cluster(at), Change::Removed(kind, namespace, Arc::from(name))));
        }
        Step::List(at, kind, values) => {
            let objects = values.into_iter().map(|value| parse(value).unwrap()).collect();
            registry.apply(event(cluster(at), Change::Listed(kind, objects)));
        }
        Step::Peer(peer, change) => {
            let peer = ClusterId::new(format!("peer{}", peer % 2)).unwrap();
            registry.apply_peer(&peer, change).unwrap();
        }
        Step::Forget => registry.forget_cluster(&ClusterId::new("remote").unwrap()),
        Step::Publish => drop(registry.publish()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn grown_equals_built_at_once(steps in prop::collection::vec(step(), 1..60)) {
        let mut registry = Registry::new(settings());
        for step in steps {
            run(&mut registry, step);
        }
        registry.publish();
        let grown = registry.snapshot();
        let fresh = registry.build_from_scratch();
        prop_assert_eq!(&grown.services, &fresh.services);
        prop_assert_eq!(&grown.endpoints, &fresh.endpoints);
        prop_assert_eq!(&grown.workloads, &fresh.workloads);
        prop_assert_eq!(&grown.config, &fresh.config);
        prop_assert_eq!(&grown.gateways, &fresh.gateways);
        prop_assert_eq!(&grown.networks, &fresh.networks);
        prop_assert_eq!(&grown.peers, &fresh.peers);
        prop_assert!(grown.same_content(&fresh));
        prop_assert!(registry.publish().is_none(), "nothing was touched since");
    }
}
