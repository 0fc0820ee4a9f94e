//! One suite for every store: what holds for the file must hold for etcd.

#[path = "conformance/suite.rs"]
mod suite;

use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use isthmus_store::{EmbeddedStore, EtcdStore, Store};

fn embedded() -> (tempfile::TempDir, Arc<dyn Store>) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = EmbeddedStore::open(&dir.path().join("store.redb")).expect("a new store");
    (dir, Arc::new(store))
}

/// A real etcd with its own folder and ports; killed when dropped.
struct Etcd {
    process: Child,
    endpoint: String,
    _dir: tempfile::TempDir,
}

impl Etcd {
    async fn start() -> Option<Self> {
        let binary = [
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/kube/bin/etcd"),
            "/usr/bin/etcd",
            "/usr/local/bin/etcd",
        ]
        .into_iter()
        .find(|path| std::fs::exists(path).unwrap_or(false));
        let Some(binary) = binary else {
            eprintln!("no etcd on this machine: its store is not tested");
            return None;
        };
        let free = || {
            std::net::TcpListener::bind("127.0.0.1:0")
                .and_then(|l| l.local_addr())
                .expect("a free port")
                .port()
        };
        let (client, peer) = (free(), free());
        let dir = tempfile::tempdir().expect("a temporary folder");
        let endpoint = format!("http://127.0.0.1:{client}");
        let peer = format!("http://127.0.0.1:{peer}");
        let process = Command::new(binary)
            .arg("--data-dir")
            .arg(dir.path())
            .args(["--listen-client-urls", &endpoint, "--advertise-client-urls", &endpoint])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd starts");
        Some(Self { process, endpoint, _dir: dir })
    }

    async fn store(&self, namespace: &str) -> Arc<dyn Store> {
        let endpoints = [self.endpoint.clone()];
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
        let mut pause = tokio::time::interval(std::time::Duration::from_millis(50));
        loop {
            match EtcdStore::connect(&endpoints, namespace, None).await {
                Ok(store) => return Arc::new(store),
                Err(error) if tokio::time::Instant::now() > deadline => panic!("{error}"),
                Err(_) => {
                    pause.tick().await;
                }
            }
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn the_file_keeps_every_promise() {
    for (name, check) in suite::all() {
        let (_dir, store) = embedded();
        check(store).await;
        println!("file: {name}");
    }
}

#[tokio::test]
async fn etcd_keeps_every_promise() {
    let Some(etcd) = Etcd::start().await else { return };
    for (name, check) in suite::all() {
        check(etcd.store(&format!("/{name}")).await).await;
        println!("etcd: {name}");
    }
}

#[tokio::test]
async fn two_replicas_over_one_etcd_see_each_other() {
    let Some(etcd) = Etcd::start().await else { return };
    suite::replicas(etcd.store("/shared").await, etcd.store("/shared").await).await;
}
