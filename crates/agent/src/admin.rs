//! What the agent tells people and machines: admin on loopback, metrics, readiness.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use axum::{Router, middleware};
use isthmus_lifecycle::{Clock, Drain, OnFailure, Readiness, TaskGroup};
use isthmus_process::SharedRegistry;
use isthmus_tls::Identity;
use isthmus_xds::{Handle, HealthReport};
use serde_json::{Value, json};
use thiserror::Error;
use tokio::net::TcpListener;

use crate::data_path::DataPath;
use crate::envoy::Envoy;
use crate::health::Verdict;
use crate::identity::seconds_between;
use crate::state::Membership;

/// Why a port is not served.
#[derive(Debug, Error)]
#[error("{what}: cannot listen on {address}: {source}")]
pub struct BindError {
    what: &'static str,
    address: SocketAddr,
    source: std::io::Error,
}

/// Binds one of the agent's own ports.
///
/// # Errors
/// When the address is taken.
pub async fn bind(what: &'static str, address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError { what, address, source })
}

/// Everything that can be asked for.
pub struct View {
    /// Place in the mesh.
    pub membership: Membership,
    /// Own name.
    pub name: Arc<str>,
    /// Live identity.
    pub identity: Identity,
    /// Data path.
    pub proxy: DataPath,
    /// DNS proxy, when there is one.
    pub dns: Option<isthmus_dns::Handle>,
    /// Discovery stream.
    pub stream: Handle,
    /// Own health.
    pub health: Verdict,
    /// What is awaited.
    pub readiness: Vec<Readiness>,
    /// Stops the agent.
    pub drain: Drain,
    /// Wall clock.
    pub clock: Arc<dyn Clock>,
}

/// Admin: `/listeners`, `/clusters`, `/endpoints`, `/flows` (what is relayed now), `/names`, `/certs`, `/status`, `/config_dump`,
/// `POST /quitquitquit`, and below `/envoy/` the pages of an Envoy's own admin interface, to be read. For loopback only; requests that
/// a browser makes on behalf of a web page are refused.
pub fn admin(view: Arc<View>) -> Router {
    Router::new()
        .route(
            "/listeners",
            get(|State(view): State<Arc<View>>| async move { Json(view.proxy.listeners_json()) }),
        )
        .route(
            "/clusters",
            get(|State(view): State<Arc<View>>| async move { Json(view.proxy.clusters_json()) }),
        )
        .route(
            "/endpoints",
            get(|State(view): State<Arc<View>>| async move { Json(view.proxy.endpoints_json().await) }),
        )
        .route("/flows", get(|State(view): State<Arc<View>>| async move { Json(view.proxy.flows_json()) }))
        .route("/names", get(|State(view): State<Arc<View>>| async move { Json(view.names()) }))
        .route("/certs", get(|State(view): State<Arc<View>>| async move { Json(view.certificates()) }))
        .route("/status", get(|State(view): State<Arc<View>>| async move { Json(view.status()) }))
        .route(
            "/config_dump",
            get(|State(view): State<Arc<View>>| async move { Json(view.everything().await) }),
        )
        .route("/envoy/{*page}", get(envoys))
        .route("/quitquitquit", post(quit))
        .layer(middleware::from_fn(local_only))
        .with_state(view)
}

/// Metrics and `/healthz/ready`.
pub fn metrics(registry: &SharedRegistry, readiness: &[Readiness]) -> Router {
    registry.router().merge(self::readiness(readiness))
}

/// Metrics of the agent and of its Envoy in one text, and `/healthz/ready`.
pub fn metrics_with(envoy: Envoy, registry: &SharedRegistry, readiness: &[Readiness]) -> Router {
    let text = move |State((envoy, registry)): State<(Envoy, SharedRegistry)>| async move {
        let own = registry.encode();
        // The end of an OpenMetrics text, after which nothing may come.
        let own = own.strip_suffix("# EOF\n").unwrap_or(&own).to_string();
        let theirs = envoy.admin().get("/stats/prometheus?usedonly").await.unwrap_or_else(|error| {
            tracing::warn!(%error, "metrics without Envoy's");
            String::new()
        });
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], own + &theirs)
    };
    Router::new()
        .route("/metrics", get(text))
        .route("/stats/prometheus", get(text))
        .with_state((envoy, registry.clone()))
        .merge(self::readiness(readiness))
}

