//! A demo that stays up: reachable on the real host's 127.0.0.1, with one kubeconfig, a control socket for more hosts,
//! and shells on its hosts. All files are in one folder and go with it, even after SIGKILL.

use std::fs;
use std::io::{BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::getpid;
use serde::{Deserialize, Serialize};

use crate::topology::Network;
use crate::wire::{Ask, Kubeconfig, receive, send};

mod client;
mod forward;

pub use client::{add_host, shell, stop};
pub use forward::forward;

const SOCKET: &str = "control.sock";
const KUBECONFIG: &str = "kubeconfig";
const RUN: &str = "run";

/// What is offered on 127.0.0.1: port, host of the demo, port there.
const OFFERED: [(u16, &str, u16); 3] =
    [(9080, "productpage", 9080), (6443, "east-cp", 6443), (6444, "west-cp", 6443)];

/// The launcher's part of a demo that stays up.
#[derive(Debug)]
pub struct Keep {
    state: PathBuf,
    listeners: Vec<TcpListener>,
    control: Option<UnixListener>,
    added: Sender<Result<String, String>>,
    results: Option<Receiver<Result<String, String>>>,
    children: Vec<Child>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Request {
    AddHost { name: String, network: Network },
    Stop,
}

type Answer = Result<String, String>;

impl Keep {
    /// Takes the ports and the folder before anything is started.
    ///
    /// # Errors
    /// When a port is in use, or another demo runs from this folder.
    pub fn open(state: &Path) -> anyhow::Result<Self> {
        if UnixStream::connect(state.join(SOCKET)).is_ok() {
            bail!("a demo runs from {} already; stop it with `make demo-stop`", state.display());
        }
        let listeners = OFFERED
            .iter()
            .map(|(port, ..)| {
                TcpListener::bind((Ipv4Addr::LOCALHOST, *port))
                    .with_context(|| format!("127.0.0.1:{port} is wanted for the demo"))
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        remove(state);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state)
            .with_context(|| state.display().to_string())?;
        let control = UnixListener::bind(state.join(SOCKET))
            .with_context(|| format!("{SOCKET} in {}", state.display()))?;
        // Outlives this process by a moment, out of the terminal's reach, to remove the folder.
        let sweeper = Command::new(std::env::current_exe()?)
            .arg("sweep")
            .arg("--state")
            .arg(state)
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("sweeper")?;
        let (added, results) = channel();
        Ok(Self {
            state: state.into(),
            listeners,
            control: Some(control),
            added,
            results: Some(results),
            children: vec![sweeper],
        })
    }

    /// The story held: offers what there is and says how to use it.
    ///
    /// # Errors
    /// When a host is not found, or a file cannot be written.
    pub fn serve(&mut self, run: &str, clusters: &[Kubeconfig], line: &UnixStream) -> anyhow::Result<()> {
        for ((_, host, port), listener) in OFFERED.iter().zip(self.listeners.drain(..)) {
            let (pid, _) = find_host(run, host)?;
            let child = enter(pid, &["--net"])
                .arg(std::env::current_exe()?)
                .args(["forward", "--to", &format!("127.0.0.1:{port}")])
                .stdin(OwnedFd::from(listener))
                .spawn()
                .with_context(|| format!("forwarder to {host}"))?;
            self.children.push(child);
        }
        write(&self.state.join(RUN), run)?;
        let kubeconfig = self.state.join(KUBECONFIG);
        write(&kubeconfig, &merge(clusters)?)?;
        if let (Some(control), Some(results)) = (self.control.take(), self.results.take()) {
            let line = line.try_clone()?;
            std::thread::spawn(move || answer(&control, line, &results));
        }
        say_what_to_try(&kubeconfig);
        Ok(())
    }

    /// The fabric's answer to the last wish for a host.
    pub fn added(&self, result: Answer) {
        // Asked for by the thread that listens for it.
        let _ = self.added.send(result);
    }
}

impl Drop for Keep {
    fn drop(&mut self) {
        for child in &mut self.children[1..] {
            let _ = child.kill();
            let _ = child.wait();
        }
        // The sweeper's input ends with its handle; it removes the folder.
        if let Some(mut sweeper) = self.children.drain(..1).next() {
            drop(sweeper.stdin.take());
            let _ = sweeper.wait();
        }
    }
}

fn answer(control: &UnixListener, mut line: UnixStream, results: &Receiver<Answer>) {
    for stream in control.incoming() {
        let Ok(mut stream) = stream else { continue };
        let Ok(reader) = stream.try_clone() else { continue };
        let answer: Answer = match receive::<Request>(&mut BufReader::new(reader)) {
            Ok(Some(Request::AddHost { name, network })) => {
                match send(&mut line, &Ask::AddHost { name, network }) {
                    Ok(()) => results.recv().unwrap_or_else(|_| Err("the demo is ending".into())),
                    Err(error) => Err(error.to_string()),
                }
            }
            Ok(Some(Request::Stop)) => {
                // Waited for in `launch`.
                let _ = kill(getpid(), Signal::SIGTERM);
                Ok(String::new())
            }
            Ok(None) => continue,
            Err(error) => Err(error.to_string()),
        };
        // The asker may be gone.
        let _ = send(&mut stream, &answer);
    }
}

fn say_what_to_try(kubeconfig: &Path) {
    let file = kubeconfig.display();
    let this = std::env::current_exe().unwrap_or_default();
    let programs = this.parent().unwrap_or(Path::new(".")).display();
    anstream::println!(
        "
The mesh stays up. Try, in another terminal:

  the page          http://127.0.0.1:9080/productpage
  the clusters      export KUBECONFIG={file} PATH={programs}:$PATH
                    kubectl --context west get serviceentries,workloadentries,pods -A
                    kubectl --context east get services -A
                    isthmus --context west status
                    isthmus --context west proxy-config endpoints ratings.bookinfo
                    and kubectl apply, get -w, describe, edit, wait, diff
  a host            make demo-sh HOST=vm
                    mysql test -e 'UPDATE ratings SET Rating=1 WHERE ReviewID=1'
  a host of yours   make demo-host NAME=mine NETWORK=east
  stop it           Ctrl-C here, or make demo-stop
"
    );
}

/// One kubeconfig with a context for each cluster, through the ports on 127.0.0.1.
fn merge(clusters: &[Kubeconfig]) -> anyhow::Result<String> {
    use serde_yaml::Value;
    let first = |config: &Value, list: &str, key: &str| -> Option<Value> {
        config.get(list)?.get(0)?.get(key).cloned()
    };
    let (mut in_clusters, mut users, mut contexts) = (Vec::new(), Vec::new(), Vec::new());
    for cluster in clusters {
        let config: Value = serde_yaml::from_str(&cluster.text)
            .with_context(|| format!("admin.kubeconfig of {}", cluster.cluster))?;
        let (port, ..) = OFFERED.iter().find(|(_, host, _)| *host == cluster.host).context("port")?;
        let mut server = first(&config, "clusters", "cluster").context("kubeconfig without a cluster")?;
        server["server"] = Value::from(format!("https://127.0.0.1:{port}"));
        server["tls-server-name"] = Value::from("localhost");
        let user = first(&config, "users", "user").context("kubeconfig without a user")?;
        let name = cluster.cluster.as_str();
        in_clusters.push(serde_json::json!({ "name": name, "cluster": server }));
        users.push(serde_json::json!({ "name": name, "user": user }));
        contexts.push(serde_json::json!({ "name": name, "context": { "cluster": name, "user": name } }));
    }
    let merged = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": in_clusters,
        "users": users,
        "contexts": contexts,
        "current-context": clusters.first().map(|cluster| cluster.cluster.as_str()),
    });
    serde_yaml::to_string(&merged).context("kubeconfig")
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| path.display().to_string())?;
    file.write_all(text.as_bytes()).with_context(|| path.display().to_string())
}

