#![allow(dead_code, reason = "the tests of several packages use a part each")]

//! A control plane small enough to be read: joins, certificates and discovery over TLS on loopback.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use isthmus_lifecycle::{Clock, Drain, SystemClock, TaskGroup};
use isthmus_model::token::{Grant, JoinToken};
use isthmus_model::{NamespacedName, SpiffeId};
use isthmus_proto::istio_ca::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use isthmus_proto::istio_ca::{IstioCertificateRequest, IstioCertificateResponse};
use isthmus_proto::join::join_service_server::{JoinService, JoinServiceServer};
use isthmus_proto::join::{JoinKind, JoinRequest, JoinResponse};
use isthmus_proto::resource::{Resource, ResourceSet, View};
use isthmus_testkit::MeshCa;
use isthmus_tls::{ClientAuth, PeerCertificate, Terminator};
use isthmus_xds::{AdsService, Arrival, HealthReport, Nodes, Session, StreamEvents};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tower::ServiceExt;

/// A running control plane of cluster `west`.
pub(crate) struct Plane {
    pub(crate) address: SocketAddr,
    pub(crate) mesh: Arc<Mesh>,
    drain: Drain,
    group: TaskGroup,
}

/// What outlives one run of it.
pub(crate) struct Mesh {
    pub(crate) ca: MeshCa,
    pub(crate) views: watch::Sender<Arc<View>>,
    pub(crate) health: Mutex<Vec<HealthReport>>,
    pub(crate) healths: watch::Sender<usize>,
    pub(crate) nodes: Mutex<Vec<Node>>,
    pub(crate) streams: watch::Sender<usize>,
    /// What clients refused: type, and their words.
    pub(crate) refusals: Mutex<Vec<(String, String)>>,
    pub(crate) refused: watch::Sender<usize>,
    /// Lifetime of the certificates that joining gives.
    pub(crate) join_ttl: Mutex<Duration>,
    /// Whether renewals are refused.
    pub(crate) no_renewals: Mutex<bool>,
    pub(crate) renewals: watch::Sender<usize>,
    tokens: Mutex<BTreeSet<String>>,
}

impl Mesh {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            ca: MeshCa::new(),
            views: watch::Sender::new(Arc::default()),
            health: Mutex::default(),
            healths: watch::Sender::new(0),
            nodes: Mutex::default(),
            streams: watch::Sender::new(0),
            refusals: Mutex::default(),
            refused: watch::Sender::new(0),
            join_ttl: Mutex::new(Duration::from_secs(24 * 3600)),
            no_renewals: Mutex::default(),
            renewals: watch::Sender::new(0),
            tokens: Mutex::default(),
        })
    }

    /// Publishes everything that a workload sees.
    pub(crate) fn publish(&self, sets: Vec<(&'static str, Vec<Resource>)>) {
        let sets =
            sets.into_iter().map(|(url, resources)| (url, Arc::new(ResourceSet::new(resources)))).collect();
        self.views.send_modify(|view| *view = Arc::new(View { version: view.version + 1, sets }));
    }

    fn issue(&self, csr: &str, id: SpiffeId, ttl: Duration) -> Result<Vec<String>, Status> {
        let names = isthmus_ca::Names::workload(id);
        let issued = self.ca.authority("west").issue(csr, &names, Some(ttl), SystemClock.now());
        issued.map(|issued| issued.response()).map_err(|error| Status::invalid_argument(error.to_string()))
    }
}

impl Plane {
    pub(crate) async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), Mesh::new()).await
    }

    /// Starts at an address; the same mesh may be served there again later.
    pub(crate) async fn start_at(address: SocketAddr, mesh: Arc<Mesh>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let drain = Drain::new();
        let group = TaskGroup::new("control plane", drain.clone());
        let ads = AdsService::new(
            Arc::new(Discovery(Arc::clone(&mesh))),
            isthmus_xds::Limits::default(),
            isthmus_xds::server::Metrics::default(),
            group.clone(),
        );
        let routes = tonic::service::Routes::new(JoinServiceServer::new(Joins(Arc::clone(&mesh))))
            .add_service(IstioCertificateServiceServer::new(Certificates(Arc::clone(&mesh))))
            .add_service(ads);
        let server = mesh.ca.control_plane("west");
        let tls = Arc::new(Terminator::without_sessions(&server, ClientAuth::Optional, &[b"h2"]));
        let (tasks, stop) = (group.clone(), group.signal());
        group.spawn_infallible("listener", async move {
            loop {
                let stream = tokio::select! {
                    () = stop.stopping() => return,
                    accepted = listener.accept() => accepted.unwrap().0,
                };
                let (tls, routes, stop) = (Arc::clone(&tls), routes.clone(), stop.clone());
                tasks.spawn_infallible("connection", async move {
                    let Ok((stream, peer)) = tls.accept(stream, Duration::from_secs(5)).await else {
                        return;
                    };
                    let service = routes.map_request(move |mut request: http::Request<_>| {
                        if let Some(peer) = &peer {
                            request.extensions_mut().insert(peer.clone());
                        }
                        request
                    });
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let serving =
                        server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
                    tokio::select! {
                        () = stop.cut() => {}
                        _ = serving => {}
                    }
                });
            }
        });
        Self { address, mesh, drain, group }
    }

    /// Is gone, as after SIGKILL: listener and connections closed.
    pub(crate) async fn stop(self) -> Arc<Mesh> {
        self.drain.immediate();
        self.group.finished().await;
        self.mesh
    }

    /// A token that can be redeemed: once for a VM, always for a host.
    pub(crate) fn token(&self, grant: Grant) -> JoinToken {
        let bearer = format!("secret-{}", self.mesh.tokens.lock().len());
        self.mesh.tokens.lock().insert(bearer.clone());
        JoinToken {
            grant,
            cluster: "west".parse().unwrap(),
            network: "site".parse().unwrap(),
            addresses: vec![self.address.to_string().into()],
            server_name: "default.west.federation.isthmus.internal".into(),
            roots: self.mesh.ca.roots_pem().into(),
            bearer: bearer.into(),
        }
    }

    pub(crate) fn vm_token(&self) -> JoinToken {
        self.token(Grant::Vm("vm/mysqldb-vm".parse().unwrap()))
    }

    pub(crate) fn host_token(&self) -> JoinToken {
        self.token(Grant::Host(vec!["default/reviews".parse().unwrap()]))
    }
}

