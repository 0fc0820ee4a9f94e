//! The server against tonic's own client of the protocol, over loopback sockets.

use crate::support::{Event, Plane, view};
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::google::rpc;
use isthmus_proto::type_url::{CLUSTER, HEALTH, LISTENER};
use isthmus_xds::{Closed, HealthReport, Limits};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

fn node(id: &str) -> Option<Node> {
    Some(Node { id: id.into(), ..Node::default() })
}

async fn client(plane: &Plane) -> AggregatedDiscoveryServiceClient<tonic::transport::Channel> {
    AggregatedDiscoveryServiceClient::connect(format!("http://{}", plane.address)).await.unwrap()
}

async fn world(plane: &Plane) -> (mpsc::Sender<DiscoveryRequest>, Streaming<DiscoveryResponse>) {
    let (requests, outgoing) = mpsc::channel(8);
    let responses =
        client(plane).await.stream_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap();
    (requests, responses.into_inner())
}

async fn delta(plane: &Plane) -> (mpsc::Sender<DeltaDiscoveryRequest>, Streaming<DeltaDiscoveryResponse>) {
    let (requests, outgoing) = mpsc::channel(8);
    let responses =
        client(plane).await.delta_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap();
    (requests, responses.into_inner())
}

fn ask(url: &str) -> DiscoveryRequest {
    DiscoveryRequest { node: node("sidecar~a"), type_url: url.into(), ..Default::default() }
}

fn ask_delta(url: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { node: node("sidecar~a"), type_url: url.into(), ..Default::default() }
}

async fn refusal(mut responses: Streaming<DiscoveryResponse>) -> Status {
    responses.message().await.unwrap_err()
}

#[tokio::test]
async fn state_of_the_world_is_served_acknowledged_and_updated() {
    let mut plane = Plane::start(view(7, &[(CLUSTER, &[("a", "one")])])).await;
    let (requests, mut responses) = world(&plane).await;
    requests.send(ask(CLUSTER)).await.unwrap();
    let first = responses.message().await.unwrap().unwrap();
    assert_eq!((first.version_info.as_str(), first.type_url.as_str()), ("7", CLUSTER));
    assert_eq!(first.resources[0].type_url, CLUSTER);
    assert_eq!(first.resources[0].value, b"one");
    assert_eq!(plane.event().await, Event::Connected("sidecar~a".into()));

    let answer =
        DiscoveryRequest { response_nonce: first.nonce, version_info: first.version_info, ..ask(CLUSTER) };
    requests.send(answer).await.unwrap();
    plane.views.send_replace(view(8, &[(CLUSTER, &[("a", "two"), ("b", "one")])]));
    let second = responses.message().await.unwrap().unwrap();
    assert_eq!(second.resources.len(), 2);

    let error_detail = Some(rpc::Status { code: 13, message: "bad cluster".into(), details: vec![] });
    let answer = DiscoveryRequest { response_nonce: second.nonce, error_detail, ..ask(CLUSTER) };
    requests.send(answer).await.unwrap();
    assert_eq!(plane.event().await, Event::Refused("bad cluster".into()));
    let streams = plane.service.streams().snapshot();
    assert_eq!(streams[0].types[0].error.as_deref(), Some("bad cluster"));
    drop(requests);
    assert!(responses.message().await.unwrap().is_none());
    assert_eq!(plane.event().await, Event::Closed(Closed::Client));
    assert!(plane.service.streams().snapshot().is_empty());
}

#[tokio::test]
async fn delta_is_served_with_removals_and_on_demand_names() {
    let mut plane = Plane::start(view(1, &[(LISTENER, &[("a", "one"), ("b", "one")])])).await;
    let (requests, mut responses) = delta(&plane).await;
    let first = DeltaDiscoveryRequest {
        resource_names_subscribe: vec!["a".into(), "absent".into()],
        ..ask_delta(LISTENER)
    };
    requests.send(first).await.unwrap();
    let first = responses.message().await.unwrap().unwrap();
    assert_eq!(first.resources.len(), 1);
    assert_eq!(first.resources[0].name, "a");
    assert_eq!(first.removed_resources, ["absent"]);
    plane.views.send_replace(view(2, &[(LISTENER, &[("b", "two")])]));
    let second = responses.message().await.unwrap().unwrap();
    assert_eq!(second.removed_resources, ["a"]);
    drop((requests, responses));
    assert_eq!(plane.event().await, Event::Connected("sidecar~a".into()));
    assert!(matches!(plane.event().await, Event::Closed(_)));
}