fn remove(state: &Path) {
    for name in [SOCKET, KUBECONFIG, RUN] {
        // Absent is what is wanted.
        let _ = fs::remove_file(state.join(name));
    }
    // Stays when somebody else put something into it, such as kubectl's cache.
    let _ = fs::remove_dir(state);
}

/// Waits until the launcher is gone, then removes its files.
///
/// # Errors
/// Never; the signature is that of the other commands.
pub fn sweep(state: &Path) -> anyhow::Result<()> {
    let mut rest = Vec::new();
    // Ends when the launcher's handle does, however it died.
    let _ = std::io::stdin().read_to_end(&mut rest);
    remove(state);
    Ok(())
}

/// The init of a run's host, in this process's numbers, and its command line.
fn find_host(run: &str, host: &str) -> anyhow::Result<(u32, Vec<String>)> {
    let mut names = Vec::new();
    for entry in fs::read_dir("/proc").context("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
        let arguments: Vec<String> =
            line.split(|b| *b == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect();
        // Init itself, not the `unshare` that has the same words further back.
        if arguments.get(1).map(String::as_str) != Some("host-init") {
            continue;
        }
        let has =
            |flag: &str, value: &str| arguments.windows(2).any(|pair| pair[0] == flag && pair[1] == value);
        if !has("--run", run) {
            continue;
        }
        if has("--hostname", host) {
            return Ok((pid, arguments));
        }
        let at = arguments.iter().position(|argument| argument == "--hostname");
        names.extend(at.and_then(|at| arguments.get(at + 1).cloned()));
    }
    names.sort();
    bail!("there is no host {host:?}; hosts are {}", names.join(", "))
}

/// `nsenter` into namespaces of a process, with its user namespace if that is another one.
fn enter(pid: u32, namespaces: &[&str]) -> Command {
    let mut nsenter = Command::new("nsenter");
    nsenter.args(["--target", &pid.to_string()]);
    let user = |of: &str| fs::read_link(format!("/proc/{of}/ns/user")).ok();
    if user("self") != user(&pid.to_string()) {
        nsenter.args(["--user", "--preserve-credentials"]);
    }
    nsenter.args(namespaces);
    nsenter
}
