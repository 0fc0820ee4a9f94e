//! A real Envoy and our own proxy take everything that we make.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use envoy_types::pb::envoy::config::bootstrap::v3::{Bootstrap, bootstrap};
use envoy_types::pb::envoy::config::cluster::v3::{Cluster, cluster};
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use isthmus_envoy::Proxy;
use isthmus_envoy::ProxyKind::Sidecar;
use isthmus_proto::type_url;
use isthmus_resources::mesh::{DEFAULT_JSON, Mesh, MeshConfig};
use isthmus_testkit::MeshCa;
use isthmus_testkit::net::free_port;
use prometheus_client::registry::Registry;
use prost::Message;

use crate::world::{Resources, World, bookinfo};

/// Objects that bring in what the story does not: names resolved by DNS, headless services, TLS to the outside, weights, shares.
const MORE: &str = "
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: dns, namespace: bookinfo}, spec: {hosts: [api.example, '*.wild.example'], location: MESH_EXTERNAL, resolution: DNS, ports: [{number: 443, name: tls, protocol: TLS}], endpoints: [{address: a.example}, {address: b.example, locality: r/z}]}, status: {addresses: [{value: 240.240.0.9, host: api.example}]}}
---
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: rr, namespace: bookinfo}, spec: {hosts: [rr.example], addresses: [10.7.7.7], resolution: DNS_ROUND_ROBIN, ports: [{number: 80, name: tcp, protocol: TCP}]}}
---
{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: dns, namespace: bookinfo}, spec: {host: api.example, trafficPolicy: {tls: {mode: SIMPLE, subjectAltNames: [api.example]}}}}
---
{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: rr, namespace: bookinfo}, spec: {host: rr.example, trafficPolicy: {tls: {mode: MUTUAL, clientCertificate: /c, privateKey: /k, caCertificates: /r}, loadBalancer: {simple: ROUND_ROBIN}}}}
---
{apiVersion: v1, kind: Service, metadata: {name: db, namespace: bookinfo}, spec: {clusterIP: None, selector: {app: db}, ports: [{name: tcp, port: 5432}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: db-a, namespace: bookinfo, labels: {kubernetes.io/service-name: db}}, addressType: IPv4, ports: [{name: tcp, port: 5432}], endpoints: [{addresses: [10.1.0.50]}, {addresses: [10.1.0.51], conditions: {ready: false}}]}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: split, namespace: bookinfo}, spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews, subset: v3}, weight: 90}, {destination: {host: ratings}, weight: 10}]}]}}
---
{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: details, namespace: bookinfo}, spec: {host: details, trafficPolicy: {proxyProtocol: {version: V2}, connectionPool: {tcp: {maxConnections: 10, tcpKeepalive: {time: 30s, interval: 5s, probes: 2}}, http: {http1MaxPendingRequests: 5}}, outlierDetection: {splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 2, consecutiveGatewayErrors: 0, minHealthPercent: 20}, loadBalancer: {simple: RANDOM, localityLbSetting: {distribute: [{from: '*', to: {'east/*': 70, 'west/*': 30}}]}}}}}
---
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: wild, namespace: bookinfo}, spec: {hosts: ['*.tls.example', tls.example], resolution: NONE, ports: [{number: 8443, name: tls, protocol: TLS}]}}
---
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: ranges, namespace: bookinfo}, spec: {hosts: [ranges.example], addresses: [10.50.0.0/16, 10.60.0.0/16], resolution: NONE, ports: [{number: 8443, name: tls, protocol: TLS}, {number: 9000, name: tcp, protocol: TCP}]}}
---
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: rest, namespace: bookinfo}, spec: {hosts: [rest.example], resolution: NONE, ports: [{number: 9000, name: tcp, protocol: TCP}]}}
---
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: pipe, namespace: bookinfo}, spec: {hosts: [pipe.example], addresses: [10.70.0.1], resolution: STATIC, ports: [{number: 5000, name: tcp, protocol: TCP}], endpoints: [{address: 'unix:///run/pipe.sock'}]}}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: by-name, namespace: bookinfo}, spec: {hosts: [ranges.example], tls: [{match: [{sniHosts: [a.ranges.example, '*.b.example']}], route: [{destination: {host: ranges.example, port: {number: 9000}}}]}]}}
---
{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: pipe, namespace: bookinfo}, spec: {host: pipe.example, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 65537}}}, connectionPool: {tcp: {idleTimeout: 1m, maxConnectionDuration: 1h}}}}}
---
{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: rest, namespace: bookinfo}, spec: {host: ratings, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 30s, aggression: 2}}}, subsets: [{name: v3, labels: {version: v3}, trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x}}}}]}}
---
{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {name: ratings, namespace: bookinfo}, spec: {workloadSelector: {labels: {app: ratings}}, ingress: [{port: {number: 7777, protocol: TCP, name: a}, defaultEndpoint: '127.0.0.1:7778'}, {port: {number: 7779, protocol: TCP, name: b}, defaultEndpoint: 'unix:///run/app.sock'}, {port: {number: 7780, protocol: TCP, name: c}, defaultEndpoint: '0.0.0.0:7781'}],
  egress: [{port: {number: 9080, protocol: HTTP, name: http}, bind: 127.0.0.3, captureMode: NONE, hosts: ['./reviews.bookinfo.svc.cluster.local']}, {port: {number: 80, protocol: TCP, name: t}, bind: 10.99.0.1, hosts: ['*/rr.example']}, {hosts: ['*/*']}]}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: all, namespace: bookinfo}, spec: {action: DENY, rules: [
  {from: [{source: {principals: ['*', 'a*', '*b'], notPrincipals: [x/ns/y/sa/z], namespaces: [n, 'n*', '*n', '*'], serviceAccounts: [sa, ns/sa], trustDomains: [t, 't*', '*t'], ipBlocks: [10.0.0.0/8, 1.2.3.4, '2001:db8::/32'], notIpBlocks: [10.1.0.0/16]}}, {source: {notNamespaces: [q]}}],
   to: [{operation: {ports: ['80', '443'], notPorts: ['1']}}],
   when: [{key: destination.ip, values: [10.0.0.0/8]}, {key: connection.sni, values: ['*', a.example, 'a*', '*e']}, {key: source.ip, notValues: [9.9.9.9]}, {key: destination.port, values: ['80']}]},
  {}]}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: trial, namespace: bookinfo, annotations: {istio.io/dry-run: 'true'}}, spec: {action: DENY, rules: [{from: [{source: {namespaces: [n]}}]}]}}
