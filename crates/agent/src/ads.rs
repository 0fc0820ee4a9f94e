//! Discovery for the proxy beside this agent: configuration on one socket, secrets on another.

use std::sync::Arc;

use isthmus_lifecycle::TaskGroup;
use isthmus_proto::resource::View;
use isthmus_xds::{AdsService, Arrival, Limits, Nodes, Session, StreamEvents};
use tokio::sync::watch;
use tonic::Status;
use tower::ServiceExt as _;

use crate::mirror::Mirror;
use crate::secrets::Secrets;
use crate::sockets::Socket;

/// The secret discovery service speaks the aggregated one's messages under other names.
const SDS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/";
const ADS: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/";

/// Serves configuration (state of the world and delta).
pub fn serve(socket: Socket, mirror: &Mirror, group: &TaskGroup) {
    let views = mirror.views();
    let service = service(
        Local {
            views,
            events: Box::new({
                let mirror = mirror.clone();
                move || Box::new(mirror.clone())
            }),
        },
        group,
    );
    socket.serve("local discovery", service, group);
}

/// Serves secrets (state of the world and delta), by the secret discovery service and by the aggregated one.
pub fn serve_secrets(socket: Socket, secrets: &Secrets, group: &TaskGroup) {
    let service = service(Local { views: secrets.views(), events: Box::new(|| Box::new(())) }, group);
    let service = service.map_request(|mut request: http::Request<_>| {
        let method = match request.uri().path().strip_prefix(SDS) {
            Some("StreamSecrets") => "StreamAggregatedResources",
            Some("DeltaSecrets") => "DeltaAggregatedResources",
            _ => return request,
        };
        if let Ok(uri) = format!("{ADS}{method}").parse() {
            *request.uri_mut() = uri;
        }
        request
    });
    socket.serve("local secrets", service, group);
}

fn service(nodes: Local, group: &TaskGroup) -> AdsService {
    // The proxy is trusted, and stays for as long as we do.
    let limits = Limits { streams: 1024, streams_per_identity: 1024, max_age: None, ..Limits::default() };
    AdsService::new(Arc::new(nodes), limits, isthmus_xds::server::Metrics::default(), group.clone())
}

/// Everyone on a socket sees the same: the socket lets in whom it may.
struct Local {
    views: watch::Receiver<Arc<View>>,
    events: Box<dyn Fn() -> Box<dyn StreamEvents> + Send + Sync>,
}

#[tonic::async_trait]
impl Nodes for Local {
    fn identity(&self, _: &http::Extensions) -> Result<Arc<str>, Status> {
        Ok("local".into())
    }

    async fn connect(&self, _: Arrival) -> Result<Session, Status> {
        Ok(Session { views: self.views.clone(), events: (self.events)() })
    }
}
