//! A control plane over real sockets for the tests of this crate.
#![allow(unreachable_pub, reason = "a module of one test program")]

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::Extensions;
use isthmus_lifecycle::{Drain, TaskGroup};
use isthmus_proto::resource::{Resource, ResourceSet, View};
use isthmus_xds::server::Metrics;
use isthmus_xds::{AdsService, Arrival, Closed, HealthReport, Limits, Nodes, Session, StreamEvents};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tonic::Status;

#[derive(Debug, PartialEq)]
pub enum Event {
    Connected(String),
    Health(HealthReport),
    Refused(String),
    Closed(Closed),
}

pub struct Plane {
    pub address: SocketAddr,
    pub views: watch::Sender<Arc<View>>,
    pub events: mpsc::UnboundedReceiver<Event>,
    pub service: AdsService,
    pub tasks: TaskGroup,
}

struct Everyone {
    views: watch::Receiver<Arc<View>>,
    events: mpsc::UnboundedSender<Event>,
}

struct Tell(mpsc::UnboundedSender<Event>);

impl StreamEvents for Tell {
    fn health(&self, report: HealthReport) {
        let _ = self.0.send(Event::Health(report));
    }
    fn refused(&self, _: &str, _: u64, error: &str) {
        let _ = self.0.send(Event::Refused(error.to_string()));
    }
    fn closed(&self, reason: &Closed) {
        let _ = self.0.send(Event::Closed(reason.clone()));
    }
}

#[tonic::async_trait]
impl Nodes for Everyone {
    fn identity(&self, _: &Extensions) -> Result<Arc<str>, Status> {
        Ok("spiffe://cluster.local/ns/default/sa/test".into())
    }

    async fn connect(&self, arrival: Arrival) -> Result<Session, Status> {
        if arrival.node.id == "stranger" {
            return Err(Status::permission_denied("namespace of the node is not the certificate's"));
        }
        let _ = self.events.send(Event::Connected(arrival.node.id));
        Ok(Session { views: self.views.clone(), events: Box::new(Tell(self.events.clone())) })
    }
}

pub fn set(list: &[(&str, &str)]) -> Arc<ResourceSet> {
    let resource =
        |(name, body): &(&str, &str)| Resource::new(*name, Bytes::copy_from_slice(body.as_bytes()));
    Arc::new(ResourceSet::new(list.iter().map(resource).collect()))
}

pub fn view(version: u64, sets: &[(&'static str, &[(&str, &str)])]) -> Arc<View> {
    Arc::new(View { version, sets: sets.iter().map(|(url, list)| (*url, set(list))).collect() })
}

impl Plane {
    pub async fn start(first: Arc<View>) -> Self {
        Self::start_with(first, Limits::default()).await
    }

    pub async fn start_with(first: Arc<View>, limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, first, limits)
    }

    pub fn on(listener: TcpListener, first: Arc<View>, limits: Limits) -> Self {
        let address = listener.local_addr().unwrap();
        let views = watch::Sender::new(first);
        let (told, events) = mpsc::unbounded_channel();
        let nodes = Everyone { views: views.subscribe(), events: told };
        let tasks = TaskGroup::new("test", Drain::new());
        let service = AdsService::new(Arc::new(nodes), limits, Metrics::default(), tasks.clone());
        let routes = tonic::transport::Server::builder().add_service(service.clone());
        let signal = tasks.signal();
        tasks.spawn_infallible("server", async move {
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            tokio::select! {
                served = routes.serve_with_incoming(incoming) => served.unwrap(),
                () = signal.cut() => {}
            }
        });
        Self { address, views, events, service, tasks }
    }

    pub async fn event(&mut self) -> Event {
        self.events.recv().await.unwrap()
    }
}
