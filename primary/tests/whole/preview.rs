//! `isthmus preview` over the objects of a control plane is what that control plane serves.

use std::collections::BTreeMap;
use std::path::Path;

use clap::Parser as _;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::google::protobuf::value::Kind as WireKind;
use envoy_types::pb::google::protobuf::{Struct, Value as WireValue};
use isthmus_describe::to_json;
use isthmus_proto::type_url::{CLUSTER, ENDPOINTS, LISTENER, NAME_TABLE};
use isthmus_resources::Kind;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::plane::{Plane, soon, until};
use crate::streams::{Stream, node};

type Resources = BTreeMap<(&'static str, String), Value>;

/// Types, with their names in what is previewed.
const TYPES: [(&str, &str); 4] =
    [(CLUSTER, "clusters"), (ENDPOINTS, "endpoints"), (LISTENER, "listeners"), (NAME_TABLE, "names")];

const OBJECTS: &str = "
{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}, spec: {selector: {app: cart}, ports: [{name: tcp, port: 7000, targetPort: 7070}, {name: http, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: db, namespace: shop}, spec: {clusterIP: None, selector: {app: db}, ports: [{name: tcp, port: 5432}]}}
---
{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: cart-vm, namespace: shop, labels: {app: cart, version: v2}}, spec: {address: 192.0.2.50, serviceAccount: cart, locality: eu/eu-1}}
---
{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: far, namespace: shop, labels: {app: cart}}, spec: {address: 192.0.2.51, network: west, serviceAccount: cart, locality: eu/eu-2}}
---
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: bank, namespace: shop}, spec: {hosts: [bank.example], resolution: DNS, location: MESH_EXTERNAL, ports: [{number: 443, name: tls, protocol: TLS}]}}
---
{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: cart, namespace: shop}, spec: {host: cart, subsets: [{name: v2, labels: {version: v2}}], trafficPolicy: {outlierDetection: {consecutive5xxErrors: 3}}}}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: cart, namespace: shop}, spec: {hosts: [cart], tcp: [{route: [{destination: {host: cart, subset: v2}}]}]}}
---
{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: all, namespace: shop}, spec: {mtls: {mode: STRICT}}}
---
{apiVersion: v1, kind: Service, metadata: {name: hidden, namespace: lab}, spec: {selector: {app: hidden}, ports: [{name: tcp, port: 7001}]}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: root-of-all, namespace: mesh-config}, spec: {rules: [{from: [{source: {namespaces: [shop]}}]}]}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: web, namespace: shop}, spec: {selector: {matchLabels: {app: web}}, rules: [{from: [{source: {namespaces: [shop]}}]}]}}
";

/// Everything that a stream is given, as long as it is not what is expected.
async fn served_until(channel: &Channel, node: &Node, expected: &Resources) -> Resources {
    let (requests, outgoing) = mpsc::channel(16);
    for (at, (url, _)) in TYPES.iter().enumerate() {
        let request = DeltaDiscoveryRequest {
            node: (at == 0).then(|| node.clone()),
            type_url: (*url).to_string(),
            ..DeltaDiscoveryRequest::default()
        };
        requests.send(request).await.unwrap();
    }
    let mut client = AggregatedDiscoveryServiceClient::new(channel.clone());
    let mut responses =
        client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
    let mut served = Resources::new();
    while served != *expected {
        let next = tokio::time::timeout(std::time::Duration::from_secs(5), responses.message()).await;
        let Ok(response) = next else { return served };
        let response = response.unwrap().unwrap();
        let word = TYPES.iter().find(|(url, _)| *url == response.type_url).unwrap().1;
        for name in response.removed_resources {
            served.remove(&(word, name));
        }
        for resource in response.resources {
            let body = resource.resource.unwrap().value;
            served.insert((word, resource.name), to_json(&response.type_url, &body).unwrap());
        }
        let acknowledged = DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            ..DeltaDiscoveryRequest::default()
        };
        requests.send(acknowledged).await.unwrap();
    }
    served
}

/// What is previewed from the API's own objects and, where there is one, the ConfigMap of the mesh's configuration.
fn previewed(file: &Path, mesh: Option<&Path>, proxy: &str) -> Resources {
    let mut arguments =
        vec!["isthmus", "preview", "-f", file.to_str().unwrap(), "--proxy-cluster", "east", "--proxy", proxy];
    match mesh.map(|mesh| mesh.to_str().unwrap()) {
        Some(mesh) => arguments.extend(["--mesh-config", mesh, "--mesh-networks", mesh]),
        None => arguments.extend(["--meta", "DNS_CAPTURE=true"]),
    }
    let args = isthmus_cli::Args::parse_from(arguments);
    let shown = isthmus_cli::previewed(&args).unwrap();
    let mut found = Resources::new();
    for (_, word) in TYPES {
        for value in shown[word].as_array().unwrap() {
            let name = value["name"].as_str().or_else(|| value["cluster_name"].as_str());
            found.insert((word, name.unwrap_or("name-table").to_string()), value.clone());
        }
    }
    found
}

fn put_labels(node: &mut Node, labels: &[(&str, &str)]) {
    let text = |value: &str| WireValue { kind: Some(WireKind::StringValue(value.to_string())) };
    let fields = labels.iter().map(|(key, value)| ((*key).to_string(), text(value))).collect();
    let labels = WireValue { kind: Some(WireKind::StructValue(Struct { fields })) };
    node.metadata.as_mut().unwrap().fields.insert("LABELS".to_string(), labels);
}

