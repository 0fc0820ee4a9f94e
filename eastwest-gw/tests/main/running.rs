//! The gateway as a process, and what stands around it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use isthmus_lifecycle::{Drain, TaskGroup};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

const PATIENCE: Duration = Duration::from_secs(30);

/// A gateway that is ready.
pub(crate) struct Process {
    child: Child,
    pub(crate) gateway: SocketAddr,
    tasks: TaskGroup,
}

impl Process {
    pub(crate) async fn start(data: &Path, extra: &[&str]) -> Self {
        Self::try_start(data, extra).await.unwrap_or_else(|(status, log)| panic!("{status}:\n{log}"))
    }

    /// Starts it, or says how it ended and what it wrote.
    pub(crate) async fn try_start(data: &Path, extra: &[&str]) -> Result<Self, (ExitStatus, String)> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_isthmus-eastwest-gw"))
            .args(["--network", "west", "--name", "gw-west", "--address", "127.0.0.1", "--concurrency", "1"])
            .args(["--metrics-address", "127.0.0.1:0", "--readiness-address", "127.0.0.1:0"])
            .args(["--admin-address", "127.0.0.1:0", "--log", "info,access=off", "--data-dir"])
            .arg(data)
            .args(extra)
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut log = String::new();
        let ready = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                log.push_str(&line);
                log.push('\n');
                if let Some((_, listeners)) = line.split_once("ready listeners=[(\"0.0.0.0_15443\", ") {
                    return Some(listeners.split(')').next().unwrap().parse().unwrap());
                }
            }
            None
        };
        let ready = tokio::time::timeout(PATIENCE, ready).await.expect("ready or gone within 30 s");
        let Some(gateway) = ready else { return Err((child.wait().await.unwrap(), log)) };
        let tasks = TaskGroup::new("log", Drain::new());
        tasks.spawn_infallible("log", async move {
            while let Ok(Some(line)) = lines.next_line().await {
                println!("{line}");
            }
        });
        Ok(Self { child, gateway, tasks })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until it ends by itself.
    pub(crate) async fn ended(mut self) -> ExitStatus {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        self.tasks.finished().await;
        ended.expect("an end within 30 s").unwrap()
    }

    /// Asks it to stop, as a supervisor does.
    pub(crate) fn terminate(&self) {
        let process = nix::unistd::Pid::from_raw(i32::try_from(self.id()).unwrap());
        nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGTERM).unwrap();
    }

    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// Answers with what it hears, after `west:`.
pub(crate) async fn echo(tasks: &TaskGroup) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, connections) = (listener.local_addr().unwrap(), tasks.clone());
    let stop = tasks.signal();
    tasks.spawn_infallible("echo", async move {
        loop {
            let (mut stream, _) = tokio::select! {
                () = stop.stopping() => return,
                accepted = listener.accept() => accepted.unwrap(),
            };
            connections.spawn_infallible("echo", async move {
                let (mut read, mut write) = stream.split();
                let _ = write.write_all(b"west:").await;
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    address
}

/// A ClientHello with this server name, as a mesh client begins.
pub(crate) fn hello(name: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"istio".to_vec()];
    let name = name.to_string().try_into().unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// Says a hello and ends; what came back.
pub(crate) async fn say(at: SocketAddr, hello: &[u8]) -> std::io::Result<Vec<u8>> {
    let exchange = async {
        let mut stream = TcpStream::connect(at).await?;
        stream.write_all(hello).await?;
        stream.shutdown().await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(answer)
    };
    tokio::time::timeout(PATIENCE, exchange).await.expect("an answer within 30 s")
}
