//! A real gateway that fetches from a real control plane what its traffic names.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser as _;
use isthmus_eastwest_gw::{App, Args};
use isthmus_kube::api::Preconditions;
use isthmus_lifecycle::{Drain, OnFailure, TaskGroup};
use isthmus_model::token::{Grant, JoinToken};
use isthmus_resources::Kind;
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::plane::{Plane, host_token, soon, until};

const ACCOUNT: &str = "istio-system/istio-eastwestgateway";

/// A workload that answers whatever comes with its name.
async fn workload(name: &'static str, tasks: &TaskGroup) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), tasks.signal());
    tasks.spawn_infallible("workload", async move {
        loop {
            let mut stream = tokio::select! {
                () = stop.stopping() => return,
                accepted = listener.accept() => accepted.unwrap().0,
            };
            // The client may be gone already.
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(name.as_bytes()).await;
        }
    });
    address
}

/// A service of one workload on the gateway's network.
async fn publish(plane: &Plane, name: &str, at: SocketAddr) {
    let endpoint = json!({
        "address": at.ip().to_string(), "network": "edge", "ports": {"tcp": at.port()},
        "labels": {"security.istio.io/tlsMode": "istio"},
    });
    plane
        .create(
            Kind::ServiceEntry,
            json!({
                "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
                "metadata": {"name": name, "namespace": "shop"},
                "spec": {
                    "hosts": [format!("{name}.mesh.internal")], "location": "MESH_INTERNAL", "resolution": "STATIC",
                    "ports": [{"number": 80, "name": "tcp", "protocol": "TCP"}], "endpoints": [endpoint],
                },
            }),
        )
        .await;
}

/// A running gateway.
struct Gateway {
    app: SocketAddr,
    metrics: SocketAddr,
    drain: Drain,
    tasks: TaskGroup,
}

impl Gateway {
    async fn start(data: &Path, port: u16, more: &str) -> Self {
        let line = format!(
            "isthmus-eastwest-gw --data-dir {0} --token-file {0}.token --network edge --name gw --address 127.0.0.1 \
             --metrics-address 127.0.0.1:0 --readiness-address 127.0.0.1:0 --admin-address 127.0.0.1:0 {more}",
            data.display()
        );
        let args = Args::try_parse_from(line.split_whitespace()).unwrap();
        let drain = Drain::new();
        let app = Box::pin(App::start(&args, &drain)).await.unwrap();
        let ready = until("the gateway's listener", || async {
            let listeners = app.listeners();
            listeners.iter().find(|(_, address)| address.port() == port).map(|(_, address)| *address)
        });
        let address = ready.await;
        let metrics = app.metrics().unwrap();
        let tasks = TaskGroup::new("gateway", Drain::new());
        tasks.spawn("gateway", OnFailure::Log, app.run());
        Self { app: address, metrics, drain, tasks }
    }

    async fn stop(self) {
        self.drain.immediate();
        soon("the gateway's end", self.tasks.finished()).await;
    }

    /// What answers under a server name; an error when it is refused.
    async fn ask(&self, host: &str) -> io::Result<String> {
        let hello = hello(&format!("outbound_.80_._.{host}"));
        let exchange = async {
            let mut stream = TcpStream::connect(self.app).await?;
            stream.write_all(&hello).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            if answer.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(answer) }
        };
        soon("an answer or a refusal", exchange).await
    }

    /// The sum of a metric's lines that hold a text.
    async fn count(&self, metric: &str, holding: &str) -> u64 {
        let mut stream = TcpStream::connect(self.metrics).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).await.unwrap();
        let lines = page.lines().filter(|line| line.starts_with(metric) && line.contains(holding));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    async fn requests(&self) -> u64 {
        self.count("isthmus_on_demand_requests_total", "").await
    }

    async fn fetched(&self) -> u64 {
        self.count("isthmus_on_demand_clusters", "").await
    }
}

fn hello(name: &str) -> Vec<u8> {
    let mut config = rustls::ClientConfig::builder()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"istio".to_vec()];
    let name = ServerName::try_from(name.to_string()).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// A control plane with a Gateway object, and a folder beside which the gateway's token lies.
