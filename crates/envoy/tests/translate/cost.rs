//! What a change costs, and who shares what.

use std::sync::Arc;

use isthmus_envoy::ProxyKind::Sidecar;
use isthmus_proto::type_url;
use isthmus_resources::Kind;

use crate::world::{World, bookinfo};

fn service(n: usize) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: s{n}, namespace: load}}, spec: {{clusterIP: 10.97.{}.{}, selector: {{app: s{n}}}, ports: [{{name: tcp, port: 80}}]}}}}\n",
        n / 250,
        n % 250 + 1
    )
}

fn slice(n: usize, ready: bool) -> String {
    format!(
        "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: s{n}, namespace: load, labels: {{kubernetes.io/service-name: s{n}}}}}, addressType: IPv4, ports: [{{name: tcp, port: 80}}], endpoints: [{{addresses: [10.3.{}.{}], conditions: {{ready: {ready}}}}}]}}\n",
        n / 250,
        n % 250 + 1
    )
}

#[test]
fn one_endpoint_costs_one_assignment_and_a_thousand_proxies_of_a_class_share_it() {
    let mut world = World::new("east", &[]);
    for n in 0..300 {
        world.apply(&service(n));
        world.apply(&slice(n, true));
    }
    let proxies: Vec<_> =
        (0..1000).map(|n| world.proxy(Sidecar, "load", &format!("p{n}"), "10.3.9.9")).collect();
    let first = world.view(&proxies[0]);
    let before = world.translator.encoded();
    assert_eq!(before, (300, 300));
    for proxy in &proxies {
        assert!(Arc::ptr_eq(&world.view(proxy), &first));
    }
    assert_eq!(world.translator.encoded(), before);

    world.apply(&slice(7, false));
    let second = world.view(&proxies[0]);
    assert_eq!(world.translator.encoded(), (300, 301));
    for url in [type_url::CLUSTER, type_url::LISTENER, type_url::NAME_TABLE] {
        assert!(Arc::ptr_eq(first.set(url).unwrap(), second.set(url).unwrap()), "{url}");
    }
    let changed: Vec<_> = first
        .set(type_url::ENDPOINTS)
        .unwrap()
        .iter()
        .zip(second.set(type_url::ENDPOINTS).unwrap().iter())
        .filter(|(old, new)| old.version != new.version)
        .map(|(old, _)| old.name.to_string())
        .collect();
    assert_eq!(changed, ["outbound|80||s7.load.svc.cluster.local"]);
    assert!(proxies.iter().all(|proxy| Arc::ptr_eq(&world.view(proxy), &second)));
}

#[test]
fn namespaces_that_differ_in_nothing_share_one_view_and_one_that_does_keeps_what_it_can() {
    let mut world = World::new("east", &[]);
    for n in 0..50 {
        world.apply(&service(n));
        world.apply(&slice(n, true));
    }
    let proxies: Vec<_> = (0..5)
        .map(|n| world.proxy(Sidecar, &format!("ns-{n}"), &format!("p{n}"), &format!("10.4.{n}.1")))
        .collect();
    let first = world.view(&proxies[0]);
    assert_eq!(world.translator.encoded(), (50, 50));
    assert!(proxies.iter().all(|proxy| Arc::ptr_eq(&world.view(proxy), &first)));

    // An endpoint's change is one assignment for all of them.
    world.apply(&slice(7, false));
    let second = world.view(&proxies[0]);
    assert!(!Arc::ptr_eq(&first, &second));
    assert!(proxies.iter().all(|proxy| Arc::ptr_eq(&world.view(proxy), &second)));
    assert_eq!(world.translator.encoded(), (50, 51));

    // One namespace sees a service less.
    world.apply("{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {name: few, namespace: ns-1}, spec: {egress: [{hosts: ['*/s3.load.svc.cluster.local']}]}}");
    let few = world.view(&proxies[1]);
    assert_eq!(few.set(type_url::ENDPOINTS).unwrap().len(), 1);
    assert_eq!(world.view(&proxies[2]).set(type_url::ENDPOINTS).unwrap().len(), 50);
    assert_eq!(world.translator.encoded(), (50, 51));

    // And gets it back as the others have it.
    world.delete(Kind::Sidecar, "ns-1", "few");
    let others = world.view(&proxies[2]);
    assert!(proxies.iter().all(|proxy| Arc::ptr_eq(&world.view(proxy), &others)));
}

#[test]
fn a_route_of_one_namespace_is_not_shared_with_another() {
    let mut world = World::new("east", &[]);
    for n in 0..2 {
        world.apply(&service(n));
        world.apply(&slice(n, true));
    }
    world.apply("{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: v, namespace: load}, spec: {hosts: [s0.load.svc.cluster.local], tcp: [{match: [{sourceNamespace: ns-1}], route: [{destination: {host: s1.load.svc.cluster.local, port: {number: 80}}}]}]}}");
    let listener = |world: &mut World, namespace: &str| {
        let proxy = world.proxy(Sidecar, namespace, "p", "10.4.0.1");
        world.view(&proxy).set(type_url::LISTENER).unwrap().get("10.97.0.1_80").unwrap().body.clone()
    };
    let (other, matched) = (listener(&mut world, "ns-0"), listener(&mut world, "ns-1"));
    assert_ne!(other, matched);
    assert_eq!(listener(&mut world, "ns-2"), other);
}

#[test]
fn a_change_that_a_proxy_cannot_see_leaves_it_its_view() {
    let (mut east, _) = bookinfo();
    let proxy = east.proxy(Sidecar, "bookinfo", "productpage-v1", "10.1.0.1");
    let first = east.view(&proxy);
    east.apply("{apiVersion: v1, kind: Service, metadata: {name: secret, namespace: other, annotations: {networking.istio.io/exportTo: .}}, spec: {clusterIP: 10.96.7.7, ports: [{port: 80}]}}");
    assert!(Arc::ptr_eq(&first, &east.view(&proxy)));
}

#[test]
fn equal_inputs_give_equal_bytes_in_every_process() {
    let sets = |(mut east, _): (World, World)| {
        let proxy = east.proxy(Sidecar, "bookinfo", "productpage-v1", "10.1.0.1");
        let view = east.view(&proxy);
        let all =
            view.sets.iter().flat_map(|(url, set)| set.iter().map(|r| (*url, r.name.clone(), r.version)));
        all.collect::<Vec<_>>()
    };
    let first = sets(bookinfo());
    for _ in 0..5 {
        assert_eq!(sets(bookinfo()), first);
    }
}
