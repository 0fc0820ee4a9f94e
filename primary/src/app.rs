//! All parts put together: `build` binds and opens everything and fails early; `run` serves until told to stop.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::routing::get;
use isthmus_ca::{Authority, Policy};
use isthmus_envoy::{AccessLog, ControlPlane, Defaults, MeshSettings, OutboundPolicy, Translator};
use isthmus_kube::Cluster;
use isthmus_kube::controllers;
use isthmus_kube::mesh::{MeshInfo, SYSTEM_NAMESPACE};
use isthmus_kube::registration::{Registrar, RegistrarConfig};
use isthmus_kube::watch::{MESH_KINDS, Watch, watch};
use isthmus_lifecycle::{Clock, Drain, OnFailure, Readiness, SystemClock, TaskGroup};
use isthmus_model::Namespace;
use isthmus_process::SharedRegistry;
use isthmus_proto::federation::federation_server::FederationServer;
use isthmus_proto::istio_ca::istio_certificate_service_server::IstioCertificateServiceServer;
use isthmus_proto::join::join_service_server::JoinServiceServer;
use isthmus_registry::{Registry, Settings, Snapshot};
use isthmus_tls::{ClientAuth, Terminator};
use isthmus_xds::{AdsService, Limits};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch as value};

use crate::api::certificates::{Certificates, Signing};
use crate::api::join::Joining;
use crate::caller::Callers;
use crate::config::Config;
use crate::link::Links;
use crate::mesh::Reader;
use crate::nodes::Clients;
use crate::pipeline::Pipeline;
use crate::serving::Serving;
use crate::source::Source;
use crate::status::Pages;
use crate::upkeep::trim_after_work;
use crate::views::Views;
use crate::{files, gateways, listener, status};

/// Source events that wait for the registry; a full channel makes the watches wait.
const EVENTS: usize = 4096;
/// How long open streams may take to end.
const GRACE: Duration = Duration::from_secs(5);

/// Where a control plane listens, with the ports that the system chose where 0 was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// The API (HTTPS), where it is served here.
    pub api: Option<SocketAddr>,
    /// xDS, certificates, joining and federation.
    pub grpc: SocketAddr,
    /// Metrics and readiness.
    pub monitoring: SocketAddr,
}

/// A control plane, ready to serve.
pub struct App {
    tasks: TaskGroup,
    addresses: Addresses,
    grpc: TcpListener,
    tls: Arc<Terminator>,
    routes: axum::Router,
    monitoring: TcpListener,
    monitoring_routes: axum::Router,
    pipeline: Pipeline,
    views: Views,
    serving: Arc<Serving>,
    clock: Arc<dyn Clock>,
}

impl App {
    /// Opens the store or connects to the API server, binds every socket, issues the first certificate, and starts reading
    /// configuration.
    ///
    /// # Errors
    /// When something that it cannot do without is missing, with what to do about it.
    pub async fn build(mut config: Config) -> anyhow::Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let tasks = TaskGroup::new("primary", Drain::new());
        let metrics = SharedRegistry::default();
        let readiness = Readiness::new();
        files::folder(&config.data_dir)?;

        let policy = Policy { default_ttl: config.leaf_ttl, ..Policy::default() };
        let authority = Arc::new(Authority::load(&config.cacerts, policy).context("--cacerts")?);
        // A port of 0 is the system's choice: from here on everybody is told the one that it chose.
        let grpc = listener::bind(&mut config.grpc_address, "--grpc-address")?;
        let monitoring = listener::bind(&mut config.monitoring_address, "--monitoring-address")?;
        let source = Source::build(&mut config, &clock, &tasks).await?;
        let addresses = Addresses {
            api: source.is_standalone().then_some(config.api_address),
            grpc: config.grpc_address,
            monitoring: config.monitoring_address,
        };
        let cluster = source.cluster();
        let mut mesh = Reader::open(&config, &cluster, &metrics).await?;
        mesh.settle(&mut config);
        let serving = Arc::new(Serving::issue(&config, Arc::clone(&authority), clock.now())?);
        prepare(&cluster, &config, &authority).await?;
        controllers::run(&cluster, config.cluster.clone(), source.controllers(), &tasks);

        let roots = authority.roots_pem().to_string();
        controllers::roots::run(&cluster, config.cluster.clone(), roots, mesh.mesh(), &tasks);

