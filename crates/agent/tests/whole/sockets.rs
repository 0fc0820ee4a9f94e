//! What an Envoy beside the agent is given, over the sockets that it uses.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{Secret, secret};
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use envoy_types::pb::google::rpc;
use hyper_util::rt::TokioIo;
use isthmus_agent::cache::Entry;
use isthmus_agent::mirror::Mirror;
use isthmus_agent::secrets::Secrets;
use isthmus_agent::sockets::Socket;
use isthmus_agent::{DataDir, ResourceCache, ads};
use isthmus_lifecycle::{Drain, TaskGroup};
use isthmus_proto::resource::Resource;
use isthmus_proto::type_url;
use isthmus_testkit::MeshCa;
use prost::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

const PATIENCE: Duration = Duration::from_secs(10);

struct Local {
    ca: MeshCa,
    identity: isthmus_tls::Identity,
    cache: ResourceCache,
    mirror: Mirror,
    secrets: Secrets,
    group: TaskGroup,
    data: tempfile::TempDir,
}

impl Local {
    fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let directory = DataDir::open(data.path()).unwrap();
        let ca = MeshCa::new();
        let identity = ca.workload("west", "default/reviews");
        let cache = ResourceCache::open(&directory, "reviews").unwrap();
        let (mirror, secrets) = (Mirror::new(cache.clone()), Secrets::new(identity.clone()));
        let group = TaskGroup::new("agent", Drain::new());
        ads::serve(Socket::bind(&directory, "xds", None).unwrap(), &mirror, &group);
        ads::serve_secrets(Socket::bind(&directory, "sds", None).unwrap(), &secrets, &group);
        group.spawn_infallible("secrets", secrets.clone().follow(group.signal()));
        Self { ca, identity, cache, mirror, secrets, group, data }
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.data.path().join("sockets").join(name)
    }

    fn stop(&self) {
        self.group.drain().immediate();
    }
}