---
{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: ratings, namespace: bookinfo}, spec: {selector: {matchLabels: {app: ratings}}, mtls: {mode: PERMISSIVE}, portLevelMtls: {9080: {mode: DISABLE}, 7000: {mode: STRICT}, 7001: {mode: DISABLE}}}}
";

/// Servers of every kind that a gateway serves.
const SERVERS: &str = "
{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: servers, namespace: bookinfo}, spec: {selector: {istio: eastwestgateway}, servers: [
  {port: {number: 15443, name: auto, protocol: TLS}, tls: {mode: AUTO_PASSTHROUGH}, hosts: ['*.local']},
  {port: {number: 15443, name: both, protocol: TLS}, tls: {mode: PASSTHROUGH}, hosts: ['*.shop.example']},
  {port: {number: 15012, name: istiod, protocol: TLS}, tls: {mode: PASSTHROUGH}, hosts: ['*']},
  {port: {number: 3306, name: tcp, protocol: TCP}, bind: 127.0.0.1, hosts: ['*']}]}}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: servers, namespace: bookinfo}, spec: {hosts: ['*'], gateways: [servers], tls: [
  {match: [{port: 15443, sniHosts: ['*.shop.example', a.shop.example]}], route: [{destination: {host: reviews, subset: v3}, weight: 80}, {destination: {host: absent.example, port: {number: 1}}, weight: 20}]},
  {match: [{port: 15012, sniHosts: ['*']}], route: [{destination: {host: productpage, port: {number: 9080}}}]}],
  tcp: [{match: [{port: 3306}], route: [{destination: {host: ratings}}]}]}}