        let (events, receive) = mpsc::channel(EVENTS);
        let (links, peer_changes) =
            Links::build(&config, &cluster, serving.identity(), Arc::clone(&clock), &metrics, &tasks).await?;
        let allocations = config.data_dir.join("allocations.json");
        let mut pipeline = Pipeline::new(registry(&config), allocations, receive, peer_changes, mesh.mesh())?;
        for peer in links.known() {
            pipeline.link(&peer);
        }
        let findings = isthmus_kube::conditions::writer(&cluster, Arc::clone(&clock), &tasks);
        let sources = Watch {
            id: config.cluster.clone(),
            kinds: MESH_KINDS.to_vec(),
            events,
            findings: Some(findings),
            ready: Some(readiness.hold("first list of every kind")),
        };
        watch(&cluster, sources, &tasks);
        links.start(pipeline.snapshots(), &tasks);

        let views = Views::new(Translator::new(mesh_settings(&config)), pipeline.snapshots());
        pipeline.paced_by({
            let views = views.clone();
            move || views.streams()
        });
        let registrar = registrar(&config, &source, &clock, &tasks);
        let callers = Callers { cluster: cluster.clone(), trust_domain: config.trust_domain() };
        let clients = Clients {
            callers: callers.clone(),
            cluster: config.cluster.clone(),
            views: views.clone(),
            registrar: registrar.clone(),
            synced: synced(pipeline.snapshots(), &tasks),
            tasks: tasks.clone(),
        };
        let xds_metrics = metrics.register(isthmus_xds::server::Metrics::register);
        let ads = AdsService::new(Arc::new(clients), Limits::default(), xds_metrics, tasks.clone());
        let signing =
            Arc::new(Signing { authority: Arc::clone(&authority), callers, clock: Arc::clone(&clock) });
        let config = Arc::new(config);
        let joining = Joining { signing: Arc::clone(&signing), config: Arc::clone(&config) };
        let routes = tonic::service::Routes::new(ads.clone())
            .add_service(IstioCertificateServiceServer::new(Certificates(signing)))
            .add_service(JoinServiceServer::new(joining))
            .add_service(FederationServer::new(links.service()))
            .prepare()
            .into_axum_router();

