//! Two control planes over one etcd.

use std::io::ErrorKind;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use isthmus_ca::KeyAndCsr;
use isthmus_kube::Cluster;
use isthmus_kube::watch::{Watch, watch};
use isthmus_lifecycle::{Drain, TaskGroup};
use isthmus_proto::type_url::CLUSTER;
use isthmus_resources::{Change, Event, Kind};
use isthmus_testkit::MeshCa;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::plane::{Plane, Site, host, host_token, identity, soon, until};
use crate::streams::{Stream, node};

struct Etcd {
    process: Child,
    endpoint: String,
    _dir: tempfile::TempDir,
}

impl Etcd {
    /// None, with a line that says so, where there is no etcd.
    async fn start() -> Option<Self> {
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (address, peer) = (free(), format!("http://{}", free()));
        let endpoint = format!("http://{address}");
        let dir = tempfile::tempdir().unwrap();
        let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/kube/bin/etcd");
        let mut command = Command::new(if std::path::Path::new(built).exists() { built } else { "etcd" });
        command
            .arg("--data-dir")
            .arg(dir.path())
            .args(["--listen-client-urls", &endpoint, "--advertise-client-urls", &endpoint])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = match command.spawn() {
            Ok(process) => process,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                eprintln!("no etcd on this machine: control planes that share one are not tested");
                return None;
            }
            Err(error) => panic!("etcd: {error}"),
        };
        let etcd = Self { process, endpoint, _dir: dir };
        until("etcd's answer", || async { tokio::net::TcpStream::connect(address).await.ok() }).await;
        Some(etcd)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"selector": {"app": name}, "ports": [{"name": "tcp", "port": 80}]},
    })
}

async fn applied(events: &mut mpsc::Receiver<Event>, wanted: &str) {
    soon("an event of the watch", async {
        loop {
            if let Change::Applied(object) = events.recv().await.expect("the watch runs").change
                && &*object.meta().name == wanted
            {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn two_control_planes_over_one_etcd_are_one_and_either_may_stop() {
    let Some(etcd) = Etcd::start().await else { return };
    let ca = Arc::new(MeshCa::new());
    let flags = ["--etcd-endpoints", etcd.endpoint.as_str()];
    let one = Plane::over(Site::new(&ca, "east"), &flags).await;
    let two = Plane::over(Site::new(&ca, "east"), &flags).await;
    one.admin.ensure_namespace("shop").await.unwrap();
    one.admin.ensure_service_account("shop", "web").await.unwrap();

    let tasks = TaskGroup::new("watch", Drain::new());
    let (events, mut receive) = mpsc::channel(64);
    let kinds = vec![Kind::Service];
    watch(
        &two.admin,
        Watch { id: "east".parse().unwrap(), kinds, events, findings: None, ready: None },
        &tasks,
    );
    let listed = soon("the first list", receive.recv()).await.unwrap().change;
    assert!(matches!(listed, Change::Listed(Kind::Service, _)), "{listed:?}");

    // What one writes the other reads, with its address; a stream of either is told.
    let channel = two.channel(&ca.workload("east", "shop/web")).await;
    let mut stream = Stream::open(&channel, &node("shop", "web", &[])).await.unwrap();
    let mut addresses = std::collections::BTreeSet::new();
    for (writer, reader, name) in [(&one, &two, "a"), (&two, &one, "b"), (&one, &two, "c")] {
        let made = writer.create(Kind::Service, service(name)).await;
        assert!(addresses.insert(made["spec"]["clusterIP"].to_string()), "an address is given twice");
        assert_eq!(reader.get(Kind::Service, name).await, Some(made));
        applied(&mut receive, name).await;
        stream
            .name(CLUSTER, |cluster| cluster == format!("outbound|80||{name}.shop.svc.cluster.local"))
            .await;
    }

    // So is the kubeconfig of one, once it names the other.
    let text = std::fs::read_to_string(one.site.file("admin.kubeconfig")).unwrap();
    let text =
        text.replace(one.admin.server().trim_end_matches('/'), two.admin.server().trim_end_matches('/'));
    let moved = one.site.file("moved.kubeconfig");
    std::fs::write(&moved, text).unwrap();
    let elsewhere = Cluster::from_kubeconfig(Some(&moved), None).await.unwrap();
    assert_eq!(elsewhere.server(), two.admin.server());
    assert!(elsewhere.get(Kind::Service, Some("shop"), "a").await.unwrap().is_some());

    // A token of one is good at the other, also when that one is gone.
    let token = host_token(&one.admin, "shop/web").await;
    one.stop().await;
    let key = KeyAndCsr::generate();
    let joined = two.join(&token, host("shop/web", &key.csr_pem)).await.unwrap();
    assert_eq!(
        identity(&key, &joined).spiffe().unwrap().to_string(),
        "spiffe://cluster.local/ns/shop/sa/web"
    );
    two.create(Kind::Service, service("d")).await;
    applied(&mut receive, "d").await;
    stream.name(CLUSTER, |cluster| cluster == "outbound|80||d.shop.svc.cluster.local").await;
    tasks.drain().immediate();
    two.stop().await;
}
