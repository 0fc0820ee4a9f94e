//! An agent with an Envoy, and an Envoy alone.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use isthmus_agent::envoy::admin::Admin;
use isthmus_agent::envoy::{self, Bootstrap};
use isthmus_agent::{Agent, Choice, Config, Enrollment, Ports, Registration, Workload, enroll};
use isthmus_capture::Resolvers;
use isthmus_lifecycle::{Drain, SystemClock};
use isthmus_model::Locality;
use isthmus_proto::resource::View;
use serde_json::Value;

use crate::plane::Plane;

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// What Envoy counts when it is sent something that it cannot use.
const REJECTED: &str = "/stats?format=json&filter=update_rejected$";

pub(crate) struct Beside {
    pub(crate) agent: Agent,
    drain: Drain,
}

impl Beside {
    /// An agent that joins, or finds that it has joined.
    pub(crate) async fn start(plane: Option<&Plane>, data: &Path, program: &Path) -> Self {
        let enrolled = enroll(Enrollment {
            data_dir: data.to_path_buf(),
            token: plane.map(Plane::vm_token),
            service_account: None,
            hostname: "vm-1".into(),
            mark: None,
            leaf_ttl: None,
            patience: Some(Duration::from_secs(5)),
            clock: Arc::new(SystemClock),
        })
        .await
        .unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let drain = Drain::new();
        let config = Config {
            enrolled,
            workload: Workload {
                kind: "sidecar",
                name: "mysql-1".into(),
                workload: "mysqldb-vm".into(),
                labels: [("app", "mysqldb")].into_iter().collect(),
                ports: vec![],
                addresses: vec!["127.0.0.1".parse().unwrap()],
                locality: Locality::parse("r/z/s"),
                registration: Registration::Group,
                health_checked: false,
                dns_capture: true,
                network_view: None,
            },
            ports: Ports {
                outbound: any,
                inbound: any,
                dns: vec![any],
                metrics: any,
                readiness: any,
                admin: any,
            },
            resolvers: Resolvers::default(),
            resolv_conf: None,
            capture: None,
            proxy: Choice::Envoy(envoy::Config {
                program: program.to_path_buf(),
                concurrency: std::num::NonZeroUsize::new(1),
                user: None,
                drain: Duration::from_secs(1),
                wrapper: vec![],
            }),
            probe: None,
            alive: None,
            mark: Some(isthmus_capture::MARK),
            clock: Arc::new(SystemClock),
        };
        let agent = Agent::start(config, drain.clone()).await.unwrap();
        Self { agent, drain }
    }

    pub(crate) async fn ready(&self) {
        let ready = tokio::time::timeout(PATIENCE, self.agent.ready()).await;
        assert!(ready.is_ok(), "still awaited: {:?}\n{:#}", self.agent.awaited(), self.json("/status").await);
    }

    pub(crate) async fn stop(self) {
        self.drain.graceful(Duration::from_secs(2)).await;
        assert_eq!(self.agent.finished().await, None);
    }

    /// A page of the agent's admin interface.
    pub(crate) async fn page(&self, path: &str) -> String {
        get(self.agent.addresses().admin.unwrap(), path).await
    }

    pub(crate) async fn metrics(&self) -> String {
        get(self.agent.addresses().metrics.unwrap(), "/stats/prometheus").await
    }

    pub(crate) async fn json(&self, path: &str) -> Value {
        let text = self.page(path).await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"))
    }

    /// Waits until a page says so.
    pub(crate) async fn until(&self, path: &str, what: &str, says: impl Fn(&str) -> bool) {
        let mut text = String::new();
        let wait = async {
            loop {
                text = self.page(path).await;
                if says(&text) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "{what}: {text}");
    }

    /// Envoy has refused nothing so far.
    pub(crate) async fn nothing_refused(&self) {
        assert_eq!(rejected(&self.page(&format!("/envoy{REJECTED}")).await), Vec::<String>::new());
        let status = self.json("/status").await;
        assert_eq!(status["proxy"]["refused"], serde_json::json!({}), "{status:#}");
    }
}

fn rejected(text: &str) -> Vec<String> {
    let stats: Value = serde_json::from_str(text).unwrap();
    let stats = stats["stats"].as_array().unwrap();
    assert!(!stats.is_empty(), "{text}");
    stats.iter().filter(|stat| stat["value"] != 0).map(ToString::to_string).collect()
}

async fn get(address: SocketAddr, path: &str) -> String {
    use http_body_util::BodyExt as _;
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    let request = hyper::Request::get(path)
        .header("host", "localhost")
        .header("connection", "close")
        .body(http_body_util::Empty::<bytes::Bytes>::new())
        .unwrap();
    let exchange = async {
        let response = sender.send_request(request).await.unwrap();
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    };
    tokio::join!(exchange, connection).0
}

/// The dialect of a plain Envoy's stream.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Dialect {
    World,
    Delta,
}

