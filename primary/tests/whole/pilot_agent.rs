//! Istio's own agent on a machine, as it speaks with us: a certificate by token, then one stream that carries what its Envoy asks for and,
//! from the first request for listeners on, what the agent asks for itself. What is sent here, and in which order, is what
//! `pilot-agent proxy sidecar` sends with auto-registration, DNS capture and a readiness probe.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::grpc_service::TargetSpecifier;
use envoy_types::pb::envoy::config::core::v3::transport_socket::ConfigType;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{DownstreamTlsContext, SdsSecretConfig};
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::google::protobuf::value::Kind as Json;
use envoy_types::pb::google::protobuf::{Any, ListValue, Struct, Value};
use envoy_types::pb::google::rpc;
use isthmus_ca::KeyAndCsr;
use isthmus_proto::istio_ca::IstioCertificateRequest;
use isthmus_proto::istio_ca::istio_certificate_service_client::IstioCertificateServiceClient;
use isthmus_proto::nds::NameTable;
use isthmus_proto::type_url::{CLUSTER, ENDPOINTS, HEALTH, LISTENER, NAME_TABLE};
use isthmus_resources::Kind;
use isthmus_testkit::MeshCa;
use isthmus_tls::{Identity, Material};
use prost::Message;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::plane::{Plane, Site, channel_to, soon, until};

/// What the agent asks for beside names: a trust bundle that Istio sends to meshes with several roots only.
const PROXY_CONFIG: &str = "type.googleapis.com/istio.mesh.v1alpha1.ProxyConfig";
/// The cluster under which the machine's Service is reached.
const DB: &str = "outbound|3306||db.shop.svc.cluster.local";
/// The name that the agent verifies, whatever the control plane calls itself.
const ISTIOD: &str = "istiod.istio-system.svc";

fn text(value: &str) -> Value {
    Value { kind: Some(Json::StringValue(value.to_string())) }
}

fn number(value: u16) -> Value {
    Value { kind: Some(Json::NumberValue(value.into())) }
}

fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let fields = fields.into_iter().map(|(key, value)| (key.to_string(), value)).collect();
    Value { kind: Some(Json::StructValue(Struct { fields })) }
}

/// The node that the agent writes into Envoy's bootstrap.
fn node() -> Node {
    let labels = || {
        object([
            ("app", text("db")),
            ("service.istio.io/canonical-name", text("db")),
            ("service.istio.io/canonical-revision", text("latest")),
        ])
    };
    let names = Value { kind: Some(Json::ListValue(ListValue { values: vec![text(ISTIOD)] })) };
    let probe = object([("httpGet", object([("port", number(8111))])), ("periodSeconds", number(1))]);
    let config = object([
        ("configPath", text("./etc/istio/proxy")),
        ("controlPlaneAuthPolicy", text("MUTUAL_TLS")),
        ("discoveryAddress", text("istiod.istio-system.svc:15012")),
        ("drainDuration", text("45s")),
        ("proxyAdminPort", number(15000)),
        ("readinessProbe", probe),
        ("serviceCluster", text("istio-proxy")),
        ("statusPort", number(15020)),
        ("tracing", object([])),
    ]);
    let metadata = object([
        ("AUTO_REGISTER_GROUP", text("db")),
        ("CLUSTER_ID", text("east")),
        ("DNS_CAPTURE", text("true")),
        ("ENVOY_PROMETHEUS_PORT", number(15090)),
        ("ENVOY_STATUS_PORT", number(15021)),
        ("INSTANCE_IPS", text("192.0.2.7,2001:db8::7")),
        ("ISTIO_VERSION", text("1.31.0")),
        ("LABELS", labels()),
        ("MESH_ID", text("mesh1")),
        ("METADATA_DISCOVERY", text("false")),
        ("NAME", text("vm1")),
        ("NAMESPACE", text("shop")),
        ("NETWORK", text("east")),
        ("PILOT_SAN", names),
        ("POD_PORTS", text(r#"[{"name":"tcp","containerPort":3306,"protocol":""}]"#)),
        ("PROXY_CONFIG", config),
        ("SERVICE_ACCOUNT", text("db")),
        ("STATIC_LABELS", labels()),
        ("WORKLOAD_IDENTITY_SOCKET_FILE", text("socket")),
        ("WORKLOAD_NAME", text("db")),
        ("app", text("db")),
    ]);
    let Some(Json::StructValue(metadata)) = metadata.kind else { panic!("it is an object") };
    Node {
        id: "sidecar~192.0.2.7~vm1.shop~shop.svc.cluster.local".to_string(),
        cluster: "db.shop".to_string(),
        metadata: Some(metadata),
        ..Node::default()
    }
}

/// With a group, a Service that selects its entries, and a short grace.
async fn plane() -> Plane {
    let site = Site::new(&std::sync::Arc::new(MeshCa::new()), "east");
    let plane = Plane::over(site, &["--registration-grace", "200ms"]).await;
    plane.admin.ensure_namespace("shop").await.unwrap();
    plane.admin.ensure_service_account("shop", "db").await.unwrap();
    let group = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "WorkloadGroup",
        "metadata": {"name": "db", "namespace": "shop"},
        "spec": {
            "metadata": {"labels": {"app": "db", "tier": "data"}},
            "template": {"serviceAccount": "db", "network": "east", "ports": {"tcp": 3306}},
            "probe": {"periodSeconds": 1, "httpGet": {"port": 8111}},
        },
    });
    plane.create(Kind::WorkloadGroup, group).await;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "db", "namespace": "shop"},
        "spec": {"selector": {"app": "db"}, "ports": [{"name": "tcp", "port": 3306}]},
    });
    plane.create(Kind::Service, service).await;
    plane
}

