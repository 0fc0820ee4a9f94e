//! The same life with an Envoy as the proxy: traffic through it, a renewal under open connections, its end and its agent's.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use isthmus_envoy::ProxyKind::Sidecar;
use isthmus_proto::resource::View;
use isthmus_resources::mesh::{Mesh, MeshConfig};
use isthmus_testkit::namespace::inside;
use isthmus_tls::{ClientCertificate, Expected};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::{HERE, POD, World, line, send, translate};

const PATIENCE: Duration = Duration::from_secs(30);

/// A workload that answers with what it hears.
const ECHO: &str = "exec python3 -uc '
import socketserver
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)
socketserver.ThreadingTCPServer.allow_reuse_address = True
server = socketserver.ThreadingTCPServer((\"0.0.0.0\", 9080), Echo)
print(\"up\")
server.serve_forever()'";

const MESH: &str = "
{apiVersion: v1, kind: Service, metadata: {name: reviews, namespace: default}, spec: {clusterIP: 10.99.0.1, selector: {app: reviews}, ports: [{name: tcp, port: 9080}]}}
---
{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: default, namespace: istio-system}, spec: {mtls: {mode: STRICT}}}
---
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: outside, namespace: default}, spec: {hosts: [outside.example], addresses: [10.99.0.2], location: MESH_EXTERNAL, resolution: STATIC, ports: [{number: 7000, name: tcp, protocol: TCP}], endpoints: [{address: 10.79.0.1}]}}
---
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: named, namespace: default}, spec: {hosts: [named.example], addresses: [10.99.0.3], location: MESH_EXTERNAL, resolution: DNS, ports: [{number: 7000, name: tcp, protocol: TCP}], endpoints: [{address: a.example}]}}
";

/// The world of the other tests with what our translation makes of a small mesh, and an Envoy.
struct Story {
    world: World,
    program: PathBuf,
}

impl Story {
    /// None where there is no Envoy.
    fn new(test: &str) -> Option<Self> {
        let program = isthmus_testkit::envoy::program(test)?;
        let world = World::new();
        let mut translation = translate::World::new("west", &[MESH]);
        let (config, _) = MeshConfig::read("accessLogFile: /dev/stdout").unwrap();
        translation.registry.set_mesh(Mesh { config, ..Mesh::default() });
        let mut proxy = translation.proxy(Sidecar, "default", "reviews-v2", &POD.to_string());
        proxy.labels = [("app", "reviews")].into_iter().collect();
        let view = translation.view(&proxy);
        world.mesh.views.send_modify(|now| {
            *now = Arc::new(View { version: now.version + 1, sets: view.sets.clone() });
        });
        Some(Self { world, program })
    }

    fn sidecar(&self, flags: &[&str]) -> Command {
        let data = self.world.data.path();
        let mut command = self.world.host.command(env!("CARGO_BIN_EXE_isthmus-sidecar"));
        command
            .args(["run", "--service-account", "default/reviews", "--labels", "app=reviews,version=v2"])
            .args(["--name", "reviews-v2", "--port", "tcp=9080", "--drain", "1s", "--proxy", "envoy"])
            .arg("--envoy-path")
            .arg(&self.program)
            .args(flags)
            .arg("--data-dir")
            .arg(data.join("agent"))
            .arg("--token-file")
            .arg(data.join("token"))
            .args(["--", "sh", "-c", ECHO])
            .stdout(Stdio::piped());
        command
    }

