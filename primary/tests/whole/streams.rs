//! xDS by certificate: what a member gets, who is refused, what a stream's life does.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use envoy_types::pb::google::protobuf::value::Kind as Text;
use envoy_types::pb::google::protobuf::{Struct, Value};
use envoy_types::pb::google::rpc;
use isthmus_proto::type_url::{CLUSTER, HEALTH, LISTENER};
use isthmus_resources::Kind;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::plane::{Plane, soon, until};

/// A delta stream that acknowledges everything and remembers names.
pub(crate) struct Stream {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    /// Names by type.
    pub(crate) names: BTreeMap<String, Vec<String>>,
}

impl Stream {
    /// Opens a stream and waits for the first clusters; tries again, as agents do, while the control plane still reads its configuration.
    pub(crate) async fn open(channel: &Channel, node: &Node) -> Result<Self, Status> {
        Self::open_with(channel, node, None).await
    }

    /// The same with a bearer token.
    pub(crate) async fn open_with(
        channel: &Channel,
        node: &Node,
        bearer: Option<&str>,
    ) -> Result<Self, Status> {
        until("the control plane's first snapshot", || async {
            match Self::attempt(channel, node, bearer).await {
                Err(status) if status.code() == Code::Unavailable => None,
                outcome => Some(outcome),
            }
        })
        .await
    }

    /// Once.
    pub(crate) async fn attempt(
        channel: &Channel,
        node: &Node,
        bearer: Option<&str>,
    ) -> Result<Self, Status> {
        let (requests, outgoing) = mpsc::channel(8);
        let first = DeltaDiscoveryRequest {
            node: Some(node.clone()),
            type_url: CLUSTER.to_string(),
            ..DeltaDiscoveryRequest::default()
        };
        requests.send(first).await.unwrap();
        let mut client = AggregatedDiscoveryServiceClient::new(channel.clone());
        let mut request = tonic::Request::new(ReceiverStream::new(outgoing));
        if let Some(bearer) = bearer {
            request.metadata_mut().insert("authorization", format!("Bearer {bearer}").parse().unwrap());
        }
        let responses = client.delta_aggregated_resources(request).await?.into_inner();
        let mut stream = Self { requests, responses, names: BTreeMap::new() };
        stream.next().await?;
        Ok(stream)
    }

    pub(crate) async fn ask(&self, type_url: &str, error: Option<&str>) {
        let error_detail =
            error.map(|message| rpc::Status { code: 13, message: message.to_string(), details: Vec::new() });
        let request =
            DeltaDiscoveryRequest { type_url: type_url.to_string(), error_detail, ..Default::default() };
        self.requests.send(request).await.unwrap();
    }

    async fn next(&mut self) -> Result<(), Status> {
        let response = soon(&format!("a response after {:?}", self.names), self.responses.message()).await?;
        let response = response.ok_or_else(|| Status::aborted("the stream ended"))?;
        let acknowledged = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce,
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(acknowledged).await.unwrap();
        let names = self.names.entry(response.type_url).or_default();
        names.retain(|name| !response.removed_resources.contains(name));
        names.extend(response.resources.into_iter().map(|resource| resource.name));
        Ok(())
    }

    /// Reads on until a resource has such a name.
    pub(crate) async fn name(&mut self, type_url: &str, wanted: impl Fn(&str) -> bool) -> String {
        loop {
            let found = self.names.get(type_url).and_then(|names| names.iter().find(|name| wanted(name)));
            if let Some(name) = found {
                return name.clone();
            }
            self.next().await.unwrap();
        }
    }
}

/// A sidecar's node.
pub(crate) fn node(namespace: &str, account: &str, more: &[(&str, &str)]) -> Node {
    let text = |value: &str| Value { kind: Some(Text::StringValue(value.to_string())) };
    let named = [
        ("NAMESPACE", namespace),
        ("SERVICE_ACCOUNT", account),
        ("NAME", "web-1"),
        ("INSTANCE_IPS", "192.0.2.7"),
    ];
    let fields = named.iter().chain(more).map(|(key, value)| ((*key).to_string(), text(value))).collect();
    Node {
        id: format!("sidecar~192.0.2.7~web-1.{namespace}~{namespace}.svc.cluster.local"),
        metadata: Some(Struct { fields }),
        ..Node::default()
    }
}