/// An Envoy that is told of two sockets and of nothing else.
pub(crate) struct Alone {
    child: Child,
    admin: Admin,
    log: PathBuf,
}

impl Alone {
    /// `data` is the agent's: its sockets are used.
    pub(crate) fn start(program: &Path, data: &Path, dialect: Dialect) -> Self {
        Self::start_with(program, data, dialect, |text| text)
    }

    /// The same, asking for clusters only as listeners need them.
    pub(crate) fn start_on_demand(program: &Path, data: &Path) -> Self {
        Self::start_with(program, data, Dialect::Delta, |text| {
            let mut bootstrap: Value = serde_json::from_str(&text).unwrap();
            bootstrap["dynamic_resources"].as_object_mut().unwrap().remove("cds_config").unwrap();
            bootstrap.to_string()
        })
    }

    fn start_with(program: &Path, data: &Path, dialect: Dialect, edit: impl Fn(String) -> String) -> Self {
        let own = data.join(format!("{dialect:?}").to_lowercase());
        std::fs::create_dir_all(&own).unwrap();
        let admin = Admin::new(own.join("admin"));
        let node = Node { id: format!("{dialect:?}"), cluster: "test".into(), ..Default::default() };
        let (xds, sds) = (data.join("sockets/xds"), data.join("sockets/sds"));
        let bootstrap = Bootstrap {
            node: &node,
            admin: admin.path(),
            xds: &xds,
            sds: &sds,
            mark: None,
            resolver: "127.0.0.1:53".parse().unwrap(),
            connections: 1000,
        };
        let text = match dialect {
            Dialect::World => bootstrap.json().replace("DELTA_GRPC", "GRPC"),
            Dialect::Delta => bootstrap.json(),
        };
        let (file, log) = (own.join("bootstrap.json"), own.join("log"));
        std::fs::write(&file, edit(text)).unwrap();
        let child = Command::new(program)
            .args(["--disable-hot-restart", "--concurrency", "1", "-l", "warning", "-c"])
            .arg(&file)
            .stderr(Stdio::from(std::fs::File::create(&log).unwrap()))
            .spawn()
            .unwrap();
        Self { child, admin, log }
    }

    /// Waits until it serves all listeners that have a socket in the view, and has every cluster.
    pub(crate) async fn takes(&self, view: &View) {
        let clusters = view.set(isthmus_proto::type_url::CLUSTER).unwrap().len();
        let wait = async {
            loop {
                let live = self.admin.get("/ready").await.is_ok_and(|text| text.trim() == "LIVE");
                if live && self.count("cluster_manager.active_clusters").await == clusters + 2 {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        let state = self.admin.get("/ready").await;
        assert!(
            waited.is_ok(),
            "{state:?}, {clusters} clusters: {}",
            std::fs::read_to_string(&self.log).unwrap()
        );
        assert_eq!(rejected(&self.admin.get(REJECTED).await.unwrap()), Vec::<String>::new());
    }

    /// Waits until its clusters are so.
    pub(crate) async fn has_clusters(&self, what: &str, so: impl Fn(&str) -> bool) {
        let mut text = String::new();
        let wait = async {
            loop {
                text = self.admin.get("/clusters").await.unwrap_or_default();
                if so(&text) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "{what}: {text}\n{}", std::fs::read_to_string(&self.log).unwrap());
        assert_eq!(rejected(&self.admin.get(REJECTED).await.unwrap()), Vec::<String>::new());
    }

    pub(crate) async fn count(&self, name: &str) -> usize {
        let text = self.admin.get(&format!("/stats?filter=^{name}$")).await.unwrap_or_default();
        text.trim().rsplit(' ').next().and_then(|value| value.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
