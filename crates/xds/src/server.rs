//! The aggregated discovery service, as a tower service that stands next to tonic's.

mod body;
mod limits;
mod metrics;
mod nodes;
mod stream;
mod streams;

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use isthmus_lifecycle::TaskGroup;
use tonic::Status;
use tonic::server::NamedService;
use tower::Service;

pub use limits::Limits;
pub use metrics::Metrics;
pub use nodes::{Arrival, Closed, HealthReport, Nodes, Session, StreamEvents};
pub use streams::{StreamStatus, Streams};

use crate::cache::Cache;
use crate::flavour::Flavour;

/// What all streams of one server share.
struct Shared {
    nodes: Arc<dyn Nodes>,
    limits: Limits,
    cache: Arc<Cache>,
    streams: Streams,
    metrics: Metrics,
    tasks: TaskGroup,
}

/// `envoy.service.discovery.v3.AggregatedDiscoveryService`. Cheap to clone.
#[derive(Clone)]
pub struct AdsService(Arc<Shared>);

impl AdsService {
    /// A service whose streams run in `tasks` and end when its drain says so.
    #[must_use]
    pub fn new(nodes: Arc<dyn Nodes>, limits: Limits, metrics: Metrics, tasks: TaskGroup) -> Self {
        let streams = Streams::default();
        Self(Arc::new(Shared { nodes, limits, cache: Cache::new(), streams, metrics, tasks }))
    }

    /// All open streams, for status pages.
    #[must_use]
    pub fn streams(&self) -> Streams {
        self.0.streams.clone()
    }
}

impl std::fmt::Debug for AdsService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdsService").field("streams", &self.0.streams.len()).finish_non_exhaustive()
    }
}

impl NamedService for AdsService {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

impl<B> Service<Request<B>> for AdsService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let flavour = match request.uri().path() {
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources" => {
                Flavour::World
            }
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources" => {
                Flavour::Delta
            }
            path => return ready(Status::unimplemented(format!("no method {path}")).into_http()),
        };
        if request.method() != Method::POST {
            return ready(Status::unimplemented("gRPC calls are POST requests").into_http());
        }
        if self.0.tasks.signal().is_stopping() {
            return ready(Status::unavailable("this control plane is stopping; try another one").into_http());
        }
        let (parts, body) = request.into_parts();
        let (sender, body_out) = body::channel();
        let stream = stream::Stream::new(Arc::clone(&self.0), flavour, parts.extensions, sender);
        self.0.tasks.spawn_many(stream.run(tonic::body::Body::new(body)));
        let mut response = Response::new(tonic::body::Body::new(body_out));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        ready(response)
    }
}

fn ready(
    response: Response<tonic::body::Body>,
) -> std::future::Ready<Result<Response<tonic::body::Body>, Infallible>> {
    std::future::ready(Ok(response))
}