/// The file `istio-token`.
async fn token(plane: &Plane) -> String {
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"audiences": ["istio-ca"], "expirationSeconds": 3600},
    });
    let made = plane.admin.post_to(Kind::ServiceAccount, Some("shop"), "db", "token", body).await.unwrap();
    made["status"]["token"].as_str().unwrap().to_string()
}

/// A connection as the agent makes it: it knows the root and one name.
async fn connect(plane: &Plane, certificate: Option<&Identity>) -> Channel {
    let nobody = Identity::trusting(plane.site.ca.trust());
    channel_to(plane.grpc, ISTIOD.to_string(), certificate.unwrap_or(&nobody)).await
}

/// What every call carries: the token file is read for each, whether or not there is a certificate.
fn call<T>(body: T, bearer: &str) -> tonic::Request<T> {
    let mut request = tonic::Request::new(body);
    request.metadata_mut().insert("authorization", format!("Bearer {bearer}").parse().unwrap());
    request.metadata_mut().insert("clusterid", "east".parse().unwrap());
    request
}

async fn certificate(plane: &Plane, by: Option<&Identity>, bearer: &str) -> Result<Identity, Status> {
    let key = KeyAndCsr::generate();
    let body = IstioCertificateRequest {
        csr: key.csr_pem.clone(),
        validity_duration: 24 * 3600,
        ..IstioCertificateRequest::default()
    };
    let mut service = IstioCertificateServiceClient::new(connect(plane, by).await);
    let chain = service.create_certificate(call(body, bearer)).await?.into_inner().cert_chain;
    assert!(chain.len() > 1, "the agent takes a chain of one for none");
    assert_eq!(chain.last().unwrap().trim(), plane.site.ca.roots_pem().trim(), "the root comes last");
    let material = Material::from_response(key.key_pem, &chain).unwrap();
    Ok(Identity::from_material(&material).unwrap())
}

fn unhealthy() -> Option<rpc::Status> {
    let message = r#"Get "http://192.0.2.7:8111/": dial tcp 192.0.2.7:8111: connect: connection refused"#;
    Some(rpc::Status { code: 13, message: message.to_string(), details: Vec::new() })
}