    /// Envoys of this story that run now: processes, and users that they run as.
    fn envoys(&self) -> Vec<(i32, u32)> {
        let bootstrap = self.world.data.path().join("agent/envoy-bootstrap.json");
        let bootstrap = bootstrap.to_str().unwrap();
        let all = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let of = |entry: std::fs::DirEntry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let line = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
            let becoming = line.contains("become");
            (line.contains(bootstrap) && !becoming).then_some((pid, entry.metadata().ok()?.uid()))
        };
        all.filter_map(of).collect()
    }

    fn curl(&self, url: &str) -> String {
        let output = self.world.host.command("curl").args(["-s", "-m", "5", url]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A client of the mesh, outside: the serial of the certificate that it is shown, and the connection.
    fn client(&self) -> Option<(Arc<str>, tokio_rustls::client::TlsStream<TcpStream>)> {
        let identity = self.world.mesh.ca.workload("west", "default/ratings");
        let expected = "spiffe://cluster.local/ns/default/sa/reviews".parse().unwrap();
        let expected = Expected::Spiffe(Arc::new(BTreeSet::from([expected])));
        let config = isthmus_tls::client_config(&identity, expected, &[b"istio"], ClientCertificate::Send);
        self.world.runtime.block_on(async {
            let stream = TcpStream::connect(SocketAddr::from((POD, 9080))).await.ok()?;
            let name = "outbound_.9080_._.reviews.default.svc.cluster.local".to_string().try_into().unwrap();
            let (stream, peer) = isthmus_tls::connect(stream, &config, name, PATIENCE).await.ok()?;
            Some((Arc::clone(&peer.serial), stream))
        })
    }

    /// Says a line and hears it again.
    fn echoes(&self, stream: &mut tokio_rustls::client::TlsStream<TcpStream>, text: &str) -> bool {
        self.world.runtime.block_on(async {
            let mut heard = vec![0; text.len()];
            let exchange = async {
                stream.write_all(text.as_bytes()).await?;
                stream.flush().await?;
                stream.read_exact(&mut heard).await
            };
            let done = tokio::time::timeout(PATIENCE, exchange).await;
            matches!(done, Ok(Ok(_))) && heard == text.as_bytes()
        })
    }
}

/// Answers every question for an address with `HERE`, on the resolver that the other host has.
fn answer_names() {
    let socket = UdpSocket::bind((HERE, 53)).unwrap();
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut query) {
            let question = &query[12..length];
            let end = question.iter().position(|byte| *byte == 0).unwrap() + 5;
            let address = question[end - 3] == 1;
            // The same number; an answer, recursion available; one question.
            let mut reply = [&query[..2], &[0x81, 0x80, 0, 1, 0, u8::from(address), 0, 0, 0, 0]].concat();
            reply.extend_from_slice(&question[..end]);
            if address {
                reply.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                reply.extend_from_slice(&HERE.octets());
            }
            let _ = socket.send_to(&reply, peer);
        }
    });
}

/// Answers one request with `hello`; who asked.
fn answer_once() -> std::thread::JoinHandle<std::net::IpAddr> {
    let outside = TcpListener::bind((HERE, 7000)).unwrap();
    std::thread::spawn(move || {
        let (mut stream, peer) = outside.accept().unwrap();
        let mut request = [0; 512];
        let _ = stream.read(&mut request).unwrap();
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nhello").unwrap();
        peer.ip()
    })
}

/// Reads what agent and workload write, to the line of Envoy's access log that speaks of this cluster.
fn logged(child: &mut std::process::Child, cluster: &str) {
    let mut read = String::new();
    while !read.contains(cluster) {
        read = line(child);
        assert!(!read.is_empty(), "its output ends");
    }
    assert!(read.starts_with('[') && read.contains("] \"- - -\" 0 - "), "{read}");
}

