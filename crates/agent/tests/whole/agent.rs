use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use isthmus_agent::health::Schedule;
use isthmus_agent::{Agent, Choice, Config, Ports, Registration, Workload, enroll};
use isthmus_capture::Resolvers;
use isthmus_lifecycle::{Drain, SystemClock};
use isthmus_model::Locality;
use isthmus_model::token::JoinToken;
use isthmus_xds::HealthReport;
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::join::enrollment;
use crate::plane::{Mesh, Plane};
use crate::resources::world;

const PATIENCE: Duration = Duration::from_secs(15);

fn ports() -> Ports {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    Ports { outbound: any, inbound: any, dns: vec![any], metrics: any, readiness: any, admin: any }
}

struct Running {
    agent: Agent,
    drain: Drain,
}

impl Running {
    async fn start(data: &Path, token: Option<JoinToken>, probed: Option<u16>) -> Self {
        let enrolled = enroll(enrollment(data, token)).await.unwrap();
        let drain = Drain::new();
        let schedule = Schedule { period: Duration::from_millis(50), ..Schedule::default() };
        let config = Config {
            enrolled,
            workload: Workload {
                kind: "sidecar",
                name: "mysql-1".into(),
                workload: "mysqldb-vm".into(),
                labels: [("app", "mysqldb")].into_iter().collect(),
                ports: vec![("tcp".into(), 3306)],
                addresses: vec!["127.0.0.1".parse().unwrap()],
                locality: Locality::default(),
                registration: Registration::Group,
                health_checked: true,
                dns_capture: true,
                network_view: None,
            },
            ports: ports(),
            resolvers: Resolvers::default(),
            resolv_conf: None,
            capture: None,
            proxy: Choice::Isthmus,
            probe: probed.map(|port| (schedule, format!("tcp:{port}").parse().unwrap())),
            alive: None,
            mark: None,
            clock: Arc::new(SystemClock),
        };
        let agent = Agent::start(config, drain.clone()).await.unwrap();
        Self { agent, drain }
    }

    async fn ready(&self) {
        let ready = tokio::time::timeout(PATIENCE, self.agent.ready()).await;
        assert!(ready.is_ok(), "still awaited: {:?}", self.agent.awaited());
    }

    /// What DNS says of a name; none when it fails.
    async fn resolve(&self, name: &str) -> Option<String> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut query = Message::new(1, MessageType::Query, OpCode::Query);
        query.add_query(Query::query(Name::from_str(name).unwrap(), RecordType::A));
        socket.send_to(&query.to_vec().unwrap(), self.agent.addresses().dns[0]).await.unwrap();
        let mut buffer = [0; 512];
        let (length, _) =
            tokio::time::timeout(PATIENCE, socket.recv_from(&mut buffer)).await.unwrap().unwrap();
        let reply = Message::from_vec(&buffer[..length]).unwrap();
        let answered = reply.metadata.response_code == ResponseCode::NoError;
        reply.answers.first().filter(|_| answered).map(|answer| answer.data.to_string())
    }

    /// Waits until DNS says so.
    async fn resolves(&self, name: &str, expected: Option<&str>) {
        let wait = async {
            while self.resolve(name).await.as_deref() != expected {
                tokio::task::yield_now().await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "{name} does not become {expected:?}");
    }

    async fn admin(&self, path: &str) -> serde_json::Value {
        let (status, body) = get(self.agent.addresses().admin.unwrap(), path, "localhost").await;
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    async fn stop(self) {
        self.drain.graceful(Duration::ZERO).await;
        assert_eq!(self.agent.finished().await, None);
    }
}

async fn get(address: SocketAddr, path: &str, host: &str) -> (u16, String) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let request = hyper::Request::get(path)
        .header("host", host)
        .header("connection", "close")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let exchange = async {
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        (
            status,
            String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap(),
        )
    };
    tokio::join!(exchange, connection).0
}

async fn plane() -> Plane {
    let plane = Plane::start().await;
    plane.mesh.publish(world("mysql.example", "240.240.0.1", ("192.0.2.7", 3306)));
    plane
}

#[tokio::test]
async fn an_agent_runs_where_no_socket_can_be() {
    let plane = Plane::start().await;
    plane.mesh.publish(world("mysql.example", "240.240.0.1", ("192.0.2.7", 3306)));
    let data = tempfile::tempdir().unwrap();
    // The path of a Unix socket has at most 107 bytes.
    let data = data.path().join("a".repeat(100));
    std::fs::create_dir(&data).unwrap();
    let left = isthmus_agent::grpc::bootstrap_file(&data);
    std::fs::write(&left, "an earlier run's").unwrap();
    let running = Running::start(&data, Some(plane.vm_token()), None).await;
    running.ready().await;
    assert!(!left.exists(), "clients are not sent to where nobody listens");
    running.stop().await;
}