struct Joins(Arc<Mesh>);

#[tonic::async_trait]
impl JoinService for Joins {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let bearer = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let bearer = bearer.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default().to_string();
        let known = self.0.tokens.lock().contains(&bearer);
        if !known {
            return Err(Status::unauthenticated("the token was used before or has expired"));
        }
        let body = request.into_inner();
        let account: NamespacedName = match body.kind() {
            JoinKind::Vm => "vm/mysql".parse().unwrap(),
            _ => body.service_account.parse().map_err(|_| Status::invalid_argument("service_account"))?,
        };
        let id = format!("spiffe://cluster.local/ns/{}/sa/{}", account.namespace, account.name);
        let ttl = *self.0.join_ttl.lock();
        let cert_chain = self.0.issue(&body.csr, id.parse().unwrap(), ttl)?;
        let spec = serde_json::json!({
            "metadata": {"labels": {"app": "mysqldb"}},
            "template": {"ports": {"tcp": 3306}},
            "probe": {"tcpSocket": {"port": 3306}, "periodSeconds": 1},
        });
        if body.kind() == JoinKind::Vm {
            self.0.tokens.lock().remove(&bearer);
        }
        Ok(Response::new(JoinResponse {
            cert_chain,
            trust_domain: "cluster.local".into(),
            mesh_id: "mesh1".into(),
            cluster_id: "west".into(),
            network: "site".into(),
            namespace: account.namespace.to_string(),
            service_account: account.name.to_string(),
            workload_group_json: if body.kind() == JoinKind::Vm { spec.to_string() } else { String::new() },
        }))
    }
}

struct Certificates(Arc<Mesh>);

#[tonic::async_trait]
impl IstioCertificateService for Certificates {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let peer = request.extensions().get::<Arc<PeerCertificate>>();
        let id = peer.and_then(|peer| peer.spiffe.clone());
        let id = id.ok_or_else(|| Status::unauthenticated("renewal needs the current certificate"))?;
        if *self.0.no_renewals.lock() {
            self.0.renewals.send_modify(|count| *count += 1);
            return Err(Status::unavailable("the signer is away"));
        }
        let body = request.into_inner();
        let ttl = u64::try_from(body.validity_duration).ok().filter(|seconds| *seconds > 0).unwrap_or(86_400);
        let cert_chain = self.0.issue(&body.csr, id, Duration::from_secs(ttl))?;
        self.0.renewals.send_modify(|count| *count += 1);
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

struct Discovery(Arc<Mesh>);

#[tonic::async_trait]
impl Nodes for Discovery {
    fn identity(&self, extensions: &http::Extensions) -> Result<Arc<str>, Status> {
        let peer = extensions.get::<Arc<PeerCertificate>>();
        peer.map(|peer| peer.name().into()).ok_or_else(|| Status::unauthenticated("show a certificate"))
    }

    async fn connect(&self, arrival: Arrival) -> Result<Session, Status> {
        self.0.nodes.lock().push(arrival.node);
        self.0.streams.send_modify(|count| *count += 1);
        Ok(Session { views: self.0.views.subscribe(), events: Box::new(Events(Arc::clone(&self.0))) })
    }
}

struct Events(Arc<Mesh>);

impl StreamEvents for Events {
    fn refused(&self, type_url: &str, _version: u64, error: &str) {
        self.0.refusals.lock().push((type_url.into(), error.into()));
        self.0.refused.send_modify(|count| *count += 1);
    }

    fn health(&self, report: HealthReport) {
        self.0.health.lock().push(report);
        self.0.healths.send_modify(|count| *count += 1);
    }
}
