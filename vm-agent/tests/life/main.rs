//! A VM's life with the real program, in network namespaces: join, capture in both directions, SIGKILL, restart, stop, leave.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../../../crates/agent/tests/whole/plane.rs"]
mod plane;
#[path = "../../../crates/agent/tests/whole/resources.rs"]
mod resources;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use isthmus_testkit::namespace::{Host, inside};
use isthmus_tls::{ClientCertificate, Expected};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use plane::{Mesh, Plane};
use resources::world;

const HERE: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);
const VM: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);
const SERVICE: Ipv4Addr = Ipv4Addr::new(240, 240, 0, 1);
const PATIENCE: Duration = Duration::from_secs(20);

fn connect(ip: Ipv4Addr, port: u16) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::from((ip, port)), Duration::from_secs(2))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Says its name to whoever connects, for as long as the test runs.
fn greeter(listener: TcpListener, name: &'static str) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.and_then(|mut stream| stream.write_all(name.as_bytes()));
        }
    });
}

fn hear(mut stream: TcpStream) -> std::io::Result<String> {
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Tries until it holds.
fn within(what: &str, mut holds: impl FnMut() -> Result<(), String>) -> Duration {
    let began = Instant::now();
    loop {
        match holds() {
            Ok(()) => return began.elapsed(),
            Err(problem) => assert!(began.elapsed() < PATIENCE, "{what}: {problem}"),
        }
        std::thread::yield_now();
    }
}

struct Vm {
    host: Host,
    data: tempfile::TempDir,
}

impl Vm {
    fn agent(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.command(env!("CARGO_BIN_EXE_isthmus-vm-agent"));
        command.args(arguments).arg("--data-dir").arg(self.data.path().join("agent"));
        command
    }

    fn run(&self) -> Running {
        let log = std::fs::File::create(self.data.path().join("log")).unwrap();
        let child = self.agent(&["run"]).stdin(Stdio::null()).stderr(log).spawn().unwrap();
        let running = Running(child);
        within("readiness", || {
            let mut stream = connect(VM, 15021).map_err(|error| error.to_string())?;
            stream.write_all(b"GET /healthz/ready HTTP/1.0\r\n\r\n").map_err(|error| error.to_string())?;
            let answer = hear(stream).map_err(|error| error.to_string())?;
            let log = || std::fs::read_to_string(self.data.path().join("log")).unwrap_or_default();
            if answer.contains("ready\n") { Ok(()) } else { Err(format!("{answer}\n{}", log())) }
        });
        running
    }

    fn rules(&self) -> String {
        let output = self.host.command("nft").args(["list", "ruleset"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

/// nsenter becomes the agent, so its process is the agent's.
struct Running(Child);

impl Running {
    fn signal(&mut self, signal: nix::sys::signal::Signal) -> std::process::ExitStatus {
        let id = nix::unistd::Pid::from_raw(self.0.id().try_into().unwrap());
        nix::sys::signal::kill(id, signal).unwrap();
        self.0.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a member of the mesh hears on a port of the VM, by mutual TLS.
async fn hear_as_member(mesh: &Mesh, port: u16) -> Result<String, String> {
    let identity = mesh.ca.workload("west", "default/ratings");
    let vm = "spiffe://cluster.local/ns/vm/sa/mysql".parse().unwrap();
    let expected = Expected::Spiffe(std::sync::Arc::new([vm].into()));
    let config = isthmus_tls::client_config(&identity, expected, &[b"istio"], ClientCertificate::Send);
    let stream = tokio::net::TcpStream::connect((VM, port)).await.map_err(|error| error.to_string())?;
    let name = "outbound_.3306_._.mysql.example".try_into().unwrap();
    let (mut stream, _) =
        isthmus_tls::connect(stream, &config, name, PATIENCE).await.map_err(|error| error.to_string())?;
    stream.write_all(b"hello").await.map_err(|error| error.to_string())?;
    let mut text = [0; 5];
    stream.read_exact(&mut text).await.map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn ask_dns(host: &Host) -> Option<Ipv4Addr> {
    let socket = host.there(|| std::net::UdpSocket::bind((VM, 0)).unwrap());
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0".to_vec();
    query.extend_from_slice(b"\x05mysql\x07example\0\0\x01\0\x01");
    socket.send_to(&query, (HERE, 53)).unwrap();
    let mut reply = [0; 512];
    let (length, from) = socket.recv_from(&mut reply).ok()?;
    assert_eq!(from, SocketAddr::from((HERE, 53)));
    let address: [u8; 4] = reply[length.checked_sub(4)?..length].try_into().ok()?;
    Some(address.into())
}

#[test]
fn a_vm_lives_in_the_mesh() {
    inside("a_vm_lives_in_the_mesh", story);
}

fn story() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let vm = Vm { host: Host::new(HERE, VM), data: tempfile::tempdir().unwrap() };
    let plane = runtime.block_on(Plane::start_at((HERE, 15012).into(), Mesh::new()));
    plane.mesh.publish(world("mysql.example", &SERVICE.to_string(), (&HERE.to_string(), 4000)));
    greeter(TcpListener::bind((HERE, 4000)).unwrap(), "service");
    greeter(TcpListener::bind((HERE, 8080)).unwrap(), "neighbour");
    for (port, name) in [(3306, "mysql"), (80, "web")] {
        greeter(vm.host.there(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap()), name);
    }

    let token = plane.vm_token().to_string();
    let joined = vm.agent(&["join", &token, "--no-run"]).output().unwrap();
    let said = String::from_utf8_lossy(&joined.stdout).into_owned();
    assert!(said.contains("joined cluster west as spiffe://cluster.local/ns/vm/sa/mysql"), "{joined:?}");

    let mut agent = vm.run();
    let mesh = std::sync::Arc::clone(&plane.mesh);
    runtime.block_on(mesh.healths.subscribe().wait_for(|count| *count > 0)).unwrap();
    outbound_and_names(&vm);
    let status = vm.agent(&["status"]).output().unwrap();
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(said.contains("control plane Connected") && said.contains("ready         yes"), "{status:?}");
    assert_eq!(runtime.block_on(hear_as_member(&mesh, 3306)).as_deref(), Ok("mysql"));
    assert_eq!(hear(connect(VM, 80).unwrap()).unwrap(), "web");
    // A stranger hears nothing.
    assert_eq!(hear(connect(VM, 3306).unwrap()).unwrap_or_default(), "");

    // One stream from the start: putting capture in force did not cut it.
    assert_eq!(*mesh.streams.borrow(), 1);

    agent.signal(nix::sys::signal::Signal::SIGKILL);
    let took = within("the VM's own network", || {
        let call = vm.host.there(|| connect(HERE, 8080)).and_then(hear).map_err(|error| error.to_string())?;
        if call == "neighbour" { Ok(()) } else { Err(format!("heard {call:?}")) }
    });
    assert!(took < Duration::from_secs(8), "{took:?}");
    assert_eq!(connect(VM, 3306).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(hear(connect(VM, 80).unwrap()).unwrap(), "web");

    // Again without a token, and with no control plane.
    runtime.block_on(plane.stop());
    let mut agent = vm.run();
    outbound_and_names(&vm);
    assert_eq!(runtime.block_on(hear_as_member(&mesh, 3306)).as_deref(), Ok("mysql"));

    let ended = agent.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(ended.success(), "{ended}");
    assert_eq!(vm.rules(), "");
    assert_eq!(hear(connect(VM, 3306).unwrap()).unwrap(), "mysql");

    // `leave` stops a running agent too.
    let mut agent = vm.run();
    let left = vm.agent(&["leave"]).output().unwrap();
    assert!(left.status.success(), "{left:?}");
    assert!(agent.0.wait().unwrap().success());
    assert_eq!(vm.rules(), "");
    assert_eq!(remaining(&vm.data.path().join("agent")), ["lock"]);
    let again = vm.agent(&["run"]).output().unwrap();
    assert!(String::from_utf8_lossy(&again.stderr).contains("has not joined yet"), "{again:?}");
}

fn outbound_and_names(vm: &Vm) {
    assert_eq!(ask_dns(&vm.host), Some(SERVICE));
    for (ip, port, name) in [(SERVICE, 3306, "service"), (HERE, 8080, "neighbour")] {
        assert_eq!(vm.host.there(|| connect(ip, port)).and_then(hear).unwrap(), name);
    }
}

fn remaining(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}