#[tokio::test]
async fn an_agent_is_ready_when_everything_has_come_once() {
    let plane = Plane::start().await;
    let data = tempfile::tempdir().unwrap();
    let running = Running::start(data.path(), Some(plane.vm_token()), None).await;
    let (status, body) = get(running.agent.addresses().readiness.unwrap(), "/healthz/ready", "any").await;
    assert_eq!(status, 503);
    assert!(body.contains("clusters") && body.contains("names"), "{body}");
    assert_eq!(running.resolve("mysql.example.").await, None);
    plane.mesh.publish(world("mysql.example", "240.240.0.1", ("192.0.2.7", 3306)));
    running.ready().await;
    assert_eq!(get(running.agent.addresses().readiness.unwrap(), "/healthz/ready", "any").await.0, 200);
    assert_eq!(running.resolve("mysql.example.").await.as_deref(), Some("240.240.0.1"));
    let node = plane.mesh.nodes.lock()[0].clone();
    assert_eq!(node.id, "sidecar~127.0.0.1~mysql-1.vm~vm.svc.cluster.local");
    running.stop().await;
}

#[tokio::test]
async fn people_can_ask_the_agent_and_web_pages_cannot() {
    let plane = plane().await;
    let data = tempfile::tempdir().unwrap();
    let running = Running::start(data.path(), Some(plane.vm_token()), None).await;
    running.ready().await;
    let status = running.admin("/status").await;
    assert_eq!(status["identity"], "spiffe://cluster.local/ns/vm/sa/mysql");
    assert_eq!(status["controlPlane"]["connection"]["state"], "Connected");
    assert_eq!(status["awaited"], serde_json::json!([]));
    assert_eq!(running.admin("/names").await["mysql.example."][0], "240.240.0.1");
    assert!(running.admin("/certs").await[0]["secondsLeft"].as_i64().unwrap() > 3600);
    let admin = running.agent.addresses().admin.unwrap();
    assert_eq!(get(admin, "/status", "evil.example").await.0, 403);
    let (_, metrics) = get(running.agent.addresses().metrics.unwrap(), "/metrics", "any").await;
    assert!(metrics.contains("istio_agent_dns_requests_total"), "{metrics}");
    assert!(metrics.contains("istio_agent_cert_not_after_timestamp_seconds"), "{metrics}");
    running.stop().await;
}

#[tokio::test]
async fn an_agent_restarts_from_disk_with_every_control_plane_gone_and_catches_up_later() {
    let plane = plane().await;
    let data = tempfile::tempdir().unwrap();
    let running = Running::start(data.path(), Some(plane.vm_token()), None).await;
    running.ready().await;
    running.stop().await;
    let address = plane.address;
    let mesh: Arc<Mesh> = plane.stop().await;

    let running = Running::start(data.path(), None, None).await;
    running.ready().await;
    assert_eq!(running.resolve("mysql.example.").await.as_deref(), Some("240.240.0.1"));

    // Meanwhile another service came and this one vanished.
    mesh.publish(world("other.example", "240.240.0.2", ("192.0.2.8", 3306)));
    let plane = Plane::start_at(address, mesh).await;
    running.resolves("other.example.", Some("240.240.0.2")).await;
    running.resolves("mysql.example.", None).await;
    let gone = async {
        while running.admin("/clusters").await.to_string().contains("mysql.example") {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, gone).await.is_ok(), "{}", running.admin("/clusters").await);
    assert!(running.admin("/clusters").await.to_string().contains("other.example"));
    running.stop().await;
    plane.stop().await;
}

#[tokio::test]
async fn health_is_reported_when_it_turns_and_again_on_a_new_stream() {
    let plane = plane().await;
    let data = tempfile::tempdir().unwrap();
    let workload = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = workload.local_addr().unwrap().port();
    let running = Running::start(data.path(), Some(plane.vm_token()), Some(port)).await;
    let mut seen = plane.mesh.healths.subscribe();
    seen.wait_for(|count| *count == 1).await.unwrap();
    assert_eq!(plane.mesh.health.lock()[0], HealthReport::Healthy);
    drop(workload);
    seen.wait_for(|count| *count == 2).await.unwrap();
    let HealthReport::Unhealthy(reason) = plane.mesh.health.lock()[1].clone() else { panic!("healthy") };
    assert!(reason.contains(&format!("127.0.0.1:{port}")), "{reason}");

    let address = plane.address;
    let mesh = plane.stop().await;
    let plane = Plane::start_at(address, mesh).await;
    seen.wait_for(|count| *count == 3).await.unwrap();
    assert!(matches!(plane.mesh.health.lock()[2], HealthReport::Unhealthy(_)));
    running.stop().await;
}

#[tokio::test]
async fn a_stopping_workload_says_so_before_it_goes() {
    let plane = plane().await;
    let data = tempfile::tempdir().unwrap();
    let workload = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let running =
        Running::start(data.path(), Some(plane.vm_token()), Some(workload.local_addr().unwrap().port()))
            .await;
    let mut seen = plane.mesh.healths.subscribe();
    seen.wait_for(|count| *count == 1).await.unwrap();
    running.agent.farewell().await;
    assert_eq!(plane.mesh.health.lock()[1], HealthReport::Unhealthy("the workload is stopping".into()));
    running.stop().await;
}
