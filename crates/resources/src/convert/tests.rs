//! Conversions by example.

use std::collections::BTreeMap;

use isthmus_model::{Common, Endpoint, Health, Location, Protocol, Resolution, TlsMode};

use super::*;
use crate::object::Object;
use crate::{istio, parse_yaml};

struct World {
    pods: BTreeMap<(String, String), Resource<kubernetes::Pod>>,
    nodes: BTreeMap<String, Resource<kubernetes::Node>>,
}

impl Lookup for World {
    fn pod(&self, namespace: &str, name: &str) -> Option<&Resource<kubernetes::Pod>> {
        self.pods.get(&(namespace.to_string(), name.to_string()))
    }
    fn node(&self, name: &str) -> Option<&Resource<kubernetes::Node>> {
        self.nodes.get(name)
    }
}

struct Owned(ClusterId, TrustDomain, NetworkId);

fn owned() -> Owned {
    Owned("east".parse().unwrap(), "cluster.local".parse().unwrap(), "east".parse().unwrap())
}

impl Owned {
    fn site(&self) -> Site<'_> {
        Site {
            cluster: &self.0,
            trust_domain: &self.1,
            domain: "cluster.local",
            network: &self.2,
            ranges: &[],
        }
    }
}

fn object(text: &str) -> Object {
    parse_yaml(text).remove(0).unwrap()
}

macro_rules! take {
    ($kind:ident, $text:expr) => {
        match object($text) {
            Object::$kind(inner) => (*inner).clone(),
            other => panic!("{other:?}"),
        }
    };
}

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: mysqldb, namespace: vm, annotations: {networking.istio.io/exportTo: '., web'}}
spec: {clusterIP: 10.96.0.9, selector: {app: mysqldb}, ports: [{name: tcp, port: 3306}]}
";

fn entry(fields: &str, more: &str) -> Resource<istio::WorkloadEntry> {
    take!(
        WorkloadEntry,
        &format!(
            "{{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {{name: db, namespace: vm{more}}}, spec: {{{fields}}}}}"
        )
    )
}

#[test]
fn a_kubernetes_service_becomes_one_host() {
    let world = owned();
    let service = kubernetes_service(world.site(), &take!(Service, SERVICE)).unwrap();
    assert_eq!(service.host.as_str(), "mysqldb.vm.svc.cluster.local");
    assert_eq!(service.ports[0].protocol, Protocol::Tcp);
    assert_eq!(service.resolution, Resolution::Static);
    assert!(service.visible_in(&"web".parse().unwrap()) && !service.visible_in(&"other".parse().unwrap()));

    let headless = SERVICE.replace("10.96.0.9", "None");
    let service = kubernetes_service(world.site(), &take!(Service, &headless)).unwrap();
    assert!(service.is_headless() && service.addresses.is_empty());
    let external = SERVICE.replace("clusterIP: 10.96.0.9", "type: ExternalName, externalName: a.example");
    assert_eq!(kubernetes_service(world.site(), &take!(Service, &external)), None);
}

#[test]
fn a_service_selects_labels_of_its_own_namespace_only() {
    let service = kubernetes_service(owned().site(), &take!(Service, SERVICE)).unwrap();
    let labels = |pairs: &[(&'static str, &'static str)]| -> Labels { pairs.iter().copied().collect() };
    let vm: Namespace = "vm".parse().unwrap();
    assert!(selects(&service, &vm, &labels(&[("app", "mysqldb"), ("version", "v1")])));
    assert!(!selects(&service, &"web".parse().unwrap(), &labels(&[("app", "mysqldb")])));
    assert!(!selects(&service, &vm, &labels(&[("app", "other")])));
    let none = SERVICE.replace("selector: {app: mysqldb}, ", "");
    let service = kubernetes_service(owned().site(), &take!(Service, &none)).unwrap();
    assert!(!selects(&service, &vm, &labels(&[("app", "mysqldb")])));
}

