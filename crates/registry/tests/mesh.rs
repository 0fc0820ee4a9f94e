//! What MeshNetworks and service settings make of objects.

#![expect(clippy::unwrap_used, reason = "a test's helpers")]

use std::sync::Arc;

use isthmus_model::{ClusterId, Hostname, Namespace, NetworkId};
use isthmus_registry::{MeshOptions, Registry, ServiceKey, Settings, Snapshot};
use isthmus_resources::mesh::{MeshConfig, Networks};
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
        root_namespace: Namespace::new("istio-system").unwrap(),
        domain: "cluster.local".into(),
    }
}

fn snapshot(clusters: &[&str]) -> Arc<Snapshot> {
    let mesh = "serviceSettings: [{settings: {clusterLocal: true}, hosts: ['*.a.svc.cluster.local']}, {settings: {clusterLocal: false}, hosts: [gw.a.svc.cluster.local]}]";
    let options = MeshOptions {
        networks: Networks::read(NETWORKS).unwrap().0,
        service_settings: MeshConfig::read(mesh).unwrap().0.service_settings,
    };
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
