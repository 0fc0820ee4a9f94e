//! What MeshNetworks and service settings make of objects.

#![expect(clippy::unwrap_used, reason = "a test's helpers")]

use std::sync::Arc;

use isthmus_model::{ClusterId, Hostname, Namespace, NetworkId};
use isthmus_registry::{Registry, ServiceKey, Settings, Snapshot};
use isthmus_resources::mesh::{Mesh, MeshConfig, Networks};
use isthmus_resources::{Change, Event, parse_yaml};

const NETWORKS: &str = "
networks:
  east: {endpoints: [{fromRegistry: east}], gateways: [{address: 192.0.2.1, port: 15443}]}
  west: {endpoints: [{fromRegistry: west}], gateways: [{registryServiceName: gw.a.svc.cluster.local, port: 443}]}
  lab: {endpoints: [{fromCidr: 10.9.0.0/16}]}
";

const OBJECTS: &str = "
{apiVersion: v1, kind: Service, metadata: {name: gw, namespace: a}, spec: {clusterIP: 10.0.0.9, externalIPs: [203.0.113.1], ports: [{port: 443}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: a}, spec: {clusterIP: 10.0.0.1, ports: [{name: tcp, port: 80}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: web, namespace: a, labels: {kubernetes.io/service-name: web}}, addressType: IPv4, ports: [{name: tcp, port: 80}], endpoints: [{addresses: [10.9.0.1]}]}
";

fn settings() -> Settings {
    Settings {
        cluster: ClusterId::new("east").unwrap(),
        network: NetworkId::unnamed(),
        trust_domain: "cluster.local".parse().unwrap(),
        system_namespace: Namespace::new("istio-system").unwrap(),
        domain: "cluster.local".into(),
    }
}

fn snapshot(clusters: &[&str]) -> Arc<Snapshot> {
    let mesh = "serviceSettings: [{settings: {clusterLocal: true}, hosts: ['*.a.svc.cluster.local']}, {settings: {clusterLocal: false}, hosts: [gw.a.svc.cluster.local]}]";
    let options =
        Mesh { networks: Networks::read(NETWORKS).unwrap().0, config: MeshConfig::read(mesh).unwrap().0 };
    let mut registry = Registry::new(settings()).with_mesh(options);
    for cluster in clusters {
        for object in parse_yaml(OBJECTS) {
            let change = Change::Applied(object.unwrap());
            registry.apply(Event { cluster: ClusterId::new(*cluster).unwrap(), change });
        }
    }
    registry.publish();
    assert!(registry.snapshot().same_content(&registry.build_from_scratch()));
    registry.snapshot()
}

fn key(name: &str) -> ServiceKey {
    let host = Hostname::new(format!("{name}.a.svc.cluster.local")).unwrap();
    ServiceKey::new(host, Namespace::new("a").unwrap())
}

#[test]
fn a_clusters_network_comes_before_that_of_an_address() {
    let of = |cluster: &str| {
        let snapshot = snapshot(&[cluster]);
        snapshot.endpoints(&key("web")).unwrap()[0].network.to_string()
    };
    assert_eq!([of("east"), of("west"), of("north")], ["east", "west", "lab"]);
}

#[test]
fn gateways_are_fixed_addresses_and_services_of_the_networks_clusters() {
    let snapshot = snapshot(&["east", "west"]);
    let all = snapshot.gateways.all.iter();
    let shown: Vec<String> = all
        .map(|found| format!("{} {} {}:{}", found.network, found.cluster, found.address, found.port))
        .collect();
    assert_eq!(shown, ["east  192.0.2.1:15443", "west west 203.0.113.1:443"]);
}

#[test]
fn a_gateways_name_is_its_addresses_once_it_was_looked_up_and_peers_are_told_the_name() {
    let mut registry = Registry::new(settings());
    let text = "{apiVersion: v1, kind: Service, metadata: {name: gw, namespace: a, labels: {topology.istio.io/network: east}}, spec: {ports: [{port: 15443}]}, status: {loadBalancer: {ingress: [{hostname: lb.example}]}}}";
    for object in parse_yaml(text) {
        let change = Change::Applied(object.unwrap());
        registry.apply(Event { cluster: ClusterId::new("east").unwrap(), change });
    }
    registry.publish();
    assert_eq!(
        registry.gateway_names().into_iter().map(|name| name.to_string()).collect::<Vec<_>>(),
        ["lb.example"]
    );
    let ips =
        |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<std::net::IpAddr>>();
    registry.found(&"lb.example".into(), ips(&["203.0.113.2", "203.0.113.1"]));
    registry.publish();
    registry.found(&"lb.example".into(), Vec::new());
    assert!(registry.publish().is_none(), "nothing found says nothing");
    let snapshot = registry.snapshot();
    let shown: Vec<&str> = snapshot.gateways.all.iter().map(|gateway| &*gateway.address).collect();
    assert_eq!(shown, ["203.0.113.1", "203.0.113.2"]);
    let told = isthmus_registry::own_gateways(&snapshot, &ClusterId::new("east").unwrap());
    assert_eq!(&*told[0].address, "lb.example");
    assert!(snapshot.same_content(&registry.build_from_scratch()));
}

#[test]
fn the_most_specific_setting_says_whether_a_host_stays_in_its_cluster() {
    let snapshot = snapshot(&["east"]);
    let local = |name: &str| snapshot.services.get(&key(name)).unwrap().cluster_local;
    assert!(local("web") && !local("gw"));
}

#[test]
fn a_mesh_that_is_configured_anew_is_one_that_always_was() {
    let apply = |registry: &mut Registry, cluster: &str, text: &str| {
        for object in parse_yaml(text) {
            let change = Change::Applied(object.unwrap());
            registry.apply(Event { cluster: ClusterId::new(cluster).unwrap(), change });
        }
    };
    let more = "
{apiVersion: v1, kind: Namespace, metadata: {name: a, labels: {mesh: in}}}
---
{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: web, namespace: a}, spec: {host: web}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: b}}
---
{apiVersion: v1, kind: Service, metadata: {name: other, namespace: b}, spec: {clusterIP: 10.0.0.2, ports: [{name: tcp, port: 80}]}}
";
    let mut registry = Registry::new(settings());
    apply(&mut registry, "east", OBJECTS);
    apply(&mut registry, "east", more);
    registry.publish();
    let read = |networks: &str, config: &str| Mesh {
        networks: Networks::read(networks).unwrap().0,
        config: MeshConfig::read(config).unwrap().0,
    };
    let plain = registry.snapshot();
    for (networks, config) in [
        (NETWORKS, ""),
        (NETWORKS, "{trustDomain: shop.example, rootNamespace: mesh}"),
        ("", "serviceSettings: [{settings: {clusterLocal: true}, hosts: ['*']}]"),
        ("", "{defaultServiceExportTo: ['.'], defaultDestinationRuleExportTo: [b]}"),
        ("", "discoverySelectors: [{matchLabels: {mesh: in}}]"),
        (NETWORKS, "discoverySelectors: [{matchLabels: {mesh: elsewhere}}]"),
    ] {
        registry.set_mesh(read(networks, config));
        let (snapshot, changes) = registry.publish().expect("the change is visible");
        assert!(changes.mesh, "{config}");
        assert!(snapshot.same_content(&registry.build_from_scratch()), "{networks} {config}");
    }
    assert!(registry.snapshot().services.is_empty(), "no namespace is discovered");
    // A namespace's label lets it in, and its loss puts it out.
    apply(
        &mut registry,
        "east",
        "{apiVersion: v1, kind: Namespace, metadata: {name: b, labels: {mesh: elsewhere}}}",
    );
    registry.publish();
    assert_eq!(registry.snapshot().services.len(), 1);
    assert!(registry.snapshot().same_content(&registry.build_from_scratch()));
    apply(&mut registry, "east", "{apiVersion: v1, kind: Namespace, metadata: {name: b}}");
    registry.publish();
    assert!(registry.snapshot().services.is_empty());
    registry.set_mesh(Mesh::default());
    registry.publish();
    assert!(
        registry.snapshot().same_content(&plain)
            && registry.snapshot().same_content(&registry.build_from_scratch())
    );
    registry.set_mesh(Mesh::default());
    assert!(registry.publish().is_none(), "the same configuration is no change");
}