#[test]
fn a_registered_vm_is_an_endpoint_with_identity_network_and_locality() {
    let world = owned();
    let service = kubernetes_service(world.site(), &take!(Service, SERVICE)).unwrap();
    let entry = entry(
        "address: 192.0.2.7, serviceAccount: mysql, network: site, locality: r/z/s, labels: {app: x, version: v1}",
        ", labels: {app: mysqldb}",
    );
    let endpoint = workload_entry_endpoint(world.site(), &service, &entry).unwrap();
    assert_eq!(endpoint.identity.as_ref().unwrap().to_string(), "spiffe://cluster.local/ns/vm/sa/mysql");
    assert_eq!(endpoint.tls, TlsMode::Istio);
    assert_eq!(endpoint.network.as_str(), "site");
    assert_eq!(endpoint.locality.to_string(), "r/z/s");
    assert_eq!(endpoint.ports.get("tcp"), Some(&3306));
    assert_eq!(endpoint.labels.get("app"), Some("mysqldb"));
    assert_eq!(endpoint.labels.get("version"), Some("v1"));
    assert_eq!(endpoint.labels.get("topology.kubernetes.io/zone"), Some("z"));
}

#[test]
fn a_vm_that_is_not_known_to_be_healthy_is_no_endpoint_when_checks_are_on() {
    let world = owned();
    let service = kubernetes_service(world.site(), &take!(Service, SERVICE)).unwrap();
    let checked = ", annotations: {proxy.istio.io/health-checks-enabled: 'true'}";
    let mut vm = entry("address: 192.0.2.7", checked);
    let takes =
        |vm: &Resource<istio::WorkloadEntry>| workload_entry_endpoint(world.site(), &service, vm).is_some();
    assert!(!takes(&vm), "no condition is unknown, and unknown is not healthy");
    let condition = |status: &str| istio::Condition {
        r#type: "Healthy".to_string(),
        status: status.to_string(),
        ..istio::Condition::default()
    };
    vm.spec.status.conditions = vec![condition("False")];
    assert!(!takes(&vm));
    vm.spec.status.conditions = vec![condition("True")];
    assert!(takes(&vm));
    assert!(takes(&entry(
        "address: 192.0.2.7",
        ", annotations: {proxy.istio.io/health-checks-enabled: maybe}"
    )));
}

#[test]
fn ports_of_a_workload_entry_follow_istios_table() {
    let world = owned();
    let port = |service: &str, vm: &str| {
        let service = kubernetes_service(world.site(), &take!(Service, service)).unwrap();
        let endpoint = workload_entry_endpoint(world.site(), &service, &entry(vm, ""));
        endpoint.and_then(|endpoint| endpoint.ports.get("tcp").copied())
    };
    let named = SERVICE.replace("port: 3306", "port: 3306, targetPort: db");
    let numbered = SERVICE.replace("port: 3306", "port: 3306, targetPort: 3307");
    assert_eq!(port(&numbered, "address: 192.0.2.7"), Some(3307));
    assert_eq!(port(&numbered, "address: 192.0.2.7, ports: {tcp: 9}"), Some(9));
    assert_eq!(port(&named, "address: 192.0.2.7, ports: {db: 10}"), Some(10));
    assert_eq!(
        port(&named, "address: 192.0.2.7, ports: {tcp: 9}"),
        None,
        "a named target is looked up by its name"
    );
    assert_eq!(port(SERVICE, "address: db.example"), None, "Services do not take host names");
}

#[test]
fn slices_join_pods_and_nodes() {
    let pod = take!(
        Pod,
        "
apiVersion: v1
kind: Pod
metadata: {name: reviews-v1, namespace: web, labels: {app: reviews, security.istio.io/tlsMode: istio}}
spec: {serviceAccountName: reviews, nodeName: n1}
status: {phase: Running, podIPs: [{ip: 10.0.0.4}], conditions: [{type: Ready, status: 'True'}]}
"
    );
    let node = take!(
        Node,
        "{apiVersion: v1, kind: Node, metadata: {name: n1, labels: {topology.kubernetes.io/region: r1, topology.kubernetes.io/zone: z1}}}"
    );
    let slice = take!(
        EndpointSlice,
        "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: reviews-x, namespace: web, labels: {kubernetes.io/service-name: reviews}}
addressType: IPv4
ports: [{name: http, port: 9080, protocol: TCP}, {name: dns, port: 53, protocol: UDP}]
endpoints:
- {addresses: [10.0.0.4], conditions: {ready: true}, nodeName: n1, targetRef: {kind: Pod, namespace: web, name: reviews-v1}}
- {addresses: [10.0.0.5], targetRef: {kind: Pod, namespace: web, name: not-seen-yet}}
- {addresses: [10.0.0.6], conditions: {ready: false}}
- {addresses: [10.0.0.7], conditions: {ready: false, serving: true, terminating: true}}
- {addresses: [10.0.0.8], conditions: {ready: false, serving: false, terminating: true}}
"
    );
    let world = World {
        pods: [(("web".to_string(), "reviews-v1".to_string()), pod)].into(),
        nodes: [("n1".to_string(), node)].into(),
    };
    let owned = owned();
    let endpoints = slice_endpoints(owned.site(), &slice, &world);
    let summary: Vec<(&str, Health)> = endpoints.iter().map(|e| (&*e.address, e.health)).collect();
    assert_eq!(
        summary,
        [("10.0.0.4", Health::Healthy), ("10.0.0.6", Health::Unhealthy), ("10.0.0.7", Health::Draining)]
    );
    let Endpoint { labels, ports, common, .. } = &endpoints[0];
    let Common { identity, tls, locality, network, .. } = &**common;
    assert_eq!(identity.as_ref().unwrap().principal(), "cluster.local/ns/web/sa/reviews");
    assert_eq!((*tls, locality.to_string().as_str(), network.as_str()), (TlsMode::Istio, "r1/z1/", "east"));
    assert_eq!(ports.len(), 1);
    assert_eq!(labels.get("kubernetes.io/hostname"), Some("n1"));
}