/// `/healthz/ready`: 200, or 503 with what is awaited.
pub fn readiness(readiness: &[Readiness]) -> Router {
    let readiness = readiness.to_vec();
    let answer = move || {
        let awaited = awaited(&readiness);
        async move {
            if awaited.is_empty() {
                return (StatusCode::OK, "ready\n".to_string());
            }
            (StatusCode::SERVICE_UNAVAILABLE, format!("awaiting {}\n", awaited.join(", ")))
        }
    };
    Router::new().route("/healthz/ready", get(answer))
}

fn awaited(readiness: &[Readiness]) -> Vec<&'static str> {
    readiness.iter().flat_map(Readiness::awaited).collect()
}

/// Serves a router in this group until its cut.
pub fn serve(what: &'static str, listener: TcpListener, router: Router, group: &TaskGroup) {
    let stop = group.signal();
    group.spawn(what, OnFailure::Stop, async move {
        // Answers also while the agent drains: that is when people look.
        axum::serve(listener, router).with_graceful_shutdown(async move { stop.cut().await }).await
    });
}

impl View {
    fn names(&self) -> Value {
        match &self.dns {
            Some(dns) => json!(dns.dump()),
            None => json!({}),
        }
    }

    fn certificates(&self) -> Value {
        let Some(leaf) = self.identity.leaf() else { return json!([]) };
        let certificate = leaf.certificate();
        let left = seconds_between(self.clock.now(), leaf.not_after());
        json!([{
            "name": "default",
            "identity": certificate.name(),
            "serial": certificate.serial,
            "issuer": certificate.issuer,
            "notAfter": jiff::Timestamp::try_from(leaf.not_after()).map(|at| at.to_string()).unwrap_or_default(),
            "secondsLeft": left,
            "roots": self.identity.snapshot().trust.fingerprints(),
        }])
    }

    fn status(&self) -> Value {
        let member = &self.membership;
        let connection = match &*self.stream.connection().borrow() {
            isthmus_xds::client::Connection::Connecting => json!({ "state": "Connecting" }),
            isthmus_xds::client::Connection::Connected => json!({ "state": "Connected" }),
            isthmus_xds::client::Connection::Lost { error } => json!({ "state": "Lost", "error": error }),
        };
        let health = match &*self.health.borrow() {
            None => json!("Unknown"),
            Some(HealthReport::Healthy) => json!("Healthy"),
            Some(HealthReport::Unhealthy(reason)) => json!({ "Unhealthy": reason }),
        };
        json!({
            "name": format!("{}.{}", self.name, member.namespace),
            "identity": member.spiffe(),
            "mesh": member.mesh_id,
            "cluster": member.cluster,
            "network": member.network,
            "group": member.group.as_ref().map(ToString::to_string),
            "controlPlane": { "serverName": member.server_name, "addresses": member.addresses, "connection": connection },
            "health": health,
            "proxy": self.proxy.status(),
            "awaited": awaited(&self.readiness),
            "certificates": self.certificates(),
        })
    }

    async fn everything(&self) -> Value {
        json!({
            "status": self.status(),
            "listeners": self.proxy.listeners_json(),
            "clusters": self.proxy.clusters_json(),
            "endpoints": self.proxy.endpoints_json().await,
            "names": self.names(),
        })
    }
}

/// A page of Envoy's own.
async fn envoys(State(view): State<Arc<View>>, request: Request) -> Response {
    let Some(envoy) = view.proxy.envoy() else {
        return (StatusCode::NOT_FOUND, "the proxy of this workload is no Envoy\n").into_response();
    };
    let page = request.uri().path_and_query().map_or("", |page| page.as_str());
    match envoy.admin().get(page.strip_prefix("/envoy").unwrap_or(page)).await {
        Ok(text) => text.into_response(),
        Err(error) => (StatusCode::BAD_GATEWAY, format!("{error}\n")).into_response(),
    }
}

async fn quit(State(view): State<Arc<View>>) -> &'static str {
    tracing::info!("asked to quit over the admin port");
    view.drain.refuse();
    "OK\n"
}

/// A web page can make a browser on this host send requests here under a name that it controls; its `Host` gives it away, and so
/// does `Origin`.
async fn local_only(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let local = matches!(name, "localhost" | "127.0.0.1" | "[::1]")
        && !request.headers().contains_key(header::ORIGIN);
    if !local {
        return (StatusCode::FORBIDDEN, "the admin port answers requests to localhost only\n")
            .into_response();
    }
    next.run(request).await
}