async fn channel(socket: PathBuf) -> Channel {
    let dial = tower::service_fn(move |_: http::Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://local").connect_with_connector(dial).await.unwrap()
}

fn node() -> Option<Node> {
    Some(Node { id: "envoy".into(), ..Default::default() })
}

async fn next<T>(stream: &mut Streaming<T>) -> T {
    tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap().unwrap()
}

fn cluster(name: &str, version: &str) -> (Arc<str>, Bytes) {
    let cluster = Cluster { name: name.into(), alt_stat_name: version.into(), ..Default::default() };
    (name.into(), cluster.encode_to_vec().into())
}

/// As the control plane sends it, which the last-good cache remembers.
fn entry((name, body): (Arc<str>, Bytes)) -> Entry {
    let resource = Resource::new(name, body);
    Entry { name: resource.name, version: resource.version.into(), body: resource.body }
}

fn inline(source: Option<envoy_types::pb::envoy::config::core::v3::DataSource>) -> String {
    let Some(Specifier::InlineBytes(bytes)) = source.unwrap().specifier else { panic!("not inline") };
    String::from_utf8(bytes).unwrap()
}

/// Chain and key, or roots.
fn secret(response: &DiscoveryResponse) -> (String, String, String) {
    let secret = Secret::decode(&*response.resources[0].value).unwrap();
    match secret.r#type.unwrap() {
        secret::Type::TlsCertificate(pair) => {
            (secret.name, inline(pair.certificate_chain), inline(pair.private_key))
        }
        secret::Type::ValidationContext(context) => (secret.name, inline(context.trusted_ca), String::new()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn secrets_come_by_their_own_service_and_a_renewed_certificate_comes_by_itself() {
    let local = Local::start();
    let mut client = SecretDiscoveryServiceClient::new(channel(local.socket("sds")).await);
    // Envoy opens a stream for each secret.
    let ask = |name: &str| DiscoveryRequest {
        node: node(),
        resource_names: vec![name.into()],
        type_url: type_url::SECRET.into(),
        ..Default::default()
    };
    let (own, requests) = mpsc::channel(4);
    own.send(ask("default")).await.unwrap();
    let mut stream = client.stream_secrets(ReceiverStream::new(requests)).await.unwrap().into_inner();
    let first = next(&mut stream).await;
    let (name, chain, key) = secret(&first);
    assert_eq!(name, "default");
    let (leaf, _) = isthmus_tls::Material { key, chain, roots: local.ca.roots_pem().into() }.parse().unwrap();
    assert_eq!(leaf.certificate().serial, local.identity.leaf().unwrap().certificate().serial);

    let (roots, requests) = mpsc::channel(4);
    roots.send(ask("ROOTCA")).await.unwrap();
    let mut anchors = client.stream_secrets(ReceiverStream::new(requests)).await.unwrap().into_inner();
    assert_eq!(secret(&next(&mut anchors).await).1, local.ca.roots_pem());

    let ack =
        DiscoveryRequest { response_nonce: first.nonce, version_info: first.version_info, ..ask("default") };
    own.send(ack).await.unwrap();
    let renewed = local.ca.workload_material("west", "default/reviews");
    local.identity.update_material(&renewed).unwrap();
    let (_, chain, key) = secret(&next(&mut stream).await);
    assert!(renewed.chain.contains(chain.trim_end()) && !key.is_empty());
    local.stop();
}

#[tokio::test]
async fn both_dialects_get_the_newest_state_and_a_refusal_puts_the_last_good_back() {
    let local = Local::start();
    local.mirror.apply(type_url::CLUSTER, &[cluster("a", "1")], &[]);
    let mut client = AggregatedDiscoveryServiceClient::new(channel(local.socket("xds")).await);
    let (world, requests) = mpsc::channel(4);
    let ask = DiscoveryRequest { node: node(), type_url: type_url::CLUSTER.into(), ..Default::default() };
    world.send(ask.clone()).await.unwrap();
    let mut full =
        client.stream_aggregated_resources(ReceiverStream::new(requests)).await.unwrap().into_inner();
    let first = next(&mut full).await;
    assert_eq!(first.resources.len(), 1);
    let ack =
        DiscoveryRequest { response_nonce: first.nonce, version_info: first.version_info, ..ask.clone() };
    world.send(ack).await.unwrap();

    let (delta, requests) = mpsc::channel(4);
    let ask =
        DeltaDiscoveryRequest { node: node(), type_url: type_url::CLUSTER.into(), ..Default::default() };
    delta.send(ask.clone()).await.unwrap();
    let mut changes =
        client.delta_aggregated_resources(ReceiverStream::new(requests)).await.unwrap().into_inner();
    let first = next(&mut changes).await;
    delta.send(DeltaDiscoveryRequest { response_nonce: first.nonce, ..ask.clone() }).await.unwrap();

    local.mirror.apply(type_url::CLUSTER, &[cluster("a", "2"), cluster("b", "1")], &[]);
    assert_eq!(next(&mut full).await.resources.len(), 2);
    let change = next(&mut changes).await;
    assert_eq!(change.resources.len(), 2);
    let error =
        rpc::Status { message: "Error adding/updating cluster(s) a: no".into(), ..Default::default() };
    let refusal =
        DeltaDiscoveryRequest { response_nonce: change.nonce, error_detail: Some(error), ..ask.clone() };
    delta.send(refusal).await.unwrap();
    let change = next(&mut changes).await;
    assert_eq!(change.resources.len(), 1);
    let body = change.resources[0].resource.clone().unwrap().value;
    assert_eq!(Bytes::from(body), cluster("a", "1").1);
    // What it has not accepted yet is not remembered.
    assert_eq!(local.cache.entries(type_url::CLUSTER), [entry(cluster("a", "1"))]);
    delta.send(DeltaDiscoveryRequest { response_nonce: change.nonce, ..ask }).await.unwrap();
    // Requests are heard in their order.
    local.mirror.apply(type_url::LISTENER, &[], &[]);
    let other = DeltaDiscoveryRequest { type_url: type_url::LISTENER.into(), ..Default::default() };
    delta.send(other).await.unwrap();
    assert_eq!(next(&mut changes).await.type_url, type_url::LISTENER);
    assert_eq!(local.cache.entries(type_url::CLUSTER), [entry(cluster("a", "1")), entry(cluster("b", "1"))]);
    local.stop();
}

#[tokio::test]
async fn a_cluster_may_name_files_and_nothing_that_is_not_here() {
    use envoy_types::pb::envoy::config::core::v3::{TransportSocket, transport_socket::ConfigType};
    use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
    use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
        CommonTlsContext, SdsSecretConfig, UpstreamTlsContext,
    };
    let local = Local::start();
    let with_roots = |name: &str| {
        let roots = SdsSecretConfig { name: name.into(), ..Default::default() };
        let common = CommonTlsContext {
            validation_context_type: Some(ValidationContextType::ValidationContextSdsSecretConfig(roots)),
            ..Default::default()
        };
        let context = UpstreamTlsContext { common_tls_context: Some(common), ..Default::default() };
        let any = envoy_types::util::pack_any(context);
        let socket =
            TransportSocket { config_type: Some(ConfigType::TypedConfig(any)), ..Default::default() };
        Cluster { transport_socket: Some(socket), ..Default::default() }
    };
    let file = local.data.path().join("roots.pem");
    std::fs::write(&file, local.ca.roots_pem()).unwrap();
    let name = format!("file-root:{}", file.display());
    let provide = async |name: &str| {
        let cluster = with_roots(name);
        local.secrets.fetch([&cluster.encode_to_vec().into()]).await;
        local.secrets.provide(&cluster)
    };
    assert_eq!(provide("default").await, Ok(()));
    assert_eq!(provide(&name).await, Ok(()));
    let view = Arc::clone(&local.secrets.views().borrow());
    assert!(view.set(type_url::SECRET).unwrap().get(&name).is_some());
    let missing = provide("file-root:/no/such").await.unwrap_err();
    assert!(missing.contains("/no/such: No such file"), "{missing}");
    let endless = provide("file-root:/dev/zero").await.unwrap_err();
    assert!(endless.contains("/dev/zero: it is no regular file"), "{endless}");
    assert!(provide("kubernetes://x").await.unwrap_err().contains("not held here"));
    local.stop();
}

#[tokio::test]
async fn the_sockets_are_their_owners_alone() {
    let local = Local::start();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for name in ["xds", "sds"] {
        assert_eq!(mode(&local.socket(name)), 0o600);
    }
    assert_eq!(mode(&local.data.path().join("sockets")), 0o700);
    local.stop();
}

#[tokio::test]
async fn a_client_that_does_not_keep_to_http2_is_let_go() {
    let local = Local::start();
    let mut stream = UnixStream::connect(local.socket("xds")).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    // A frame of 16 MiB.
    stream.write_all(&[0xff; 9]).await.unwrap();
    let mut said = Vec::new();
    // An error will do: it was not heard to its end.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await.unwrap();
    local.stop();
}