#[test]
fn a_service_entry_is_one_service_a_host_with_its_allocated_addresses() {
    let entry = take!(
        ServiceEntry,
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ext, namespace: web}
spec:
  hosts: [A.example, b.example]
  ports: [{number: 443, name: tls, protocol: TLS}, {number: 3306, name: db}]
  resolution: DNS
status: {addresses: [{value: 240.240.0.1, host: a.example}, {value: 240.240.0.2, host: b.example}]}
"
    );
    let services = service_entry(&entry);
    assert_eq!(services.len(), 2);
    assert_eq!(services[0].host.as_str(), "a.example");
    assert_eq!(services[0].auto_addresses, ["240.240.0.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(services[0].location, Location::MeshExternal);
    assert_eq!(services[1].ports[1].protocol, Protocol::Auto, "no fallback for well-known ports here");
    let endpoints = inline_endpoints(owned().site(), &services[1], &entry);
    assert_eq!(endpoints.len(), 1);
    assert_eq!(&*endpoints[0].address, "b.example");
    assert_eq!(endpoints[0].tls, TlsMode::Disabled);
}

#[test]
fn inline_endpoints_have_their_own_ports_and_places() {
    let entry = take!(
        ServiceEntry,
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: db, namespace: web, labels: {topology.istio.io/locality: wrong/place}}
spec:
  hosts: [db.internal]
  addresses: [192.0.2.5, 192.0.2.6/32, 198.51.100.0/24]
  ports: [{number: 3306, name: tcp, protocol: TCP, targetPort: 3307}]
  location: MESH_INTERNAL
  resolution: STATIC
  endpoints:
  - {address: 10.1.0.1, serviceAccount: db, locality: r/z, weight: 3}
  - {address: 10.1.0.2, ports: {tcp: 9}, network: far}
  - {address: not-an-ip.example}
"
    );
    let service = service_entry(&entry).remove(0);
    assert_eq!(service.addresses.len(), 2, "a range is not an address");
    let endpoints = inline_endpoints(owned().site(), &service, &entry);
    assert_eq!(endpoints.len(), 2);
    assert_eq!((endpoints[0].ports["tcp"], endpoints[0].weight, endpoints[0].tls), (3307, 3, TlsMode::Istio));
    assert_eq!(&*endpoints[0].workload, "db-0");
    assert_eq!((endpoints[1].ports["tcp"], endpoints[1].network.as_str()), (9, "far"));
    assert!(endpoints[1].locality.is_empty());
}

#[test]
fn gateways_are_labelled_services_that_own_the_port() {
    let text = "
apiVersion: v1
kind: Service
metadata: {name: istio-eastwestgateway, namespace: istio-system, labels: {topology.istio.io/network: east}}
spec: {externalIPs: [192.0.2.1], ports: [{name: tls, port: 15443}, {name: tls-istiod, port: 15012}]}
status: {loadBalancer: {ingress: [{hostname: lb.example}]}}
";
    let world = owned();
    let find = |text: &str| network_gateways(world.site(), &take!(Service, text), []);
    let found = find(text);
    let summary: Vec<(&str, u16)> = found.iter().map(|g| (&*g.address, g.port)).collect();
    assert_eq!(summary, [("192.0.2.1", 15443), ("lb.example", 15443)]);
    assert!(find(&text.replace("topology.istio.io/network", "other")).is_empty());
    assert!(find(&text.replace("port: 15443", "port: 443")).is_empty());
}
