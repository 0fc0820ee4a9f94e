//! Two servers over one etcd serve one API, and either may die.

#[path = "support/client.rs"]
mod client;

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use client::Client;
use isthmus_apiserver::{ApiServer, Config};
use isthmus_lifecycle::{Drain, TaskGroup};
use isthmus_store::EtcdStore;
use serde_json::{Value, json};

struct Etcd {
    process: Child,
    endpoint: String,
    _dir: tempfile::TempDir,
}

impl Etcd {
    fn start() -> Option<Self> {
        let found = [
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/kube/bin/etcd"),
            "/usr/bin/etcd",
            "/usr/local/bin/etcd",
        ]
        .into_iter()
        .find(|path| std::fs::exists(path).unwrap_or(false));
        let Some(binary) = found else {
            eprintln!("no etcd on this machine: replicas of the API are not tested");
            return None;
        };
        let free = || {
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port()
        };
        let (endpoint, peer) =
            (format!("http://127.0.0.1:{}", free()), format!("http://127.0.0.1:{}", free()));
        let dir = tempfile::tempdir().expect("a temporary folder");
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

    async fn replica(&self) -> (Client, Drain) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        let mut pause = tokio::time::interval(Duration::from_millis(50));
        let store = loop {
            pause.tick().await;
            match EtcdStore::connect(std::slice::from_ref(&self.endpoint), "/isthmus", None).await {
                Ok(store) => break store,
                Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
            }
        };
        let drain = Drain::new();
        let config = Config::new(Arc::new(store), TaskGroup::new("api", drain.clone()));
        let server = ApiServer::start(config).await.expect("the API starts");
        (Client(server.router_as("admin", &["system:masters"])), drain)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_over_one_etcd_are_one_api() {
    let Some(etcd) = Etcd::start() else { return };
    let (one, one_drain) = etcd.replica().await;
    let (other, _other_drain) = etcd.replica().await;
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str| json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
    let list = other.get(services).await.good();
    let version = list["metadata"]["resourceVersion"].as_str().expect("a version").to_string();
    let mut watch = other.watch(&format!("{services}?watch=1&resourceVersion={version}")).await;
    let mut addresses = std::collections::BTreeSet::new();
    for (client, reader, name) in [(&one, &other, "a"), (&other, &one, "b"), (&one, &other, "c")] {
        let made: Value = client.post(services, &service(name)).await.good();
        assert!(addresses.insert(made["spec"]["clusterIP"].to_string()), "an address is given twice");
        let read = reader.get(&format!("{services}/{name}")).await.good();
        assert_eq!(read, made, "a write is seen by the other at once");
    }
    for name in ["a", "b", "c"] {
        let (event, object) = watch.next().await;
        assert_eq!((event.as_str(), &object["metadata"]["name"]), ("ADDED", &json!(name)));
    }
    let account = "/api/v1/namespaces/default/serviceaccounts";
    one.post(account, &json!({"metadata": {"name": "web"}})).await.good();
    let token = one.post(&format!("{account}/web/token"), &json!({"spec": {}})).await.good();
    one_drain.immediate();
    let review = json!({"spec": {"token": token["status"]["token"]}});
    let review = other.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await.good();
    assert_eq!(review["status"]["authenticated"], true, "both sign and check with one key");
    other.delete(&format!("{services}/a")).await.good();
    assert_eq!(watch.next().await.0, "DELETED");
}