/// A delta stream that acknowledges as Envoy does, in the order in which responses come.
struct Delta {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    heard: Vec<DeltaDiscoveryResponse>,
}

impl Delta {
    /// Opens with the node and the clusters, as Envoy does; again while the control plane is not ready.
    async fn open(channel: &Channel, bearer: &str) -> (Self, DeltaDiscoveryResponse) {
        until("the first clusters", || async {
            let (requests, outgoing) = mpsc::channel(16);
            let mut client = AggregatedDiscoveryServiceClient::new(channel.clone());
            let first = DeltaDiscoveryRequest {
                node: Some(node()),
                type_url: CLUSTER.to_string(),
                ..DeltaDiscoveryRequest::default()
            };
            requests.send(first).await.unwrap();
            let answer = client.delta_aggregated_resources(call(ReceiverStream::new(outgoing), bearer)).await;
            let mut stream = Self { requests, responses: answer.unwrap().into_inner(), heard: Vec::new() };
            match stream.responses.message().await {
                Ok(Some(clusters)) => {
                    assert_eq!(clusters.type_url, CLUSTER);
                    stream.acknowledge(&clusters).await;
                    Some((stream, clusters))
                }
                Err(status) if status.code() == Code::Unavailable => None,
                other => panic!("{other:?}"),
            }
        })
        .await
    }

    async fn say(&self, type_url: &str, names: Vec<String>, error: Option<rpc::Status>) {
        let request = DeltaDiscoveryRequest {
            type_url: type_url.to_string(),
            resource_names_subscribe: names,
            error_detail: error,
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(request).await.unwrap();
    }

    async fn acknowledge(&self, response: &DeltaDiscoveryResponse) {
        let request = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(request).await.unwrap();
    }

    async fn hear(&mut self, type_url: &str) -> DeltaDiscoveryResponse {
        loop {
            if let Some(at) = self.heard.iter().position(|response| response.type_url == type_url) {
                return self.heard.remove(at);
            }
            let response = soon(type_url, self.responses.message()).await.unwrap().unwrap();
            // The agent passes nothing on, and answers nothing, where its own types come empty.
            let own = response.type_url == NAME_TABLE || response.type_url == PROXY_CONFIG;
            if !(own && response.resources.is_empty()) {
                self.acknowledge(&response).await;
            }
            self.heard.push(response);
        }
    }
}

fn decode<T: Message + Default>(any: &Any) -> T {
    T::decode(&*any.value).unwrap()
}

fn all<T: Message + Default>(response: &DeltaDiscoveryResponse) -> HashMap<String, T> {
    let one = |resource: &envoy_types::pb::envoy::service::discovery::v3::Resource| {
        (resource.name.clone(), decode(resource.resource.as_ref().unwrap()))
    };
    response.resources.iter().map(one).collect()
}

fn endpoints(assignment: &ClusterLoadAssignment) -> usize {
    assignment.endpoints.iter().map(|group| group.lb_endpoints.len()).sum()
}

fn eds_names<'a>(clusters: impl IntoIterator<Item = &'a Cluster>) -> Vec<String> {
    let eds = clusters.into_iter().filter(|cluster| cluster.eds_cluster_config.is_some());
    eds.map(|cluster| cluster.name.clone()).collect()
}

/// The secret that a configuration names, and the cluster that it is to be had from.
fn secret(config: &SdsSecretConfig) -> (String, String) {
    let source = config.sds_config.as_ref().and_then(|source| source.config_source_specifier.as_ref());
    let Some(ConfigSourceSpecifier::ApiConfigSource(api)) = source else { panic!("{config:?}") };
    let Some(TargetSpecifier::EnvoyGrpc(grpc)) = &api.grpc_services[0].target_specifier else {
        panic!("{config:?}")
    };
    (config.name.clone(), grpc.cluster_name.clone())
}