";

fn grpc(cluster_name: &str) -> core::GrpcService {
    core::GrpcService {
        target_specifier: Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(
            core::grpc_service::EnvoyGrpc { cluster_name: cluster_name.to_string(), ..Default::default() },
        )),
        ..Default::default()
    }
}

/// A cluster of the bootstrap itself, without endpoints.
fn stub(name: &str) -> Cluster {
    Cluster { name: name.to_string(), ..fixed(None) }
}

/// An assignment as a static cluster, so that it is checked too.
fn fixed(assignment: Option<ClusterLoadAssignment>) -> Cluster {
    Cluster {
        name: assignment.as_ref().map(|found| format!("check {}", found.cluster_name)).unwrap_or_default(),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(
            cluster::DiscoveryType::Static as i32,
        )),
        load_assignment: assignment,
        ..Default::default()
    }
}

fn bootstrap_of(resources: Resources) -> Bootstrap {
    let mut clusters: Vec<Cluster> = vec![stub("xds-grpc"), stub("sds-grpc")];
    clusters.extend(resources.clusters.into_values());
    clusters.extend(resources.endpoints.into_values().map(|assignment| fixed(Some(assignment))));
    Bootstrap {
        node: Some(core::Node { id: "test".to_string(), cluster: "test".to_string(), ..Default::default() }),
        static_resources: Some(bootstrap::StaticResources {
            listeners: resources.listeners.into_values().collect(),
            clusters,
            ..Default::default()
        }),
        dynamic_resources: Some(bootstrap::DynamicResources {
            ads_config: Some(core::ApiConfigSource {
                api_type: core::api_config_source::ApiType::DeltaGrpc as i32,
                transport_api_version: core::ApiVersion::V3 as i32,
                grpc_services: vec![grpc("xds-grpc")],
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Runs Envoy over what a proxy gets.
fn check(envoy: &Path, world: &mut World, proxy: &Proxy) {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!(
        "{}-{}-{}.pb",
        proxy.name,
        proxy.network,
        std::process::id()
    ));
    std::fs::write(&file, bootstrap_of(world.resources(proxy)).encode_to_vec()).unwrap();
    let output = Command::new(envoy)
        .args(["--mode", "validate", "-l", "warning", "--config-path"])
        .arg(&file)
        .output()
        .unwrap();
    std::fs::remove_file(&file).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} on {}: {said}", proxy.name, proxy.network);
}

fn mesh(text: &str) -> Mesh {
    Mesh { config: MeshConfig::read(text).unwrap().0, ..Mesh::default() }
}

/// The story with more; every proxy of it, with the world that serves it.
fn everyone() -> Vec<(World, Proxy)> {
    let all = |pick: fn(World, World) -> (World, Proxy)| {
        let (mut east, mut west) = bookinfo();
        east.apply(MORE);
        west.apply(MORE);
        east.registry.set_mesh(mesh("accessLogFile: /dev/stdout"));
        west.registry.set_mesh(mesh("{accessLogFile: /dev/stdout, accessLogEncoding: JSON}"));
        pick(east, west)
    };
    vec![
        all(|east, _| {
            let proxy = east.proxy(Sidecar, "bookinfo", "productpage-v1", "10.1.0.1");
            (east, proxy)
        }),
        all(|_, west| {
            let proxy = west.proxy(Sidecar, "bookinfo", "ratings-v2-mysql-vm", "10.2.0.4");
            (west, proxy)
        }),
        all(|_, west| {
            let proxy = west.proxy(Sidecar, "vm", "mysqldb-vm-10.3.0.7-site", "10.3.0.7");
            (west, proxy)
        }),
        all(|_, west| {
            let proxy = west.gateway("west");
            (west, proxy)
        }),
        all(|_, west| {
            let proxy = west.gateway("site");
            (west, proxy)
        }),
        all(|_, mut west| {
            west.apply(SERVERS);
            let ips = ["10.8.0.1", "fd00::8"].map(|ip| ip.parse().unwrap()).into();
            let proxy = Proxy { ips, ..west.gateway("west") };
            (west, proxy)
        }),
        all(|_, mut west| {
            west.apply(SERVERS);
            let proxy = Proxy { on_demand: true, ..west.gateway("west") };
            (west, proxy)
        }),
    ]
}

/// A gateway's listener at port 0 of loopback: its own port may be taken where this runs.
fn off_fixed_ports(url: &str, body: &Bytes) -> Bytes {
    if url != type_url::LISTENER {
        return body.clone();
    }
    let mut listener = Listener::decode(body.clone()).unwrap();
    let ours =
        listener.name.split_once('_').is_some_and(|(address, _)| address.parse::<std::net::IpAddr>().is_ok());
    if ours && listener.bind_to_port.is_none() {
        let socket = core::SocketAddress {
            address: "127.0.0.1".to_string(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(0)),
            ..Default::default()
        };
        listener.additional_addresses.clear();
        listener.address =
            Some(core::Address { address: Some(core::address::Address::SocketAddress(socket)) });
    }
    listener.encode_to_vec().into()
}

#[tokio::test]
async fn our_own_proxy_takes_every_view() {
    let ca = MeshCa::new();
    for (mut world, proxy) in everyone() {
        let config = isthmus_proxy::Config {
            identity: ca.workload("east", "bookinfo/test"),
            node: isthmus_proxy::Node {
                workload: proxy.name.clone(),
                namespace: proxy.namespace.clone(),
                cluster: proxy.cluster.clone(),
                network: proxy.network.clone(),
                app: "app".into(),
                version: "v1".into(),
            },
            outbound: Some("127.0.0.1:0".parse().unwrap()),
            inbound: Some("127.0.0.1:0".parse().unwrap()),
            mark: None,
            original_destination: Arc::new(isthmus_proxy::Netfilter),
            resolver: Arc::new(isthmus_proxy::HostResolver),
            announced_ports: Vec::new(),
            limits: isthmus_proxy::Limits::default(),
        };
        let data_path = isthmus_proxy::Proxy::build(config, &mut Registry::default()).unwrap();
        let view = world.view(&proxy);
        for url in [type_url::CLUSTER, type_url::ENDPOINTS, type_url::LISTENER] {
            let all = view.set(url).unwrap().iter();
            let upserts =
                all.map(|resource| (Arc::clone(&resource.name), off_fixed_ports(url, &resource.body)));
            let rejected = data_path.apply(url, upserts.collect(), &[]);
            // TLS to the outside and Unix sockets are what it cannot do yet, and it says so
            let known = |reason: &str| {
                reason.contains("is held here") || reason.contains("address.pipe: is not supported")
            };
            let unexpected: Vec<_> = rejected.iter().filter(|rejection| !known(&rejection.reason)).collect();
            assert!(unexpected.is_empty(), "{} on {}: {unexpected:#?}", proxy.name, proxy.network);
        }
    }
}

#[test]
fn a_real_envoy_takes_every_view() {
    let Some(envoy) = isthmus_testkit::envoy::program("a_real_envoy_takes_every_view") else { return };
    for (mut world, proxy) in everyone() {
        check(&envoy, &mut world, &proxy);
    }
}

/// A gateway that passes a port on to another of this host.
fn relay(port: u16, to: u16, mesh_config: &str) -> Bootstrap {
    let mut world = World::new("west", &[]);
    world.registry.set_mesh(mesh(mesh_config));
    world.apply(&format!(
        "
{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: back, namespace: a}}, spec: {{hosts: [back.example], resolution: DNS, location: MESH_EXTERNAL, ports: [{{number: {to}, name: tcp, protocol: TCP}}], endpoints: [{{address: 127.0.0.1}}]}}}}
---
{{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {{name: relay, namespace: a}}, spec: {{selector: {{istio: eastwestgateway}}, servers: [{{port: {{number: {port}, name: tcp, protocol: TCP}}, bind: 127.0.0.1, hosts: ['*']}}]}}}}
---
{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: relay, namespace: a}}, spec: {{hosts: ['*'], gateways: [relay], tcp: [{{route: [{{destination: {{host: back.example}}}}]}}]}}}}
"
    ));
    let proxy = world.gateway("west");
    let mut resources = world.resources(&proxy);
    resources.listeners.retain(|name, _| *name == format!("127.0.0.1_{port}"));
    resources.clusters.retain(|name, _| name.ends_with("back.example"));
    assert_eq!((resources.listeners.len(), resources.clusters.len()), (1, 1));
    Bootstrap {
        node: Some(core::Node { id: "test".to_string(), cluster: "test".to_string(), ..Default::default() }),
        static_resources: Some(bootstrap::StaticResources {
            listeners: resources.listeners.into_values().collect(),
            clusters: resources.clusters.into_values().collect(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The line that Envoy logs of one connection, on which 4 bytes were sent and 5 came back.
fn logged(envoy: &Path, form: &str) -> String {
    let back = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, to) = (free_port(), back.local_addr().unwrap().port());
    let dir = tempfile::tempdir().unwrap();
    let (file, log) = (dir.path().join("bootstrap.pb"), dir.path().join("access.log"));
    let config = format!("{{accessLogFile: {}{form}}}", log.display());
    std::fs::write(&file, relay(port, to, &config).encode_to_vec()).unwrap();
    let child = Command::new(envoy)
        .args([
            "--concurrency",
            "1",
            "-l",
            "off",
            "--use-dynamic-base-id",
            "--file-flush-interval-msec",
            "10",
        ])
        .arg("--config-path")
        .arg(&file)
        .spawn();
    let _running = Running(child.unwrap());
    let mut client = soon("Envoy to listen", || TcpStream::connect(("127.0.0.1", port)).ok());
    client.write_all(b"ping").unwrap();
    let (mut server, _) = back.accept().unwrap();
    let mut heard = [0; 4];
    server.read_exact(&mut heard).unwrap();
    server.write_all(b"pong!").unwrap();
    let mut answer = [0; 5];
    client.read_exact(&mut answer).unwrap();
    drop((client, server));
    let line = soon("the line", || std::fs::read_to_string(&log).ok().filter(|text| text.ends_with('\n')));
    assert!(line.contains(&format!("outbound|{to}||back.example")), "{line}");
    line
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn soon<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{what} did not happen");
        std::thread::yield_now();
    }
}

#[test]
fn a_real_envoy_logs_a_connection_as_istios_do() {
    let Some(envoy) = isthmus_testkit::envoy::program("a_real_envoy_logs_a_connection_as_istios_do") else {
        return;
    };
    let text = logged(&envoy, "");
    assert!(text.starts_with('[') && text.contains("] \"- - -\" 0 - - - \"-\" 4 5 "), "{text}");
    assert!(text.ends_with(" - -\n"), "neither server name nor route: {text}");
    let json = logged(&envoy, ", accessLogEncoding: JSON");
    let line: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&line["bytes_received"], &line["bytes_sent"]), (&4.into(), &5.into()), "{json}");
    let mut names: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, DEFAULT_JSON.map(|(name, _)| name));
    let own = logged(&envoy, ", accessLogFormat: 'took %DURATION% for %UPSTREAM_CLUSTER_RAW%'");
    assert!(own.starts_with("took "), "{own}");
}