async fn border(dir: &Path) -> (Plane, u16) {
    let plane = Plane::start().await;
    plane.admin.ensure_service_account("istio-system", "istio-eastwestgateway").await.unwrap();
    let token = JoinToken {
        grant: Grant::Host(vec![ACCOUNT.parse().unwrap()]),
        cluster: "east".parse().unwrap(),
        network: "edge".parse().unwrap(),
        addresses: vec![plane.grpc.to_string().into()],
        server_name: "default.east.federation.isthmus.internal".into(),
        roots: plane.site.ca.roots_pem().into(),
        bearer: host_token(&plane.admin, ACCOUNT).await.into(),
    };
    std::fs::write(dir.join("gateway.token"), token.to_string()).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let server = json!({
        "port": {"number": port, "name": "tls", "protocol": "TLS"}, "bind": "127.0.0.1",
        "tls": {"mode": "AUTO_PASSTHROUGH"}, "hosts": ["*.internal"],
    });
    plane
        .create(
            Kind::Gateway,
            json!({
                "apiVersion": "networking.istio.io/v1", "kind": "Gateway",
                "metadata": {"name": "border", "namespace": "istio-system"},
                "spec": {"selector": {"istio": "eastwestgateway"}, "servers": [server]},
            }),
        )
        .await;
    (plane, port)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_fetches_what_is_used_forgets_what_is_not_and_restarts_without_any_control_plane() {
    let tasks = TaskGroup::new("workloads", Drain::new());
    let dir = tempfile::tempdir().unwrap();
    let (plane, port) = border(dir.path()).await;
    let used = workload("used", &tasks).await;
    for name in ["web", "db", "idle"] {
        publish(&plane, name, used).await;
    }
    let data = dir.path().join("gateway");
    let gateway = Gateway::start(&data, port, "").await;

    // The first connection to a service fetches it, the second is direct.
    until("a first answer", || async { gateway.ask("web.mesh.internal").await.ok() }).await;
    let asked = gateway.requests().await;
    assert_eq!(gateway.ask("web.mesh.internal").await.unwrap(), "used");
    assert_eq!(gateway.requests().await, asked);
    assert_eq!(gateway.fetched().await, 1, "memory follows what is used");

    // Unknown names are refused, and nobody is asked.
    let unknown = "cause=\"unknown_server_name\"";
    let refused = gateway.count("isthmus_connections_refused_total", unknown).await;
    for n in 0..20 {
        assert!(gateway.ask(&format!("nobody-{n}.mesh.internal")).await.is_err());
    }
    assert_eq!(gateway.count("isthmus_connections_refused_total", unknown).await, refused + 20);
    assert_eq!(gateway.requests().await, asked);

    // A service that is removed is refused, and one that appears is served.
    plane.admin.delete(Kind::ServiceEntry, Some("shop"), "web", Preconditions::default()).await.unwrap();
    until("a refusal", || async { gateway.ask("web.mesh.internal").await.err() }).await;
    assert_eq!(gateway.fetched().await, 0);
    publish(&plane, "late", used).await;
    until("the late service", || async { gateway.ask("late.mesh.internal").await.ok() }).await;
    assert_eq!(gateway.ask("db.mesh.internal").await.unwrap(), "used");
    gateway.stop().await;

    // With the control plane gone a restart serves what was used, and refuses the rest.
    let site = plane.stop().await;
    let gateway = Gateway::start(&data, port, "").await;
    assert_eq!(gateway.ask("db.mesh.internal").await.unwrap(), "used");
    assert_eq!(gateway.ask("late.mesh.internal").await.unwrap(), "used");
    assert!(gateway.ask("nobody.mesh.internal").await.is_err());
    assert_eq!(gateway.requests().await, 0);
    gateway.stop().await;
    drop((site, tasks));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unused_service_is_given_back_and_a_full_view_has_all() {
    let tasks = TaskGroup::new("workloads", Drain::new());
    let dir = tempfile::tempdir().unwrap();
    let (plane, port) = border(dir.path()).await;
    let used = workload("used", &tasks).await;
    publish(&plane, "web", used).await;
    let data = dir.path().join("gateway");
    let gateway = Gateway::start(&data, port, "--unused-after 1s").await;
    until("a first answer", || async { gateway.ask("web.mesh.internal").await.ok() }).await;
    until("the end of its use", || async { (gateway.fetched().await == 0).then_some(()) }).await;
    let asked = gateway.requests().await;
    assert_eq!(gateway.ask("web.mesh.internal").await.unwrap(), "used", "it is fetched again");
    assert_eq!(gateway.requests().await, asked + 1);
    gateway.stop().await;

    let gateway = Gateway::start(&data, port, "--full-view").await;
    until("its answer", || async { gateway.ask("web.mesh.internal").await.ok() }).await;
    assert_eq!(gateway.requests().await, 0);
    assert!(gateway.ask("nobody.mesh.internal").await.is_err());
    gateway.stop().await;
    drop((plane, tasks, Duration::ZERO));
}
