//! `GET /debug/isthmus/…` for admins: what `isthmus status` and `isthmus proxy-config` show. On our own API server; beside Kubernetes'
//! on the monitoring port, for this host alone (which `kubectl port-forward` makes an admin's).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::{ConnectInfo, Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use isthmus_ca::Authority;
use isthmus_kube::Cluster;
use isthmus_kube::registration::Registrar;
use isthmus_lifecycle::Clock;
use isthmus_model::status::{
    CertificateStatus, DocumentStatus, MeshStatus, PeerStatus, ProxyStatus, TypeStatus, VmStatus,
};
use isthmus_resources::Kind;
use isthmus_tls::Identity;
use isthmus_xds::Streams;
use isthmus_xds::flavour::short_name;
use isthmus_xds::subscription::{Standing, TypeReport};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::config::Config;
use crate::describe;
use crate::views::Views;

/// What the pages read.
pub struct Pages {
    /// Flags.
    pub config: Config,
    /// Open streams.
    pub streams: Streams,
    /// Their views.
    pub views: Views,
    /// Who is registered.
    pub registrar: Registrar,
    /// The API server, for WorkloadEntries.
    pub cluster: Cluster,
    /// Certificates above ours.
    pub authority: Arc<Authority>,
    /// Our own certificate.
    pub identity: Identity,
    /// Peers' states.
    pub peers: Box<dyn Fn() -> Vec<PeerStatus> + Send + Sync>,
    /// What the mesh is configured with beside its objects.
    pub mesh: watch::Receiver<Vec<DocumentStatus>>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// The routes.
pub fn router(pages: Pages) -> Router {
    Router::new()
        .route("/debug/isthmus/status", get(status))
        .route("/debug/isthmus/proxy/{namespace}/{name}", get(proxy))
        .with_state(Arc::new(pages))
}

/// Whether a request is meant for this host: a page in somebody's browser may come from here and name another.
fn is_local(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let authority: Option<axum::http::uri::Authority> = host.parse().ok();
    authority.is_some_and(|authority| {
        let name = authority.host().trim_matches(['[', ']']);
        name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}

/// The same routes, for callers on this host alone.
pub fn for_loopback(pages: Router) -> Router {
    pages.route_layer(middleware::from_fn(
        async |ConnectInfo(caller): ConnectInfo<SocketAddr>, request: Request, next: Next| {
            if caller.ip().to_canonical().is_loopback() && is_local(request.headers()) {
                next.run(request).await
            } else {
                let hint = "these pages are for callers on this host; use `kubectl port-forward`";
                problem(StatusCode::FORBIDDEN, hint)
            }
        },
    ))
}

async fn status(State(pages): State<Arc<Pages>>) -> Response {
    let vms = match vms(&pages).await {
        Ok(vms) => vms,
        Err(error) => return problem(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    };
    let config = &pages.config;
    Json(MeshStatus {
        mesh_id: config.mesh_id().to_string(),
        cluster: config.cluster.to_string(),
        network: config.network.to_string(),
        revision: config.revision.to_string(),
        trust_domain: config.trust_domain().to_string(),
        snapshot: pages.views.snapshot().number,
        peers: (pages.peers)(),
        proxies: proxies(&pages),
        vms,
        certificates: certificates(&pages),
        configuration: pages.mesh.borrow().clone(),
    })
    .into_response()
}

#[derive(Debug, serde::Deserialize)]
struct Section {
    #[serde(rename = "type")]
    what: Option<String>,
    /// `resources` for the encoded messages themselves, instead of their short forms.
    form: Option<String>,
}

async fn proxy(
    State(pages): State<Arc<Pages>>,
    Path((namespace, name)): Path<(String, String)>,
    Query(section): Query<Section>,
) -> Response {
    let Some((_, view)) = pages.views.find(&namespace, &name) else {
        let known: Vec<String> = proxies(&pages).into_iter().map(|proxy| proxy.name).collect();
        let text = format!("no proxy {name}.{namespace} is connected; connected are: {}", known.join(", "));
        return problem(StatusCode::NOT_FOUND, &text);
    };
    let sections = match section.what.as_deref() {
        None | Some("all") => vec!["listeners", "clusters", "endpoints", "names"],
        Some(one) => vec![one],
    };
    let mut out = serde_json::Map::new();
    for what in sections {
        let rows = match section.form.as_deref() {
            Some("resources") => describe::resources(&view, what),
            _ => describe::section(&view, what),
        };
        let Some(rows) = rows else {
            let text =
                format!("type {what:?} is not known; listeners, clusters, endpoints, names and all are");
            return problem(StatusCode::BAD_REQUEST, &text);
        };
        out.insert(what.to_string(), Value::Array(rows));
    }
    Json(Value::Object(out)).into_response()
}

fn problem(code: StatusCode, message: &str) -> Response {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code.as_u16()});
    (code, Json(body)).into_response()
}

fn proxies(pages: &Pages) -> Vec<ProxyStatus> {
    let one = |stream: isthmus_xds::server::StreamStatus| {
        let proxy = pages.views.proxy(stream.stream)?;
        Some(ProxyStatus {
            name: format!("{}.{}", proxy.name, proxy.namespace),
            kind: proxy.kind.as_str().to_string(),
            network: proxy.network_in(&pages.views.snapshot()).to_string(),
            address: proxy.ips.first().map(ToString::to_string).unwrap_or_default(),
            connected_ms: u64::try_from(stream.age.as_millis()).unwrap_or(u64::MAX),
            types: stream.types.iter().map(type_status).collect(),
        })
    };
    let mut all: Vec<ProxyStatus> = pages.streams.snapshot().into_iter().filter_map(one).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn type_status(report: &TypeReport) -> TypeStatus {
    let state = match report.standing {
        Standing::NotSent => "NotSent",
        Standing::Stale => "Stale",
        Standing::Acked => "Acked",
        Standing::Nacked => "Nacked",
    };
    TypeStatus {
        name: short_name(&report.type_url).to_string(),
        resources: report.resources as u64,
        state: state.to_string(),
        error: report.error.clone(),
    }
}

async fn vms(pages: &Pages) -> Result<Vec<VmStatus>, isthmus_kube::ApiError> {
    let connected = pages.registrar.connected();
    let entries = pages.cluster.list_installed(Kind::WorkloadEntry, None, None).await?;
    let text = |entry: &Value, pointer: &str| {
        entry.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_string()
    };
    let one = |entry: Value| {
        let group = text(&entry, "/metadata/annotations/istio.io~1autoRegistrationGroup");
        if group.is_empty() {
            return None;
        }
        let name = format!("{}/{}", text(&entry, "/metadata/namespace"), text(&entry, "/metadata/name"));
        let healthy = entry
            .pointer("/status/conditions")
            .and_then(Value::as_array)
            .and_then(|all| all.iter().find(|condition| condition["type"] == "Healthy"))
            .and_then(|condition| condition["status"].as_str());
        let health = match healthy {
            Some("True") => "Healthy",
            Some("False") => "Unhealthy",
            _ => "Unknown",
        };
        Some(VmStatus {
            connected: connected.contains(&name),
            group,
            address: text(&entry, "/spec/address"),
            network: text(&entry, "/spec/network"),
            health: health.to_string(),
            name,
        })
    };
    Ok(entries.into_iter().filter_map(one).collect())
}

fn certificates(pages: &Pages) -> Vec<CertificateStatus> {
    let now = pages.clock.now();
    let mut all: Vec<CertificateStatus> = pages
        .authority
        .held()
        .iter()
        .map(|held| certificate(held.kind, &held.subject, held.not_after, now))
        .collect();
    if let Some(leaf) = pages.identity.leaf() {
        all.push(certificate("serving", &leaf.certificate().name(), leaf.not_after(), now));
    }
    all
}

fn certificate(name: &str, subject: &str, not_after: SystemTime, now: SystemTime) -> CertificateStatus {
    let seconds = |time: std::time::Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let seconds_left = match not_after.duration_since(now) {
        Ok(left) => seconds(left),
        Err(past) => -seconds(past.duration()),
    };
    let not_after = jiff::Timestamp::try_from(not_after).map(|time| time.to_string()).unwrap_or_default();
    CertificateStatus { name: name.to_string(), subject: subject.to_string(), not_after, seconds_left }
}