        let told = gateways::tell(cluster.clone(), Arc::clone(&clock), pipeline.snapshots(), tasks.signal());
        tasks.spawn_infallible("conflicts of gateways", told);
        let pages = status::router(Pages {
            config: (*config).clone(),
            streams: ads.streams(),
            views: views.clone(),
            registrar,
            cluster,
            authority,
            identity: serving.identity().clone(),
            peers: Box::new(move || links.status()),
            mesh: mesh.report(),
            clock: Arc::clone(&clock),
        });
        let tls = Terminator::without_sessions(serving.identity(), ClientAuth::Optional, &[b"h2"]);
        mesh.follow(&tasks);
        let mut monitoring_routes = monitoring_routes(&metrics, readiness);
        if let Some(pages) = source.serve(pages, &tasks) {
            monitoring_routes = monitoring_routes.merge(status::for_loopback(pages));
        }
        Ok(Self {
            tasks,
            addresses,
            grpc,
            tls: Arc::new(tls),
            routes,
            monitoring,
            monitoring_routes,
            pipeline,
            views,
            serving,
            clock,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Stops it, as a signal does.
    #[must_use]
    pub fn drain(&self) -> Drain {
        self.tasks.drain().clone()
    }

    /// Serves until a stop signal, or until a part that it cannot do without fails.
    ///
    /// # Errors
    /// What failed.
    pub async fn run(self) -> anyhow::Result<()> {
        let tasks = self.tasks;
        let stop = tasks.signal();
        tasks.spawn("pipeline", OnFailure::Stop, {
            let stop = stop.clone();
            let pipeline = self.pipeline;
            async move { pipeline.run(stop).await.map_err(|error| format!("{error:#}")) }
        });
        let snapshots = self.views.snapshots();
        tasks.spawn_infallible("upkeep", trim_after_work(snapshots, self.views.clone(), stop.clone()));
        tasks.spawn_infallible("views", self.views.run(stop.clone()));
        tasks.spawn_infallible("certificate renewal", self.serving.renew(self.clock, stop.clone()));
        let address = self.addresses.grpc;
        tasks.spawn(
            "grpc",
            OnFailure::Stop,
            listener::serve(self.grpc, self.tls, self.routes, tasks.clone()),
        );
        tasks.spawn("monitoring", OnFailure::Stop, {
            let stop = stop.clone();
            async move {
                let routes = self.monitoring_routes.into_make_service_with_connect_info::<SocketAddr>();
                axum::serve(self.monitoring, routes)
                    .with_graceful_shutdown(async move { stop.stopping().await })
                    .await
            }
        });
        tracing::info!(%address, "serving xDS, certificates, joining and federation");
        let drain = tasks.drain().clone();
        isthmus_process::signals::drain_on_signal(&drain, GRACE).await?;
        drain.immediate();
        if tokio::time::timeout(GRACE, tasks.finished()).await.is_err() {
            tracing::warn!(tasks = tasks.len(), "some tasks did not end in time");
        }
        match tasks.failure() {
            Some(failure) => anyhow::bail!(failure),
            None => Ok(()),
        }
    }
}

/// What must be there before anything else: the system namespace with its network, the gateways' account, and what joiners read.
async fn prepare(cluster: &Cluster, config: &Config, authority: &Authority) -> anyhow::Result<()> {
    cluster.ensure_namespace(SYSTEM_NAMESPACE).await?;
    if !config.network.is_unnamed() {
        cluster.set_network(config.network.as_str()).await?;
    }
    let info = MeshInfo {
        mesh_id: config.mesh_id().to_string(),
        cluster: config.cluster.to_string(),
        network: config.network.to_string(),
        revision: config.revision.to_string(),
        trust_domain: config.trust_domain().to_string(),
        server_name: config.server_name(),
        addresses: config.control_plane_addresses().iter().map(ToString::to_string).collect(),
        roots: authority.roots_pem().to_string(),
    };
    cluster.write_mesh(&info).await.context("writing ConfigMap istio-system/isthmus-mesh")
}

fn system_namespace() -> Namespace {
    Namespace::new(SYSTEM_NAMESPACE).expect("a valid namespace")
}

fn registry(config: &Config) -> Registry {
    Registry::new(Settings {
        cluster: config.cluster.clone(),
        network: config.network.clone(),
        trust_domain: config.trust_domain(),
        system_namespace: system_namespace(),
        domain: "cluster.local".into(),
    })
}

fn mesh_settings(config: &Config) -> MeshSettings {
    let mut names = vec![config.server_name()];
    names.extend(config.istio_names().into_iter().filter(|name| *name != "localhost").map(String::from));
    MeshSettings {
        trust_domain: config.trust_domain(),
        trust_domain_aliases: Vec::new(),
        cluster: config.cluster.clone(),
        root_namespace: system_namespace(),
        domain: "cluster.local".to_string(),
        control_plane: ControlPlane { names, addresses: config.control_plane_addresses() },
        outbound_policy: OutboundPolicy::AllowAny,
        defaults: Defaults::default(),
        access_log: AccessLog::default(),
    }
}

fn registrar(config: &Config, source: &Source, clock: &Arc<dyn Clock>, tasks: &TaskGroup) -> Registrar {
    let holder = format!(
        "{}.{}",
        config.server_name(),
        config.advertise.first().map(ToString::to_string).unwrap_or_default()
    );
    let mut registrar = RegistrarConfig::new(holder);
    registrar.grace = config.registration_grace;
    registrar.clock = Arc::clone(clock);
    registrar.writes_pods = source.is_standalone();
    Registrar::new(source.cluster(), registrar, tasks.clone())
}

/// A value that turns true, once, when every source has been read and its snapshot is out.
fn synced(mut snapshots: value::Receiver<Arc<Snapshot>>, tasks: &TaskGroup) -> value::Receiver<bool> {
    let (send, receive) = value::channel(false);
    let stop = tasks.signal();
    tasks.spawn_infallible("first snapshot", async move {
        tokio::select! {
            () = stop.stopping() => {}
            complete = snapshots.wait_for(|snapshot| snapshot.is_complete()) => if complete.is_ok() {
                tracing::info!("configuration read; serving proxies");
                send.send_replace(true);
            }
        }
    });
    receive
}

fn monitoring_routes(metrics: &SharedRegistry, readiness: Readiness) -> axum::Router {
    let ready = get(move || async move {
        let awaited = readiness.awaited();
        if awaited.is_empty() {
            (axum::http::StatusCode::OK, "ready\n".to_string())
        } else {
            (axum::http::StatusCode::SERVICE_UNAVAILABLE, format!("waiting for: {}\n", awaited.join(", ")))
        }
    });
    let version = BTreeMap::from([("version", env!("CARGO_PKG_VERSION"))]);
    metrics.router().route("/ready", ready).route("/version", get(move || async move { axum::Json(version) }))
}
