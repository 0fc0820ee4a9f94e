//! gRPC clients without a proxy: the libraries of Python and Node, each told of the mesh by an agent's socket.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::post;
use futures::stream;
use http::HeaderMap;
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use isthmus_agent::{Enrollment, Registration, Workload, enroll};
use isthmus_lifecycle::{Drain, SystemClock, TaskGroup};
use isthmus_model::Locality;
use isthmus_model::token::{Grant, JoinToken};
use isthmus_resources::Kind;
use isthmus_tls::{ClientAuth, Identity};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::plane::{Plane, host_token, soon, until};

/// What clients dial: the name of a ServiceEntry and its port.
const TARGET: &str = "xds:///stock.shop.mesh.internal:80";

/// Where `tests/peers.sh` put the libraries.
fn peers() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(3).unwrap().join("peers")
}

/// A service that answers with its own name; over mutual TLS when it has an identity.
async fn serve(name: &'static str, identity: Option<Identity>, tasks: &TaskGroup) -> SocketAddr {
    let answer = move || async move {
        let mut message = vec![0];
        message.extend(u32::try_from(name.len()).unwrap().to_be_bytes());
        message.extend(name.as_bytes());
        let trailers: HeaderMap =
            [("grpc-status".parse().unwrap(), "0".parse().unwrap())].into_iter().collect();
        let frames = [Frame::data(axum::body::Bytes::from(message)), Frame::trailers(trailers)];
        let body =
            Body::new(http_body_util::StreamBody::new(stream::iter(frames.map(Ok::<_, std::io::Error>))));
        Response::builder().header("content-type", "application/grpc").body(body).unwrap()
    };
    let routes = Router::new().route("/shop.Stock/Who", post(answer));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (group, stop) = (tasks.clone(), tasks.signal());
    tasks.spawn_infallible("server", async move {
        loop {
            let stream = tokio::select! {
                () = stop.stopping() => return,
                accepted = listener.accept() => accepted.unwrap().0,
            };
            let (service, identity, cut) =
                (TowerToHyperService::new(routes.clone()), identity.clone(), stop.clone());
            group.spawn_infallible("connection", async move {
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let serving = async {
                    match identity {
                        None => drop(server.serve_connection(TokioIo::new(stream), service).await),
                        Some(identity) => {
                            let tls = isthmus_tls::Terminator::without_sessions(
                                &identity,
                                ClientAuth::Required,
                                &[b"h2"],
                            );
                            let shaken = tls.accept(stream, Duration::from_secs(5)).await;
                            let Ok((stream, _)) = shaken else { return };
                            drop(server.serve_connection(TokioIo::new(stream), service).await);
                        }
                    }
                };
                tokio::select! {
                    () = cut.stopping() => {}
                    () = serving => {}
                }
            });
        }
    });
    address
}

fn entry(addresses: &[SocketAddr]) -> serde_json::Value {
    let endpoint = |address: &SocketAddr| json!({"address": address.ip().to_string(), "ports": {"grpc": address.port()}, "serviceAccount": "db"});
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": "stock", "namespace": "shop"},
        "spec": {
            "hosts": ["stock.shop.mesh.internal"], "location": "MESH_INTERNAL", "resolution": "STATIC",
            "ports": [{"number": 80, "name": "grpc", "protocol": "GRPC"}],
            "endpoints": addresses.iter().map(endpoint).collect::<Vec<_>>(),
        },
    })
}

/// An agent's socket for gRPC clients, for ServiceAccount `shop/web`.
async fn agent(plane: &Plane, data: &Path, tasks: &TaskGroup) -> PathBuf {
    let token = JoinToken {
        grant: Grant::Host(vec!["shop/web".parse().unwrap()]),
        cluster: "east".parse().unwrap(),
        network: "east".parse().unwrap(),
        addresses: vec![plane.grpc.to_string().into()],
        server_name: "default.east.federation.isthmus.internal".into(),
        roots: plane.site.ca.roots_pem().into(),
        bearer: host_token(&plane.admin, "shop/web").await.into(),
    };
    let enrolled = enroll(Enrollment {
        data_dir: data.to_path_buf(),
        token: Some(token),
        service_account: Some("shop/web".parse().unwrap()),
        hostname: "host1".into(),
        mark: None,
        leaf_ttl: None,
        patience: None,
        clock: Arc::new(SystemClock),
    })
    .await
    .unwrap();
    let workload = Workload {
        kind: "sidecar",
        name: "web-1".into(),
        workload: "web".into(),
        labels: [("app", "web")].into_iter().collect(),
        ports: Vec::new(),
        addresses: vec!["127.0.0.1".parse().unwrap()],
        locality: Locality::default(),
        registration: Registration::None,
        health_checked: false,
        dns_capture: false,
        network_view: None,
    };
    let node = workload.node(&enrolled.membership);
    isthmus_agent::grpc::serve(&enrolled.data, node, &enrolled.connector, tasks).unwrap();
    isthmus_agent::grpc::bootstrap_file(data)
}