async fn refusal(channel: &Channel, node: &Node) -> Status {
    Stream::open(channel, node).await.map(|_| ()).unwrap_err()
}

#[tokio::test]
async fn a_member_gets_the_clusters_and_listeners_of_the_mesh_and_of_what_is_added() {
    let plane = Plane::start().await;
    let channel = plane.channel(&plane.site.ca.workload("east", "shop/web")).await;
    let mut stream = Stream::open(&channel, &node("shop", "web", &[])).await.unwrap();
    stream.ask(LISTENER, None).await;
    stream.name(LISTENER, |name| name == "virtualOutbound").await;
    stream.name(LISTENER, |name| name == "virtualInbound").await;
    stream.name(CLUSTER, |name| name == "PassthroughCluster").await;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "db", "namespace": "shop"},
        "spec": {"selector": {"app": "db"}, "ports": [{"name": "tcp", "port": 3306}]},
    });
    let made = plane.create(Kind::Service, service).await;
    stream.name(CLUSTER, |name| name == "outbound|3306||db.shop.svc.cluster.local").await;
    let listener = format!("{}_3306", made["spec"]["clusterIP"].as_str().unwrap());
    stream.name(LISTENER, |name| name == listener).await;
    plane.stop().await;
}

#[tokio::test]
async fn a_stream_that_is_not_its_certificates_is_refused() {
    let plane = Plane::start().await;
    let web = plane.channel(&plane.site.ca.workload("east", "shop/web")).await;
    for (other, said) in [(node("bank", "web", &[]), "bank"), (node("shop", "db", &[]), "shop/db")] {
        let refused = refusal(&web, &other).await;
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        assert!(refused.message().contains(said), "{refused}");
    }
    let own = node("shop", "web", &[]);
    let elsewhere = refusal(&web, &node("shop", "web", &[("CLUSTER_ID", "west")])).await;
    assert_eq!(elsewhere.code(), Code::PermissionDenied, "{elsewhere}");
    let stranger = refusal(&plane.stranger().await, &own).await;
    assert_eq!(stranger.code(), Code::Unauthenticated, "{stranger}");
    // None of this harms who is honest.
    Stream::open(&web, &own).await.unwrap();
    plane.stop().await;
}

#[tokio::test]
async fn a_stream_that_registers_is_a_pod_that_is_ready_when_it_says_so() {
    let plane = Plane::start().await;
    let channel = plane.channel(&plane.site.ca.workload("east", "shop/web")).await;
    let asks = [("ISTHMUS_REGISTER", "pod"), ("HEALTH_CHECKED", "true")];
    let mut stream = Stream::open(&channel, &node("shop", "web", &asks)).await.unwrap();
    stream.ask(LISTENER, None).await;
    stream.name(LISTENER, |name| name == "virtualInbound").await;
    let pod = plane.get(Kind::Pod, "web-1").await.unwrap();
    assert_eq!(pod["spec"]["serviceAccountName"], "web");
    assert_eq!(pod["status"]["podIP"], "192.0.2.7");
    assert_eq!(ready(&pod), "False");
    for (error, wanted) in [(None, "True"), (Some("connection refused"), "False"), (None, "True")] {
        stream.ask(HEALTH, error).await;
        until("the Pod's condition", || async {
            let pod = plane.get(Kind::Pod, "web-1").await.unwrap();
            (ready(&pod) == wanted).then_some(())
        })
        .await;
    }
    plane.stop().await;
}

fn ready(pod: &serde_json::Value) -> String {
    let conditions = pod["status"]["conditions"].as_array().unwrap();
    let ready = conditions.iter().find(|condition| condition["type"] == "Ready").unwrap();
    ready["status"].as_str().unwrap().to_string()
}
