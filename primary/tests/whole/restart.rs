//! The program, killed and started again over the same folder.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use isthmus_kube::Cluster;
use isthmus_proto::type_url::LISTENER;
use isthmus_resources::Kind;
use isthmus_resources::peer::Peer;
use isthmus_testkit::MeshCa;
use serde_json::{Value, json};

use crate::plane::{Plane, Site, channel, until};
use crate::streams::{Stream, node};

/// The program; killed when dropped.
struct Program {
    child: Child,
    admin: Cluster,
    grpc: SocketAddr,
}

impl Program {
    async fn start(site: &Site) -> Self {
        let kubeconfig = site.file("admin.kubeconfig");
        let _ = std::fs::remove_file(&kubeconfig);
        let mut command = Command::new(env!("CARGO_BIN_EXE_isthmus-primary"));
        command.args(&site.flags()[1..]).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        until("the kubeconfig", || async { kubeconfig.exists().then_some(()) }).await;
        let admin = site.admin().await;
        let mesh = until("the API", || async { admin.read_mesh().await.ok().flatten() }).await;
        Self { child, admin, grpc: mesh.addresses[0].parse().unwrap() }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    async fn stream(&self, site: &Site) -> Stream {
        let channel = channel(self.grpc, site.cluster, &site.ca.workload("east", "shop/web")).await;
        // Addresses that we gave are told to those alone whose agent answers DNS.
        let node = node("shop", "web", &[("DNS_CAPTURE", "true")]);
        let stream = Stream::open(&channel, &node).await.unwrap();
        stream.ask(LISTENER, None).await;
        stream
    }

    async fn read(&self, kind: Kind, name: &str) -> Value {
        self.admin.get(kind, Some("shop"), name).await.unwrap().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"selector": {"app": name}, "ports": [{"name": "tcp", "port": 80}]},
    })
}

fn allocations(site: &Site) -> Option<BTreeMap<String, String>> {
    serde_json::from_slice(&std::fs::read(site.file("allocations.json")).ok()?).ok()
}

/// What both sides of the link know, and its SHA-256.
const SECRET: &str = "one-secret-for-both-sides-of-a-link";
const SECRET_SHA256: &str = "6727c22c309dd1d288c7e2c3930e1d4462ef3005c5a57e78450442fc0f2a9526";

const OLD: &str = "old.shop.svc.cluster.local";
const NEW: &str = "new.shop.svc.cluster.local";

#[tokio::test]
async fn a_control_plane_that_is_killed_comes_back_with_the_same_objects_and_addresses() {
    let ca = Arc::new(MeshCa::new());
    // The peer has two services; one of them had an address here in an earlier life.
    let west = Plane::over(Site::new(&ca, "west"), &[]).await;
    west.admin.ensure_namespace("shop").await.unwrap();
    for name in ["old", "new"] {
        west.create(Kind::Service, service(name)).await;
    }
    let waits =
        Peer { mesh_id: "mesh1".to_string(), secret_sha256: SECRET_SHA256.to_string(), ..Peer::default() };
    west.admin.put_peer("east", &waits).await.unwrap();
    let site = Site::new(&ca, "east");
    std::fs::write(site.file("allocations.json"), json!({ OLD: "240.241.77.7" }).to_string()).unwrap();

    let first = Program::start(&site).await;
    first.admin.ensure_namespace("shop").await.unwrap();
    first.admin.ensure_service_account("shop", "web").await.unwrap();
    let mut before = Vec::new();
    for name in ["one", "two", "three"] {
        let made = first.admin.create(Kind::Service, service(name)).await.unwrap();
        before.push((Kind::Service, name, made));
    }
    let entry = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": "outside", "namespace": "shop"},
        "spec": {"hosts": ["outside.example"], "resolution": "DNS", "ports": [{"number": 443, "name": "tls", "protocol": "TLS"}]},
    });
    first.admin.create(Kind::ServiceEntry, entry).await.unwrap();
    let entry = until("the entry's address", || async {
        let entry = first.read(Kind::ServiceEntry, "outside").await;
        entry.pointer("/status/addresses/0/value").is_some().then_some(entry)
    })
    .await;
    before.push((Kind::ServiceEntry, "outside", entry));
    let gateways = vec![west.grpc.to_string()];
    let calls = Peer { mesh_id: "mesh1".to_string(), gateways, ..Peer::default() };
    first.admin.put_peer_secret("west", SECRET).await.unwrap();
    first.admin.put_peer("west", &calls).await.unwrap();
    let given = until("addresses of both imports", || async {
        allocations(&site).filter(|given| given.contains_key(OLD) && given.contains_key(NEW))
    })
    .await;
    assert_eq!(given[OLD], "240.241.77.7");
    let mut stream = first.stream(&site).await;
    for host in [OLD, NEW] {
        stream.name(LISTENER, |name| name == format!("{}_80", given[host])).await;
    }
    drop(stream);
    first.kill();

    let second = Program::start(&site).await;
    for (kind, name, object) in before {
        // Findings may be written meanwhile; what was given stays.
        let after = second.read(kind, name).await;
        for kept in ["/metadata/uid", "/metadata/creationTimestamp", "/spec", "/status/addresses"] {
            assert_eq!(after.pointer(kept), object.pointer(kept), "{name} {kept}");
        }
    }
    let mut stream = second.stream(&site).await;
    for host in [OLD, NEW] {
        stream.name(LISTENER, |name| name == format!("{}_80", given[host])).await;
    }
    assert_eq!(allocations(&site).unwrap(), given);
    let fourth = second.admin.create(Kind::Service, service("four")).await.unwrap();
    let services = second.admin.list(Kind::Service, Some("shop"), None).await.unwrap();
    let same = |one: &&Value| one["spec"]["clusterIP"] == fourth["spec"]["clusterIP"];
    assert_eq!(services.iter().filter(same).count(), 1, "an address that was given is not given again");
    second.kill();
    west.stop().await;
}
