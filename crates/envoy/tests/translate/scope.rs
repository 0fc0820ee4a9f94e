//! Istio's Sidecar: what a workload sees, where, and what it lets in.

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use isthmus_envoy::ProxyKind::Sidecar;

use crate::world::{Resources, World, cluster_of};

const OBJECTS: &str = "
{apiVersion: v1, kind: Service, metadata: {name: near, namespace: a}, spec: {clusterIP: 10.0.0.1, ports: [{name: tcp, port: 80}, {name: tcp2, port: 81}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: far, namespace: b}, spec: {clusterIP: 10.0.0.2, ports: [{name: tcp, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: hidden, namespace: b}, spec: {clusterIP: 10.0.0.3, ports: [{name: tcp, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: own, namespace: a}, spec: {clusterIP: 10.0.0.4, selector: {app: me}, ports: [{name: tcp, port: 9000, targetPort: 9001}]}}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: near, namespace: a}, spec: {hosts: [near], tcp: [{match: [{port: 81}], route: [{destination: {host: far.b.svc.cluster.local}}]}]}}
";

fn resources(spec: &str) -> Resources {
    let sidecar = format!(
        "{OBJECTS}---\n{{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {{name: default, namespace: a}}, spec: {{{spec}}}}}"
    );
    let mut world = World::new("east", &[&sidecar]);
    let mut proxy = world.proxy(Sidecar, "a", "me", "10.1.0.1");
    proxy.labels = [("app", "me")].into_iter().collect();
    world.resources(&proxy)
}

fn outbound(resources: &Resources) -> Vec<&str> {
    resources.clusters.keys().map(String::as_str).filter(|name| name.starts_with("outbound")).collect()
}

fn addresses(resources: &Resources) -> Vec<&str> {
    resources.listeners.keys().map(String::as_str).filter(|name| !name.starts_with("virtual")).collect()
}

#[test]
fn an_egress_port_is_all_that_is_seen_of_its_hosts() {
    let found = resources(
        "egress: [{port: {number: 80, protocol: TCP, name: t}, hosts: ['./near.a.svc.cluster.local', 'b/far.b.svc.cluster.local']}]",
    );
    assert_eq!(
        outbound(&found),
        ["outbound|80||far.b.svc.cluster.local", "outbound|80||near.a.svc.cluster.local"]
    );
    assert_eq!(addresses(&found), ["10.0.0.1_80", "10.0.0.2_80"]);
}

#[test]
fn what_a_route_leads_to_is_reached_and_not_dialled() {
    let found = resources("egress: [{hosts: ['./*']}]");
    assert!(outbound(&found).contains(&"outbound|80||far.b.svc.cluster.local"), "{:?}", outbound(&found));
    assert!(!outbound(&found).contains(&"outbound|80||hidden.b.svc.cluster.local"));
    assert!(!addresses(&found).contains(&"10.0.0.2_80"));
    assert_eq!(
        cluster_of(&found.listeners["10.0.0.1_81"].filter_chains[0]),
        "outbound|80||far.b.svc.cluster.local"
    );
}

#[test]
fn a_bound_port_has_a_socket_of_the_agents() {
    let found = resources(
        "egress: [{port: {number: 80, protocol: TCP, name: t}, bind: 127.0.0.5, captureMode: NONE, hosts: ['b/far.b.svc.cluster.local']}, {port: {number: 81, protocol: TCP, name: u}, captureMode: NONE, hosts: ['./near.a.svc.cluster.local']}, {bind: 10.9.9.9, hosts: ['./own.a.svc.cluster.local']}]",
    );
    assert_eq!(addresses(&found), ["10.9.9.9_9000", "127.0.0.1_81", "127.0.0.5_80"]);
    let bound = |name: &str| found.listeners[name].bind_to_port.as_ref().is_none_or(|on| on.value);
    assert!(bound("127.0.0.1_81") && bound("127.0.0.5_80") && !bound("10.9.9.9_9000"));
}

#[test]
fn ingress_replaces_what_services_say_and_goes_on_where_it_is_told() {
    let services = resources("egress: [{hosts: ['*/*']}]");
    assert!(services.clusters.contains_key("inbound|9001||"));
    let found = resources(
        "ingress: [{port: {number: 7000, protocol: TCP, name: a}, defaultEndpoint: '127.0.0.1:7001'}, {port: {number: 7002, protocol: TCP, name: b}}, {port: {number: 7003, protocol: TCP, name: c}, defaultEndpoint: '0.0.0.0:7004'}]",
    );
    let inbound: Vec<&String> = found.clusters.keys().filter(|name| name.starts_with("inbound")).collect();
    assert_eq!(inbound, ["inbound|7000||", "inbound|7002||", "inbound|7003||"]);
    let place = |name: &str| {
        let assignment = found.clusters[name].load_assignment.as_ref()?;
        let Some(HostIdentifier::Endpoint(endpoint)) =
            &assignment.endpoints[0].lb_endpoints[0].host_identifier
        else {
            panic!()
        };
        let Some(core::address::Address::SocketAddress(socket)) = &endpoint.address.as_ref().unwrap().address
        else {
            panic!()
        };
        Some(format!("{} {:?}", socket.address, socket.port_specifier.as_ref().unwrap()))
    };
    assert_eq!(place("inbound|7000||").as_deref(), Some("127.0.0.1 PortValue(7001)"));
    assert_eq!(place("inbound|7002||"), None, "to itself");
    assert_eq!(place("inbound|7003||").as_deref(), Some("10.1.0.1 PortValue(7004)"));
    let ports: Vec<u32> = found.listeners["virtualInbound"]
        .filter_chains
        .iter()
        .filter_map(|chain| Some(chain.filter_chain_match.as_ref()?.destination_port.as_ref()?.value))
        .collect();
    assert!(ports.contains(&7000) && !ports.contains(&9001), "{ports:?}");
}