#[tokio::test]
async fn health_counts_only_after_listeners_were_asked_for() {
    let mut plane = Plane::start(view(1, &[(LISTENER, &[])])).await;
    let (requests, mut responses) = delta(&plane).await;
    let bad = |message: &str| Some(rpc::Status { code: 13, message: message.into(), details: vec![] });
    let early = DeltaDiscoveryRequest { error_detail: bad("too early"), ..ask_delta(HEALTH) };
    requests.send(early).await.unwrap();
    requests.send(ask_delta(LISTENER)).await.unwrap();
    responses.message().await.unwrap().unwrap();
    requests
        .send(DeltaDiscoveryRequest { error_detail: bad("probe failed"), ..ask_delta(HEALTH) })
        .await
        .unwrap();
    requests.send(ask_delta(HEALTH)).await.unwrap();
    assert_eq!(plane.event().await, Event::Connected("sidecar~a".into()));
    assert_eq!(plane.event().await, Event::Health(HealthReport::Unhealthy("probe failed".into())));
    assert_eq!(plane.event().await, Event::Health(HealthReport::Healthy));
}

#[tokio::test]
async fn strangers_and_nameless_nodes_are_told_why() {
    let plane = Plane::start(view(1, &[])).await;
    let (requests, responses) = world(&plane).await;
    requests.send(DiscoveryRequest { node: None, ..ask(CLUSTER) }).await.unwrap();
    let status = refusal(responses).await;
    assert_eq!(
        (status.code(), status.message()),
        (Code::InvalidArgument, "the first request must carry node.id")
    );

    let (requests, responses) = world(&plane).await;
    requests.send(DiscoveryRequest { node: node("stranger"), ..ask(CLUSTER) }).await.unwrap();
    let status = refusal(responses).await;
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(status.message(), "namespace of the node is not the certificate's");
}

#[tokio::test]
async fn one_identity_cannot_take_all_streams() {
    let limits = Limits { streams_per_identity: 1, ..Limits::default() };
    let plane = Plane::start_with(view(1, &[(CLUSTER, &[])]), limits).await;
    let (requests, mut responses) = world(&plane).await;
    requests.send(ask(CLUSTER)).await.unwrap();
    responses.message().await.unwrap().unwrap();
    let (_more, second) = world(&plane).await;
    assert_eq!(refusal(second).await.code(), Code::ResourceExhausted);
    drop((requests, responses));
}

#[tokio::test]
async fn a_client_that_says_nothing_is_let_go() {
    let limits = Limits { first_request: std::time::Duration::from_millis(50), ..Limits::default() };
    let plane = Plane::start_with(view(1, &[]), limits).await;
    let (_requests, responses) = world(&plane).await;
    let status = refusal(responses).await;
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_request_above_the_limit_ends_its_stream_only() {
    let limits = Limits { request_bytes: 1000, ..Limits::default() };
    let plane = Plane::start_with(view(1, &[(CLUSTER, &[])]), limits).await;
    let (good, mut answers) = world(&plane).await;
    good.send(ask(CLUSTER)).await.unwrap();
    let (requests, responses) = world(&plane).await;
    requests.send(DiscoveryRequest { resource_names: vec!["x".repeat(2000)], ..ask(CLUSTER) }).await.unwrap();
    let status = refusal(responses).await;
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().ends_with("above the limit of 1000"), "{}", status.message());
    answers.message().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stopping_server_ends_its_streams_as_unavailable() {
    let mut plane = Plane::start(view(1, &[(CLUSTER, &[])])).await;
    let (requests, mut responses) = world(&plane).await;
    requests.send(ask(CLUSTER)).await.unwrap();
    responses.message().await.unwrap().unwrap();
    plane.tasks.drain().refuse();
    assert_eq!(refusal(responses).await.code(), Code::Unavailable);
    assert_eq!(plane.event().await, Event::Connected("sidecar~a".into()));
    assert!(matches!(plane.event().await, Event::Closed(Closed::Server(_))));
}

#[tokio::test]
async fn a_slow_client_gets_the_newest_state_and_not_the_history() {
    let big = "x".repeat(300_000);
    let plane = Plane::start(view(1, &[(CLUSTER, &[("a", &big)])])).await;
    let (requests, mut responses) = delta(&plane).await;
    requests.send(ask_delta(CLUSTER)).await.unwrap();
    responses.message().await.unwrap().unwrap();
    // Nothing is read while a hundred views pass; the client's window holds less than one of them.
    for version in 2..=100 {
        let body = format!("{version}{big}");
        plane.views.send_replace(view(version, &[(CLUSTER, &[("a", &body)])]));
        tokio::task::yield_now().await;
    }
    let mut seen = 0;
    loop {
        let response = responses.message().await.unwrap().unwrap();
        seen += 1;
        if response.resources[0].resource.as_ref().unwrap().value.starts_with(b"100x") {
            break;
        }
    }
    assert!(seen <= 20, "{seen} responses");
}
