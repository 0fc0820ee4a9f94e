//! What our control plane's translation makes is what this data path takes: the seam between the two.

use std::sync::Arc;

use isthmus_envoy::{ControlPlane, MeshSettings, OutboundPolicy, Proxy, ProxyKind, Translator};
use isthmus_model::{Labels, Locality, PeerChange};
use isthmus_proto::type_url;
use isthmus_registry::{Registry, Settings, exports, own_gateways};
use isthmus_resources::{Change, Event, parse_yaml};
use isthmus_testkit::MeshCa;

use crate::support::*;

const COMMON: &str = include_str!("../../../envoy/tests/translate/objects/common.yaml");
const EAST: &str = include_str!("../../../envoy/tests/translate/objects/east.yaml");
const WEST: &str = include_str!("../../../envoy/tests/translate/objects/west.yaml");

/// Beyond the story: names by DNS, headless services, weights, every TCP field of a policy, modes by port.
const MORE: &str = "
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: dns, namespace: bookinfo}, spec: {hosts: [api.example, '*.wild.example'], location: MESH_EXTERNAL, resolution: DNS, ports: [{number: 443, name: tls, protocol: TLS}], endpoints: [{address: a.example}, {address: b.example, locality: r/z}]}, status: {addresses: [{value: 240.240.0.9, host: api.example}]}}
---
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: rr, namespace: bookinfo}, spec: {hosts: [rr.example], addresses: [10.7.7.7], resolution: DNS_ROUND_ROBIN, ports: [{number: 80, name: tcp, protocol: TCP}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: db, namespace: bookinfo}, spec: {clusterIP: None, selector: {app: db}, ports: [{name: tcp, port: 5432}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: db-a, namespace: bookinfo, labels: {kubernetes.io/service-name: db}}, addressType: IPv4, ports: [{name: tcp, port: 5432}], endpoints: [{addresses: [10.1.0.50]}, {addresses: [10.1.0.51], conditions: {ready: false}}]}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: split, namespace: bookinfo}, spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews, subset: v3}, weight: 90}, {destination: {host: ratings}, weight: 10}]}]}}
---
{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: details, namespace: bookinfo}, spec: {host: details, trafficPolicy: {proxyProtocol: {version: V2}, connectionPool: {tcp: {maxConnections: 10, tcpKeepalive: {time: 30s, interval: 5s, probes: 2}}}, outlierDetection: {splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 2, consecutiveGatewayErrors: 0, minHealthPercent: 20}, loadBalancer: {simple: RANDOM, localityLbSetting: {distribute: [{from: '*', to: {'east/*': 70, 'west/*': 30}}]}}}}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: all, namespace: bookinfo}, spec: {action: DENY, rules: [
  {from: [{source: {principals: ['*', 'a*', '*b'], notPrincipals: [x/ns/y/sa/z], namespaces: [n, 'n*', '*n', '*'], serviceAccounts: [sa, ns/sa], trustDomains: [t, 't*', '*t'], ipBlocks: [10.0.0.0/8, 1.2.3.4, '2001:db8::/32'], notIpBlocks: [10.1.0.0/16]}}, {source: {notNamespaces: [q]}}],
   to: [{operation: {ports: ['80', '443'], notPorts: ['1']}}],
   when: [{key: destination.ip, values: [10.0.0.0/8]}, {key: connection.sni, values: ['*', a.example, 'a*', '*e']}, {key: source.ip, notValues: [9.9.9.9]}, {key: destination.port, values: ['80']}]},
  {}]}}
---
{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: ratings, namespace: bookinfo}, spec: {selector: {matchLabels: {app: ratings}}, mtls: {mode: PERMISSIVE}, portLevelMtls: {9080: {mode: DISABLE}, 7000: {mode: STRICT}, 7001: {mode: DISABLE}}}}
";

struct World {
    name: &'static str,
    registry: Registry,
    translator: Translator,
}

impl World {
    fn new(name: &'static str, objects: [&str; 3]) -> Self {
        let mut registry = Registry::new(Settings {
            cluster: name.parse().unwrap(),
            network: name.parse().unwrap(),
            trust_domain: "cluster.local".parse().unwrap(),
            system_namespace: "istio-system".parse().unwrap(),
            domain: "cluster.local".into(),
        });
        for object in objects.into_iter().flat_map(parse_yaml) {
            let change = Change::Applied(object.unwrap());
            registry.apply(Event { cluster: name.parse().unwrap(), change });
        }
        let translator = Translator::new(MeshSettings {
            trust_domain: "cluster.local".parse().unwrap(),
            trust_domain_aliases: vec!["old.example".parse().unwrap()],
            cluster: name.parse().unwrap(),
            root_namespace: "istio-system".parse().unwrap(),
            domain: "cluster.local".to_string(),
            control_plane: ControlPlane {
                names: vec![format!("default.{name}.federation.isthmus.internal")],
                addresses: vec!["10.9.9.9:15012".parse().unwrap()],
            },
            outbound_policy: OutboundPolicy::AllowAny,
            defaults: isthmus_envoy::Defaults::default(),
            access_log: isthmus_envoy::AccessLog::default(),
        });
        registry.publish();
        Self { name, registry, translator }
    }

