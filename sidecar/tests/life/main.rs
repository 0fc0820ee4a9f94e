//! A workload's life with the real program, in network namespaces.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../../../crates/agent/tests/whole/plane.rs"]
mod plane;
#[path = "../../../crates/agent/tests/whole/resources.rs"]
mod resources;
#[allow(dead_code, reason = "the tests of the translation use more of it")]
#[path = "../../../crates/envoy/tests/translate/world.rs"]
mod translate;

mod envoy;

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use envoy_types::pb::google::protobuf::value::Kind;
use isthmus_testkit::namespace::{Host, inside};
use isthmus_xds::HealthReport;
use nix::sys::signal::Signal;

use plane::{Mesh, Plane};
use resources::world;

const HERE: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 1);
const POD: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 2);

struct World {
    runtime: tokio::runtime::Runtime,
    mesh: Arc<Mesh>,
    host: Host,
    data: tempfile::TempDir,
    _plane: Plane,
}

impl World {
    fn new() -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let host = Host::new(HERE, POD);
        let plane = runtime.block_on(Plane::start_at((HERE, 15012).into(), Mesh::new()));
        plane.mesh.publish(world("mysql.example", "240.240.0.1", ("192.0.2.7", 3306)));
        let data = tempfile::tempdir().unwrap();
        std::fs::write(data.path().join("token"), plane.host_token().to_string()).unwrap();
        Self { runtime, mesh: Arc::clone(&plane.mesh), host, data, _plane: plane }
    }

    fn sidecar(&self, workload: &str) -> Command {
        let mut command = self.host.command(env!("CARGO_BIN_EXE_isthmus-sidecar"));
        command
            .args(["run", "--service-account", "default/reviews", "--labels", "app=reviews,version=v2"])
            .args(["--name", "reviews-v2", "--port", "http=9080", "--data-dir"])
            .arg(self.data.path().join("agent"))
            .arg("--token-file")
            .arg(self.data.path().join("token"))
            .args(["--", "sh", "-c", workload])
            .stdout(Stdio::piped());
        command
    }

    fn healths(&self, count: usize) {
        let mut seen = self.mesh.healths.subscribe();
        self.runtime.block_on(seen.wait_for(|reports| *reports >= count)).unwrap();
    }
}

/// The next line that the workload says.
fn line(child: &mut Child) -> String {
    let mut text = String::new();
    let mut byte = BufReader::with_capacity(1, child.stdout.as_mut().unwrap());
    byte.read_line(&mut text).unwrap();
    text.trim_end().to_string()
}

fn send(child: &Child, signal: Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

#[test]
fn a_workload_starts_when_its_agent_is_ready_and_its_exit_code_is_passed_on() {
    inside("a_workload_starts_when_its_agent_is_ready_and_its_exit_code_is_passed_on", || {
        let world = World::new();
        // Ready means: capture in force, names answered, the metadata told.
        let workload = "nft list table inet isthmus | grep -c redirect; ulimit -Sn; exit 7";
        let output = world.sidecar(workload).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let limit = Command::new("sh").args(["-c", "ulimit -Sn"]).output().unwrap();
        let limit = String::from_utf8_lossy(&limit.stdout).into_owned();
        let lines: Vec<&str> = said.lines().collect();
        assert!(
            lines.first().is_some_and(|count| count.parse::<u32>().is_ok_and(|rules| rules > 3)),
            "{output:?}"
        );
        assert_eq!(lines.get(1).copied(), Some(limit.trim()));
        assert_eq!(output.status.code(), Some(7), "{output:?}");
        let node = world.mesh.nodes.lock()[0].clone();
        assert_eq!(node.id, format!("sidecar~{POD}~reviews-v2.default~default.svc.cluster.local"));
        let register = node.metadata.unwrap().fields["ISTHMUS_REGISTER"].kind.clone();
        assert_eq!(register, Some(Kind::StringValue("pod".into())));
        // Nothing is left behind.
        let rules = world.host.command("nft").args(["list", "ruleset"]).output().unwrap();
        assert!(rules.stdout.is_empty(), "{rules:?}");

        let missing = world.sidecar("exec /no/such/program").output().unwrap();
        assert_eq!(missing.status.code(), Some(127), "{missing:?}");
    });
}

#[test]
fn signals_reach_the_workload_and_peers_hear_that_it_stops() {
    inside("signals_reach_the_workload_and_peers_hear_that_it_stops", || {
        let world = World::new();
        let workload =
            "trap 'echo reload' HUP; trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done";
        let mut child = world.sidecar(workload).spawn().unwrap();
        assert_eq!(line(&mut child), "up");
        world.healths(1);
        assert_eq!(world.mesh.health.lock().last(), Some(&HealthReport::Healthy));
        send(&child, Signal::SIGHUP);
        assert_eq!(line(&mut child), "reload");
        send(&child, Signal::SIGTERM);
        assert_eq!(line(&mut child), "bye");
        assert_eq!(child.wait().unwrap().code(), Some(3));
        assert!(
            matches!(&world.mesh.health.lock()[1], HealthReport::Unhealthy(reason) if reason.contains("stopping"))
        );
    });
}

#[test]
fn a_workload_ends_with_an_agent_that_is_killed() {
    inside("a_workload_ends_with_an_agent_that_is_killed", || {
        let world = World::new();
        let mut child = world.sidecar("echo $$; exec sleep 60").spawn().unwrap();
        assert!(line(&mut child).parse::<u32>().is_ok());
        let began = Instant::now();
        send(&child, Signal::SIGKILL);
        child.wait().unwrap();
        // The workload held the pipe too: its end closes when both have ended.
        assert_eq!(line(&mut child), "");
        assert!(began.elapsed() < Duration::from_secs(30), "it ended by itself");
        // And everything starts again from disk.
        let again = world.sidecar("exit 0").output().unwrap();
        assert!(again.status.success(), "{again:?}");
    });
}