async fn dumped(plane: &Plane) -> Value {
    let mut items = Vec::new();
    for kind in isthmus_kube::watch::MESH_KINDS {
        items.extend(plane.admin.list(kind, None, None).await.unwrap());
    }
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

#[tokio::test]
async fn what_is_previewed_from_the_apis_objects_is_what_is_served() {
    let (served, expected) = both(None).await;
    assert!(expected.contains_key(&("clusters", "inbound|8080||".to_string())), "{:?}", expected.keys());
    assert_same(&served, &expected);
}

/// Something of everything that is honoured.
const MESH: &str = "
trustDomainAliases: [old.example]
rootNamespace: mesh-config
outboundTrafficPolicy: {mode: REGISTRY_ONLY}
connectTimeout: 3s
tcpKeepalive: {time: 30s, interval: 5s, probes: 2}
localityLbSetting: {distribute: [{from: '*', to: {'eu/*': 100}}]}
enableAutoMtls: true
defaultServiceExportTo: [shop]
defaultVirtualServiceExportTo: ['.']
defaultDestinationRuleExportTo: ['.']
serviceSettings: [{settings: {clusterLocal: true}, hosts: [web.shop.svc.cluster.local]}]
discoverySelectors: [{matchExpressions: [{key: isolated, operator: DoesNotExist}]}]
accessLogFile: /dev/stdout
ingressClass: none
accessLogEncoding: JSON
defaultConfig: {proxyMetadata: {ISTIO_META_DNS_CAPTURE: 'true'}}
";
const NETWORKS: &str = "
networks:
  east: {endpoints: [{fromRegistry: east}], gateways: [{registryServiceName: cart.shop.svc.cluster.local, port: 7000}]}
  west: {endpoints: [{fromCidr: 192.0.2.48/28}], gateways: [{address: 203.0.113.1, port: 15443}]}
";

#[tokio::test]
async fn what_is_previewed_under_a_meshs_configuration_is_what_is_served_under_it() {
    let (served, expected) = both(Some((MESH, NETWORKS))).await;
    assert_same(&served, &expected);
    let text = |key: &str| expected[&("listeners", key.to_string())].to_string();
    assert!(text("virtualOutbound").contains("BlackHoleCluster"), "REGISTRY_ONLY");
    assert!(text("virtualInbound").contains("/dev/stdout"), "the access log");
    assert!(text("virtualInbound").contains("old.example"), "the other trust domain");
    let all = format!("{expected:?}");
    assert!(!all.contains("hidden.lab"), "a namespace that is not discovered");
    assert!(all.contains("203.0.113.1"), "the gateway of a network");
    assert!(all.contains("root-of-all"), "a rule of the root namespace");
    assert!(all.contains("240.240."), "agents capture DNS");
}

fn assert_same(served: &Resources, expected: &Resources) {
    let keys = |all: &Resources| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(served), keys(expected));
    for (key, value) in expected {
        assert_eq!(served[key], *value, "{key:?}");
    }
}

/// What is served and what is previewed.
async fn both(mesh: Option<(&str, &str)>) -> (Resources, Resources) {
    let plane = Plane::start().await;
    let config = mesh.map(|(mesh, networks)| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio", "namespace": "istio-system"},
            "data": {"mesh": mesh, "meshNetworks": networks},
        })
    });
    let labelled = |name: &str, labels: Value| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
    plane.create(Kind::Namespace, labelled("lab", json!({"isolated": "yes"}))).await;
    plane.create(Kind::Namespace, labelled("mesh-config", json!({}))).await;
    for object in isthmus_resources::parse::values(OBJECTS) {
        let object = object.unwrap();
        let kind = Kind::of(object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
        plane.create(kind.unwrap(), object).await;
    }
    // Long after the start: the change takes effect.
    if let Some(config) = &config {
        plane.create(Kind::ConfigMap, config.clone()).await;
    }
    let channel = plane.channel(&plane.site.ca.workload("east", "shop/web")).await;
    let labels = [("app", "web"), ("security.istio.io/tlsMode", "istio")];
    let capture = [("ISTHMUS_REGISTER", "pod"), ("DNS_CAPTURE", "true")];
    let said = if config.is_some() { &capture[..1] } else { &capture };
    let mut own = node("shop", "web", said);
    put_labels(&mut own, &labels);
    until("the mesh's configuration", || async {
        let status: Value =
            serde_json::from_str(&plane.admin.raw_get("/debug/isthmus/status").await.ok()?).unwrap();
        let read = status["configuration"][0]["notInForce"] == json!(["ingressClass"]);
        (config.is_none() || read).then_some(())
    })
    .await;
    // The workload's own stream makes its Pod.
    let registered = Stream::open(&channel, &own).await.unwrap();
    let dump = until("slices, addresses and the Pod", || async {
        let dump = dumped(&plane).await;
        let items = dump["items"].as_array().unwrap();
        let sliced = items.iter().any(|one| {
            one["kind"] == "EndpointSlice"
                && one["metadata"]["labels"]["kubernetes.io/service-name"] == "web"
                && one["endpoints"][0]["conditions"]["ready"] == true
        });
        let allocated = items
            .iter()
            .any(|one| one["kind"] == "ServiceEntry" && one["status"]["addresses"][0].is_object());
        (sliced && allocated).then_some(dump)
    })
    .await;
    let file = plane.site.file("dump.json");
    std::fs::write(&file, dump.to_string()).unwrap();
    let mesh = config.map(|config| {
        let file = plane.site.file("mesh.json");
        std::fs::write(&file, config.to_string()).unwrap();
        file
    });
    let expected = previewed(&file, mesh.as_deref(), "shop/web-1");
    let served = soon("the same view", served_until(&channel, &own, &expected)).await;
    drop(registered);
    plane.stop().await;
    (served, expected)
}