/// A client's process.
struct Client {
    name: &'static str,
    _process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Client {
    /// `python`, `python-mesh` (with the mesh's certificates) or `node`.
    fn start(name: &'static str, bootstrap: &Path) -> Self {
        let script = |file: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/grpc").join(file);
        let mut command = match name {
            "node" => {
                let mut command = Command::new("node");
                command.arg(script("client.js")).env("NODE_PATH", peers().join("node_modules")).arg(TARGET);
                command
            }
            _ => {
                let mut command = Command::new("python3");
                let credentials = if name == "python-mesh" { "mesh" } else { "none" };
                command
                    .arg(script("client.py"))
                    .args([TARGET, credentials])
                    .env("PYTHONPATH", peers().join("python"));
                command
            }
        };
        command
            .env("GRPC_XDS_BOOTSTRAP", bootstrap)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut process = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}; run `make test`"));
        let (input, output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        Self { name, _process: process, input, output: BufReader::new(output).lines() }
    }

    /// Who answered so many calls, and how often.
    async fn call(&mut self, times: u32) -> BTreeMap<String, u32> {
        self.input.write_all(format!("{times}\n").as_bytes()).await.unwrap();
        let line = soon(&format!("answers to {}", self.name), self.output.next_line()).await.unwrap();
        let line =
            line.unwrap_or_else(|| panic!("{} ended; its libraries come by tests/peers.sh", self.name));
        serde_json::from_str(&line).unwrap()
    }

    /// Calls until these alone answer.
    async fn reaches(&mut self, servers: &[&str]) {
        let client = tokio::sync::Mutex::new(self);
        until(&format!("answers of {servers:?} alone"), || async {
            let answers = client.lock().await.call(10).await;
            answers.keys().map(String::as_str).eq(servers.iter().copied()).then_some(())
        })
        .await;
    }
}

fn counts(pairs: &[(&str, u32)]) -> BTreeMap<String, u32> {
    pairs.iter().map(|(name, count)| ((*name).to_string(), *count)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_in_python_and_node_resolve_balance_and_follow() {
    let plane = Plane::start().await;
    let tasks = TaskGroup::new("test", Drain::new());
    let (one, two) = (serve("one", None, &tasks).await, serve("two", None, &tasks).await);
    plane.create(Kind::ServiceEntry, entry(&[one, two])).await;
    let data = tempfile::tempdir().unwrap();
    let bootstrap = agent(&plane, data.path(), &tasks).await;
    let mut clients = [Client::start("python", &bootstrap), Client::start("node", &bootstrap)];
    for client in &mut clients {
        client.reaches(&["one", "two"]).await;
        assert_eq!(client.call(20).await, counts(&[("one", 10), ("two", 10)]), "{}", client.name);
    }
    let change = json!({"spec": {"endpoints": entry(&[two])["spec"]["endpoints"]}});
    plane.admin.merge(Kind::ServiceEntry, Some("shop"), "stock", None, change).await.unwrap();
    for client in &mut clients {
        client.reaches(&["two"]).await;
    }
    // what they know outlives the control plane
    plane.stop().await;
    for client in &mut clients {
        assert_eq!(client.call(10).await, counts(&[("two", 10)]), "{}", client.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_with_the_meshs_certificates_speaks_mutual_tls_where_a_rule_says_so() {
    let plane = Plane::start().await;
    let tasks = TaskGroup::new("test", Drain::new());
    let identity = plane.site.ca.workload("east", "shop/db");
    let address = serve("sealed", Some(identity), &tasks).await;
    let rule = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": {"name": "stock", "namespace": "shop"},
        "spec": {"host": "stock.shop.mesh.internal", "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}}},
    });
    plane.create(Kind::DestinationRule, rule).await;
    plane.create(Kind::ServiceEntry, entry(&[address])).await;
    let data = tempfile::tempdir().unwrap();
    let bootstrap = agent(&plane, data.path(), &tasks).await;
    Client::start("python-mesh", &bootstrap).reaches(&["sealed"]).await;
    plane.stop().await;
}
