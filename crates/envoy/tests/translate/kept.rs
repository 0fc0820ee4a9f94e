//! What a translator keeps between snapshots never shows: its views equal those of one that starts now.

use isthmus_envoy::ProxyKind::Sidecar;
use isthmus_envoy::{Proxy, Translator};
use isthmus_model::NetworkId;
use isthmus_proto::resource::View;
use isthmus_resources::Kind;
use proptest::prelude::*;

use crate::world::World;

/// Objects of a small world, by kind, namespace, name and variant.
fn object(kind: u8, ns: u8, name: u8, variant: u8) -> (Kind, &'static str, String, String) {
    let namespace = ["istio-system", "a", "b"][usize::from(ns % 3)];
    let (n, v) = (name % 2, variant % 4);
    let named = format!("o{n}");
    let head = |api: &str, kind: &str, more: &str| {
        format!("apiVersion: {api}, kind: {kind}, metadata: {{name: {named}, namespace: {namespace}{more}}}")
    };
    let istio = |kind: &str, more: &str| head("networking.istio.io/v1", kind, more);
    let security = |kind: &str| head("security.istio.io/v1", kind, "");
    let (kind, text) = match kind % 11 {
        0 => {
            let network = if v == 3 { ", labels: {topology.istio.io/network: west}" } else { "" };
            let ip = if v == 2 { "None".to_string() } else { format!("10.96.{n}.{v}") };
            (
                Kind::Service,
                format!(
                    "{}, spec: {{clusterIP: {ip}, externalIPs: [192.0.2.{v}], selector: {{app: o{n}}}, ports: [{{name: tls, port: 15443}}, {{name: x, port: {}}}]}}",
                    head("v1", "Service", network),
                    80 + v
                ),
            )
        }
        1 => (
            Kind::Pod,
            format!(
                "{}, spec: {{serviceAccountName: sa{v}}}, status: {{phase: Running, podIP: 10.1.{}.{n}}}",
                head(
                    "v1",
                    "Pod",
                    &format!(
                        ", labels: {{app: o{}, version: v{v}, security.istio.io/tlsMode: {}, topology.istio.io/locality: r{v}/z, topology.istio.io/network: {}}}",
                        v % 2,
                        if v == 0 { "none" } else { "istio" },
                        if v == 1 { "west" } else { "east" }
                    )
                ),
                ns % 3
            ),
        ),
        2 => (
            Kind::EndpointSlice,
            format!(
                "{}, addressType: IPv4, ports: [{{name: x, port: 8080}}, {{name: tls, port: 1}}], endpoints: [{{addresses: [10.1.{}.{n}], conditions: {{ready: {}}}, targetRef: {{kind: Pod, name: o{n}, namespace: {namespace}}}}}]",
                head(
                    "discovery.k8s.io/v1",
                    "EndpointSlice",
                    &format!(", labels: {{kubernetes.io/service-name: o{}}}", v % 2)
                ),
                ns % 3,
                v != 2
            ),
        ),
        3 => (
            Kind::DestinationRule,
            format!(
                "{}, spec: {{host: o{}, exportTo: {}, trafficPolicy: {{outlierDetection: {{consecutive5xxErrors: {v}}}, loadBalancer: {{localityLbSetting: {{failoverPriority: [{}]}}}}}}, subsets: [{{name: s, labels: {{version: v{v}}}}}]}}",
                istio("DestinationRule", ""),
                v % 2,
                if v == 3 { "['.']" } else { "[]" },
                if v == 2 { "version" } else { "" }
            ),
        ),
        4 => (
            Kind::PeerAuthentication,
            format!(
                "{}, spec: {{{}mtls: {{mode: {}}}}}",
                security("PeerAuthentication"),
                if v == 3 { "selector: {matchLabels: {app: o0}}, " } else { "" },
                ["STRICT", "DISABLE", "PERMISSIVE", "STRICT"][usize::from(v)]
            ),
        ),
        5 => (
            Kind::VirtualService,
            format!(
                "{}, spec: {{hosts: [{}], http: [{{route: [{{destination: {{host: o{n}, subset: s{v}}}}}]}}]}}",
                istio("VirtualService", ""),
                if v == 2 { "'*.local'" } else { "o0" }
            ),
        ),
        6 => (
            Kind::Sidecar,
            format!(
                "{}, spec: {{{}egress: [{{hosts: ['{}/*']}}]}}",
                istio("Sidecar", ""),
                if v == 1 { "workloadSelector: {labels: {version: v1}}, " } else { "" },
                ["*", ".", "a", "*"][usize::from(v)]
            ),
        ),
        7 => (
            Kind::ServiceEntry,
            format!(
                "{}, spec: {{hosts: [h{v}.example], exportTo: {}, location: MESH_INTERNAL, resolution: {}, addresses: [10.96.{n}.1], ports: [{{name: x, number: 80, protocol: TCP}}], {}}}",
                istio("ServiceEntry", ""),
                if v == 2 { "['.']" } else { "[]" },
                if v == 3 { "DNS" } else { "STATIC" },
                if v == 1 {
                    "workloadSelector: {labels: {app: o0}}"
                } else {
                    "endpoints: [{address: 10.7.0.1}]"
                }
            ),
        ),
        8 => (
            Kind::WorkloadEntry,
            format!(
                "{}, spec: {{address: 10.2.0.{n}, labels: {{app: o{}}}, serviceAccount: vm{v}, network: {}}}",
                istio("WorkloadEntry", ""),
                v % 2,
                if v == 3 { "west" } else { "" }
            ),
        ),
        9 => (
            Kind::AuthorizationPolicy,
            format!(
                "{}, spec: {{action: {}, rules: [{{from: [{{source: {{namespaces: [n{v}]}}}}]}}]}}",
                security("AuthorizationPolicy"),
                if v == 0 { "DENY" } else { "ALLOW" }
            ),
        ),
        _ => (
            Kind::Gateway,
            format!(
                "{}, spec: {{selector: {{istio: eastwestgateway}}, servers: [{{port: {{number: 1544{v}, name: t, protocol: TLS}}, tls: {{mode: AUTO_PASSTHROUGH}}, hosts: ['*.local', 'h1.example']}}]}}",
                istio("Gateway", "")
            ),
        ),
    };
    (kind, namespace, named.clone(), format!("{{{text}}}"))
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8, u8, u8),
    Delete(u8, u8, u8),
    Look,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => any::<(u8, u8, u8, u8)>().prop_map(|(k, ns, n, v)| Step::Put(k, ns, n, v)),
        2 => any::<(u8, u8, u8)>().prop_map(|(k, ns, n)| Step::Delete(k, ns, n)),
        3 => Just(Step::Look),
    ]
}