    fn hear(&mut self, other: &Self) {
        let (cluster, snapshot) = (other.name.parse().unwrap(), other.registry.snapshot());
        let mut say = |change| self.registry.apply_peer(&cluster, change).unwrap();
        exports(&snapshot, &cluster).into_iter().for_each(|export| say(PeerChange::Service(export)));
        own_gateways(&snapshot, &cluster).into_iter().for_each(|gateway| say(PeerChange::Gateway(gateway)));
        say(PeerChange::Synced);
        self.registry.publish();
    }

    fn proxy(&self, kind: ProxyKind, network: &str, (namespace, name, ip): (&str, &str, &str)) -> Proxy {
        let labels: Labels = match kind {
            ProxyKind::Router => [("istio", "eastwestgateway")].into_iter().collect(),
            ProxyKind::Sidecar | ProxyKind::Grpc => Labels::default(),
        };
        Proxy {
            kind,
            namespace: namespace.parse().unwrap(),
            name: name.into(),
            service_account: name.into(),
            cluster: self.name.parse().unwrap(),
            network: network.parse().unwrap(),
            locality: Locality::default(),
            ips: vec![ip.parse().unwrap()],
            labels,
            requested_network_view: match kind {
                ProxyKind::Router => vec![network.parse().unwrap()],
                ProxyKind::Sidecar | ProxyKind::Grpc => Vec::new(),
            },
            dns_capture: true,
            on_demand: false,
            node: None,
        }
    }

    /// Gives a proxy's whole view to a data path. How many resources there were.
    fn give(&self, proxy: &Proxy, to: &Running) -> usize {
        let view = self.translator.view(&self.registry.snapshot(), proxy);
        let mut count = 0;
        for url in [type_url::CLUSTER, type_url::ENDPOINTS, type_url::LISTENER] {
            let set = view.set(url).unwrap();
            let resources = set.iter().map(|resource| (Arc::clone(&resource.name), resource.body.clone()));
            assert_eq!(to.proxy.apply(url, resources.collect(), &[]), [], "{} {url}", proxy.name);
            count += set.len();
        }
        count
    }
}

fn worlds() -> (World, World) {
    let mut east = World::new("east", [COMMON, EAST, MORE]);
    let mut west = World::new("west", [COMMON, WEST, MORE]);
    east.hear(&west);
    west.hear(&east);
    (east, west)
}

#[tokio::test]
async fn every_sidecar_view_is_taken_whole() {
    let (east, west) = worlds();
    let ca = MeshCa::new();
    for (world, workload) in [
        (&east, ("bookinfo", "productpage-v1", "10.1.0.1")),
        (&west, ("bookinfo", "ratings-v2-mysql-vm", "10.2.0.4")),
        (&west, ("vm", "mysqldb-vm-10.3.0.7-site", "10.3.0.7")),
    ] {
        let proxy = Running::new(ca.workload(world.name, "default/any"));
        let given = world.give(&world.proxy(ProxyKind::Sidecar, world.name, workload), &proxy);
        assert!(given > 10, "{} got {given} resources", workload.1);
    }
}

#[tokio::test]
async fn every_gateway_view_is_taken_whole() {
    let (_, west) = worlds();
    let ca = MeshCa::new();
    for network in ["west", "site"] {
        // Its ports are fixed numbers, which a test must not take: they are moved to port 0.
        let gateway = Running::new(ca.workload("west", "istio-system/istio-eastwestgateway"));
        let proxy = west.proxy(ProxyKind::Router, network, ("istio-system", "gw", "10.8.0.1"));
        let view = west.translator.view(&west.registry.snapshot(), &proxy);
        for url in [type_url::CLUSTER, type_url::ENDPOINTS] {
            let set = view.set(url).unwrap();
            let resources = set.iter().map(|resource| (Arc::clone(&resource.name), resource.body.clone()));
            assert_eq!(gateway.proxy.apply(url, resources.collect(), &[]), []);
        }
        let listeners = view.set(type_url::LISTENER).unwrap().iter().map(|resource| {
            use envoy_types::pb::envoy::config::listener::v3::Listener;
            use prost::Message;
            let mut listener = Listener::decode(resource.body.clone()).unwrap();
            listener.address = crate::resources::address("127.0.0.1:0".parse().unwrap());
            (resource.name.to_string(), listener)
        });
        let listeners: Vec<_> = listeners.collect();
        assert!(listeners.iter().any(|(name, _)| name == "0.0.0.0_15443"), "{network}");
        assert_eq!(gateway.give(listeners), []);
        let shown = gateway.proxy.listeners_json();
        assert!(shown.to_string().contains("outbound_."), "{shown}");
    }
}