/// Waits until it is so.
fn until(what: &str, mut so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn traffic_goes_through_envoy_and_a_renewal_breaks_no_connection() {
    const TEST: &str = "envoy::traffic_goes_through_envoy_and_a_renewal_breaks_no_connection";
    inside(TEST, || {
        let Some(story) = Story::new(TEST) else { return };
        answer_names();
        let mut child = story.sidecar(&["--leaf-ttl", "6s"]).spawn().unwrap();
        assert_eq!(line(&mut child), "up");
        let (first, mut open) = story.client().unwrap();
        assert!(story.echoes(&mut open, "one\n"));
        until("a new certificate", || story.client().is_some_and(|(serial, _)| serial != first));
        assert!(story.echoes(&mut open, "two\n"), "a renewal ended an open connection");

        // Outbound: captured, found by the service's address, marked, and not captured again.
        let answer = answer_once();
        assert_eq!(story.curl("http://10.99.0.2:7000/"), "hello");
        assert_eq!(answer.join().unwrap(), std::net::IpAddr::from(POD));
        // A name that the host's own resolver knows.
        until("a resolved name", || {
            story.curl("http://127.0.0.1:15000/envoy/clusters").contains("named.example::10.79.0.1:7000")
        });
        let answer = answer_once();
        assert_eq!(story.curl("http://10.99.0.3:7000/"), "hello");
        answer.join().unwrap();
        let stats =
            story.curl("http://127.0.0.1:15000/envoy/stats?filter=cluster.outbound.7000.*upstream_cx_total");
        assert!(stats.contains("outside.example") && stats.trim().ends_with(": 1"), "{stats}");
        logged(&mut child, "outbound|7000||outside.example");

        // An open connection ends in order: within its drain.
        send(&child, Signal::SIGTERM);
        child.wait().unwrap();
        assert!(story.envoys().is_empty());
    });
}

#[test]
fn an_envoy_that_dies_comes_back_and_one_whose_agent_dies_goes() {
    const TEST: &str = "envoy::an_envoy_that_dies_comes_back_and_one_whose_agent_dies_goes";
    inside(TEST, || {
        let Some(story) = Story::new(TEST) else { return };
        let mut child = story.sidecar(&[]).spawn().unwrap();
        assert_eq!(line(&mut child), "up");
        let before = story.envoys();
        assert_eq!(before.len(), 1, "{before:?}");
        kill(Pid::from_raw(before[0].0), Signal::SIGKILL).unwrap();
        let ready = || story.curl("http://127.0.0.1:15021/healthz/ready");
        until("not ready without it", || ready().contains("envoy"));
        until("ready with another one", || ready() == "ready\n");
        assert_ne!(story.envoys()[0].0, before[0].0);
        let (_, mut open) = story.client().unwrap();
        assert!(story.echoes(&mut open, "again\n"));
        send(&child, Signal::SIGKILL);
        child.wait().unwrap();
        until("it ends with its agent", || story.envoys().is_empty());
    });
}

#[test]
fn an_envoy_may_run_as_another_user() {
    const TEST: &str = "envoy::an_envoy_may_run_as_another_user";
    inside(TEST, || {
        let Some(mut story) = Story::new(TEST) else { return };
        let users = std::fs::read_to_string("/proc/self/uid_map").unwrap();
        if !users.contains("4294967295") {
            eprintln!("skipped: {TEST} needs root, which has other users");
            return;
        }
        // Whoever it is, it finds its way there, and the program.
        let data = story.world.data.path();
        std::fs::set_permissions(data, std::fs::Permissions::from_mode(0o711)).unwrap();
        let program = data.join("envoy");
        let found =
            Command::new("sh").args(["-c", "command -v \"$0\""]).arg(&story.program).output().unwrap();
        std::fs::copy(String::from_utf8_lossy(&found.stdout).trim(), &program).unwrap();
        story.program = program;
        let mut child = story.sidecar(&["--proxy-uid", "1337"]).spawn().unwrap();
        assert_eq!(line(&mut child), "up");
        assert_eq!(story.envoys().iter().map(|(_, user)| *user).collect::<Vec<_>>(), [1337]);
        let (_, mut open) = story.client().unwrap();
        assert!(story.echoes(&mut open, "one\n"));
        let answer = answer_once();
        assert_eq!(story.curl("http://10.99.0.2:7000/"), "hello");
        answer.join().unwrap();
        logged(&mut child, "outbound|7000||outside.example");
        let data = story.world.data.path().join("agent");
        // Where it may write nothing is given to it: a link there would be followed.
        let owner = |path: &str| std::fs::metadata(data.join(path)).unwrap().uid();
        assert_eq!((owner(""), owner("envoy-bootstrap.json"), owner("envoy")), (0, 1337, 1337));
        let mode = |path: &str| std::fs::metadata(data.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("identity"), mode("identity/key.pem")), (0o700, 0o600));
        send(&child, Signal::SIGTERM);
        child.wait().unwrap();
    });
}

#[test]
fn without_an_envoy_the_error_says_how_to_get_one() {
    inside("envoy::without_an_envoy_the_error_says_how_to_get_one", || {
        let story = Story { world: World::new(), program: "/no/such/envoy".into() };
        let output = story.sidecar(&[]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("/no/such/envoy: no such program") && said.contains("install Envoy 1.40"),
            "{said}"
        );
    });
}