/// Both secrets of the inbound listener are those of the agent's socket, which its bootstrap calls `sds-grpc`.
fn check_secrets(inbound: &Listener) {
    let chains = inbound.filter_chains.iter().filter_map(|chain| chain.transport_socket.as_ref());
    let mut checked = 0;
    for socket in chains {
        let Some(ConfigType::TypedConfig(any)) = &socket.config_type else { continue };
        let common = decode::<DownstreamTlsContext>(any).common_tls_context.unwrap();
        let own = secret(&common.tls_certificate_sds_secret_configs[0]);
        assert_eq!(own, ("default".to_string(), "sds-grpc".to_string()));
        let Some(ValidationContextType::CombinedValidationContext(combined)) = common.validation_context_type
        else {
            panic!("peers are verified")
        };
        let root = secret(&combined.validation_context_sds_secret_config.unwrap());
        assert_eq!(root, ("ROOTCA".to_string(), "sds-grpc".to_string()));
        checked += 1;
    }
    assert!(checked > 0, "{inbound:?}");
}

#[tokio::test]
async fn an_agent_of_istio_gets_certificate_configuration_and_names_and_becomes_an_entry() {
    let plane = plane().await;
    let bearer = token(&plane).await;
    let refused = certificate(&plane, None, "nonsense").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    let identity = certificate(&plane, None, &bearer).await.unwrap();
    assert_eq!(identity.spiffe().unwrap().to_string(), "spiffe://cluster.local/ns/shop/sa/db");

    let channel = connect(&plane, Some(&identity)).await;
    let (mut stream, clusters) = Delta::open(&channel, &bearer).await;
    let entry = plane.get(Kind::WorkloadEntry, "db-192.0.2.7-east").await.unwrap();
    let annotations = &entry["metadata"]["annotations"];
    assert_eq!(annotations["istio.io/autoRegistrationGroup"], "db");
    assert_eq!(annotations["proxy.istio.io/health-checks-enabled"], "true", "its ProxyConfig has a probe");
    assert_eq!(entry["spec"]["address"], "192.0.2.7");
    assert_eq!(entry["spec"]["labels"]["tier"], "data");
    assert_eq!(entry["spec"]["labels"]["service.istio.io/canonical-name"], "db");

    // Envoy: endpoints of the clusters, then listeners, with which the agent begins to ask for itself.
    let names = eds_names(all::<Cluster>(&clusters).values());
    assert!(names.iter().any(|name| name == DB), "{names:?}");
    stream.say(ENDPOINTS, names, None).await;
    let first = all::<ClusterLoadAssignment>(&stream.hear(ENDPOINTS).await);
    assert_eq!(endpoints(&first[DB]), 0, "nobody said that it is healthy");
    stream.say(LISTENER, Vec::new(), None).await;
    stream.say(NAME_TABLE, Vec::new(), None).await;
    stream.say(PROXY_CONFIG, Vec::new(), None).await;
    stream.say(HEALTH, Vec::new(), unhealthy()).await;
    let listeners = all::<Listener>(&stream.hear(LISTENER).await);
    assert!(listeners.contains_key("virtualOutbound"), "{:?}", listeners.keys());
    check_secrets(&listeners["virtualInbound"]);
    let table = stream.hear(NAME_TABLE).await;
    assert_eq!(table.resources.len(), 1, "the agent reads the first resource alone");
    let table: NameTable = decode(table.resources[0].resource.as_ref().unwrap());
    let address = plane.get(Kind::Service, "db").await.unwrap()["spec"]["clusterIP"].clone();
    assert_eq!(json!(table.table["db.shop.svc.cluster.local"].ips), json!([address]));

    // Its health decides whether it is an endpoint.
    until("the failed probe", || async { healthy(&plane, "False").await }).await;
    stream.say(HEALTH, Vec::new(), None).await;
    until("the probe that succeeds", || async { healthy(&plane, "True").await }).await;
    let next = all::<ClusterLoadAssignment>(&stream.hear(ENDPOINTS).await);
    assert_eq!(endpoints(&next[DB]), 1);
    stream.say(HEALTH, Vec::new(), unhealthy()).await;
    let next = all::<ClusterLoadAssignment>(&stream.hear(ENDPOINTS).await);
    assert_eq!(endpoints(&next[DB]), 0);

    // Its certificate renews itself, when the token has long expired.
    let renewed = certificate(&plane, Some(&identity), "expired").await.unwrap();
    assert_eq!(renewed.spiffe(), identity.spiffe());
    drop(stream);
    drop(channel);
    until("the entry to go", || async {
        plane.get(Kind::WorkloadEntry, "db-192.0.2.7-east").await.is_none().then_some(())
    })
    .await;
    plane.stop().await;
}