fn proxies(world: &World) -> Vec<Proxy> {
    let mut far = world.proxy(Sidecar, "b", "o1", "10.1.2.1");
    far.network = NetworkId::new("west").unwrap();
    let mut stranger = world.proxy(Sidecar, "a", "nobody", "10.9.9.9");
    stranger.labels = [("app", "o0"), ("version", "v1")].into_iter().collect();
    stranger.dns_capture = false;
    vec![
        world.proxy(Sidecar, "a", "o0", "10.1.1.0"),
        far,
        stranger,
        world.gateway("east"),
        world.gateway("west"),
    ]
}

fn contents(view: &View) -> Vec<(&'static str, String, u64)> {
    let all =
        view.sets.iter().flat_map(|(url, set)| set.iter().map(|r| (*url, r.name.to_string(), r.version)));
    all.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn a_translator_with_a_past_gives_what_a_new_one_gives(steps in prop::collection::vec(step(), 1..40)) {
        let mut world = World::new("east", &[]);
        let proxies = proxies(&world);
        for step in steps.into_iter().chain([Step::Look]) {
            match step {
                Step::Put(k, ns, n, v) => {
                    let text = object(k, ns, n, v).3;
                    world.apply(&text);
                }
                Step::Delete(k, ns, n) => {
                    let (kind, namespace, name, _) = object(k, ns, n, 0);
                    world.delete(kind, namespace, &name);
                }
                Step::Look => {
                    let snapshot = world.snapshot();
                    let fresh = Translator::new(world.settings.clone());
                    for proxy in &proxies {
                        let kept = world.translator.view(&snapshot, proxy);
                        prop_assert_eq!(contents(&kept), contents(&fresh.view(&snapshot, proxy)), "{} on {}", proxy.name, proxy.network);
                    }
                }
            }
        }
    }
}
