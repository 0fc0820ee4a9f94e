//! gRPC clients beside this workload that need no proxy: their libraries speak xDS themselves (`xds:///HOST:PORT`).
//!
//! A Unix socket takes their streams and passes each on to the control plane on a connection of its own, under this workload's
//! identity and name (Istio's agent does the same for its `grpc-agent`). A bootstrap file tells the libraries where the socket
//! and the workload's certificates are. When the control plane is away the stream ends as unavailable: the libraries keep what
//! they had and come back.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::google::protobuf::Value;
use envoy_types::pb::google::protobuf::value::Kind;
use futures::{Stream, StreamExt as _};
use isthmus_lifecycle::TaskGroup;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Response, Status, Streaming};

use crate::connect::Connector;
use crate::data::{DataDir, DataError};
use crate::sockets::{Socket, absolute};

/// Streams at one time; each has a connection of its own to the control plane.
const MAX_STREAMS: usize = 64;
/// The file that gRPC libraries read.
pub(crate) const BOOTSTRAP: &str = "grpc-bootstrap.json";
/// What the agent's own stream does, and a client's must not do again.
const OWN: [&str; 4] = ["ISTHMUS_REGISTER", "AUTO_REGISTER_GROUP", "HEALTH_CHECKED", "ISTHMUS_ON_DEMAND"];

/// Where `GRPC_XDS_BOOTSTRAP` must point for clients beside an agent with this data directory, if the file is there: see [`serve`].
#[must_use]
pub fn bootstrap_file(data_dir: &Path) -> PathBuf {
    absolute(data_dir).join(BOOTSTRAP)
}

/// Listens on `DATA/sockets/grpc` (0600) until the group stops, and writes the bootstrap.
///
/// # Errors
/// When a file or the socket cannot be made (a data directory with a long name: a socket's may have 107 bytes). There is no
/// bootstrap then, not even an earlier run's.
pub fn serve(data: &DataDir, node: Node, connector: &Connector, group: &TaskGroup) -> Result<(), DataError> {
    let path = data.file(BOOTSTRAP);
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            return Err(DataError::Io { path, source });
        }
        _ => {}
    }
    let node = client_node(node);
    let socket = Socket::bind(data, "grpc", None)?;
    data.write(BOOTSTRAP, bootstrap(&node, socket.path(), &data.identity()).as_bytes())?;
    let relay = Relay { node, connector: connector.clone(), slots: Arc::new(Semaphore::new(MAX_STREAMS)) };
    socket.serve("gRPC clients", AggregatedDiscoveryServiceServer::new(relay), group);
    Ok(())
}

/// The workload's node as a gRPC client's.
fn client_node(mut node: Node) -> Node {
    let fields = &mut node.metadata.get_or_insert_default().fields;
    for key in OWN {
        fields.remove(key);
    }
    fields.insert("GENERATOR".to_string(), Value { kind: Some(Kind::StringValue("grpc".to_string())) });
    node
}

/// gRFC A27 and A29: the server, the node, the files with certificates.
fn bootstrap(node: &Node, socket: &Path, identity: &Path) -> String {
    let file = |name: &str| absolute(&identity.join(name));
    let locality = node.locality.clone().unwrap_or_default();
    let bootstrap = serde_json::json!({
        "xds_servers": [{
            "server_uri": format!("unix://{}", socket.display()),
            "channel_creds": [{"type": "insecure"}],
            "server_features": ["xds_v3"],
        }],
        "node": {
            "id": node.id,
            "cluster": node.cluster,
            "locality": {"region": locality.region, "zone": locality.zone, "sub_zone": locality.sub_zone},
            "metadata": {"GENERATOR": "grpc"},
        },
        "certificate_providers": {
            "default": {
                "plugin_name": "file_watcher",
                "config": {
                    "certificate_file": file("cert-chain.pem"),
                    "private_key_file": file("key.pem"),
                    "ca_certificate_file": file("root-cert.pem"),
                    "refresh_interval": "60s",
                },
            },
        },
    });
    format!("{bootstrap:#}\n")
}

/// Passes streams on.
struct Relay {
    node: Node,
    connector: Connector,
    slots: Arc<Semaphore>,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Relay {
    async fn upstream(
        &self,
    ) -> Result<(AggregatedDiscoveryServiceClient<tonic::transport::Channel>, OwnedSemaphorePermit), Status>
    {
        let slot = Arc::clone(&self.slots).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!("this agent serves {MAX_STREAMS} gRPC clients at one time"))
        })?;
        let channel = self.connector.open().await.map_err(|error| {
            let reason =
                std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            Status::unavailable(reason)
        })?;
        Ok((AggregatedDiscoveryServiceClient::new(channel), slot))
    }
}

/// The client's requests as the control plane gets them, until the client ends.
fn requests<T: Send + 'static>(
    from: Streaming<T>,
    node: &Node,
    place: fn(&mut T) -> &mut Option<Node>,
) -> impl Stream<Item = T> + Send + 'static + use<T> {
    from.scan(Some(node.clone()), move |first, request| {
        let request = request.ok().map(|mut request| {
            *place(&mut request) = first.take();
            request
        });
        std::future::ready(request)
    })
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Relay {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let (mut upstream, slot) = self.upstream().await?;
        let requests = requests(request.into_inner(), &self.node, |request| &mut request.node);
        let responses = upstream.stream_aggregated_resources(requests).await?.into_inner();
        Ok(Response::new(Box::pin(responses.inspect(move |_| {
            let _held = &slot;
        }))))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (mut upstream, slot) = self.upstream().await?;
        let requests = requests(request.into_inner(), &self.node, |request| &mut request.node);
        let responses = upstream.delta_aggregated_resources(requests).await?.into_inner();
        Ok(Response::new(Box::pin(responses.inspect(move |_| {
            let _held = &slot;
        }))))
    }
}