async fn healthy(plane: &Plane, wanted: &str) -> Option<()> {
    let entry = plane.get(Kind::WorkloadEntry, "db-192.0.2.7-east").await?;
    let condition = entry.pointer("/status/conditions/0")?.clone();
    (condition["type"] == "Healthy" && condition["status"] == wanted).then_some(())
}

/// A request of the state of the world, with the node on the first.
fn world(type_url: &str, names: Vec<String>, answers: Option<&DiscoveryResponse>) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: type_url.to_string(),
        resource_names: names,
        version_info: answers.map(|response| response.version_info.clone()).unwrap_or_default(),
        response_nonce: answers.map(|response| response.nonce.clone()).unwrap_or_default(),
        ..DiscoveryRequest::default()
    }
}

#[tokio::test]
async fn the_same_agent_is_served_by_its_token_alone_and_in_state_of_the_world() {
    let plane = plane().await;
    let bearer = token(&plane).await;
    let channel = connect(&plane, None).await;
    let open = async || {
        let (requests, outgoing) = mpsc::channel(16);
        let first = DiscoveryRequest { node: Some(node()), ..world(CLUSTER, Vec::new(), None) };
        requests.send(first).await.unwrap();
        let mut client = AggregatedDiscoveryServiceClient::new(channel.clone());
        let answer = client.stream_aggregated_resources(call(ReceiverStream::new(outgoing), &bearer)).await;
        let mut responses = answer.unwrap().into_inner();
        match responses.message().await {
            Ok(Some(clusters)) => Some((requests, responses, clusters)),
            Err(status) if status.code() == Code::Unavailable => None,
            other => panic!("{other:?}"),
        }
    };
    let (requests, mut responses, clusters) = until("the first clusters", open).await;
    let names = eds_names(&clusters.resources.iter().map(decode).collect::<Vec<Cluster>>());
    requests.send(world(CLUSTER, Vec::new(), Some(&clusters))).await.unwrap();
    requests.send(world(ENDPOINTS, names.clone(), None)).await.unwrap();
    requests.send(world(LISTENER, Vec::new(), None)).await.unwrap();
    requests.send(world(NAME_TABLE, Vec::new(), None)).await.unwrap();
    requests.send(world(PROXY_CONFIG, Vec::new(), None)).await.unwrap();
    requests.send(world(HEALTH, Vec::new(), None)).await.unwrap();
    // istioctl's question on somebody else's stream; whatever it is answered, the stream goes on.
    requests.send(world("istio.io/debug", vec!["syncz".to_string()], None)).await.unwrap();
    let mut listeners = 0;
    let (mut found, mut known) = (false, false);
    while !(found && known && listeners > 0) {
        let response = soon("a response", responses.message()).await.unwrap().unwrap();
        let names = if response.type_url == ENDPOINTS { names.clone() } else { Vec::new() };
        requests.send(world(&response.type_url, names, Some(&response))).await.unwrap();
        match response.type_url.as_str() {
            LISTENER => listeners = response.resources.len(),
            NAME_TABLE => {
                known = decode::<NameTable>(&response.resources[0])
                    .table
                    .contains_key("db.shop.svc.cluster.local")
            }
            ENDPOINTS => {
                let all = response.resources.iter().map(decode::<ClusterLoadAssignment>);
                found = all.filter(|one| one.cluster_name == DB).any(|one| endpoints(&one) == 1);
            }
            _ => {}
        }
    }
    plane.stop().await;
}
