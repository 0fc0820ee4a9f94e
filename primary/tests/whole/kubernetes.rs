//! Beside Kubernetes: its own API server, etcd and controllers, where `make kube-assets` has built them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use isthmus_ca::KeyAndCsr;
use isthmus_kube::{Cluster, ObjectType};
use isthmus_proto::istio_ca::IstioCertificateRequest;
use isthmus_proto::istio_ca::istio_certificate_service_client::IstioCertificateServiceClient;
use isthmus_proto::type_url::{CLUSTER, HEALTH, LISTENER};
use isthmus_resources::Kind;
use isthmus_testkit::{Kubernetes, MeshCa};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;

use crate::plane::{Plane, Site, soon, until, vm_token};
use crate::streams::{Stream, node};

const fn of(group: &'static str, plural: &'static str, kind: &'static str, namespaced: bool) -> ObjectType {
    ObjectType { group, version: "v1", plural, kind, namespaced }
}

const DEFINITION: ObjectType =
    of("apiextensions.k8s.io", "customresourcedefinitions", "CustomResourceDefinition", false);
const RBAC: &str = "rbac.authorization.k8s.io";
const ACCESS: [ObjectType; 4] = [
    of(RBAC, "clusterroles", "ClusterRole", false),
    of(RBAC, "clusterrolebindings", "ClusterRoleBinding", false),
    of(RBAC, "roles", "Role", true),
    of(RBAC, "rolebindings", "RoleBinding", true),
];

/// A cluster with an administrator's client; none, said plainly, where there is no Kubernetes.
async fn kubernetes() -> Option<(Kubernetes, Cluster)> {
    let Some(kubernetes) = Kubernetes::start() else {
        eprintln!("no Kubernetes in tests/kube/bin (make kube-assets builds it): --kubeconfig is not tested");
        return None;
    };
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let admin = Cluster::from_kubeconfig(Some(&kubernetes.kubeconfig()), None).await.unwrap();
    answers(&admin).await;
    Some((kubernetes, admin))
}

/// Waits for the API server, which needs some seconds, more on a busy machine.
async fn answers(admin: &Cluster) {
    let ready = async || admin.get(Kind::Namespace, None, "default").await.ok().flatten();
    let mut pause = tokio::time::interval(Duration::from_millis(200));
    let started = async {
        while ready().await.is_none() {
            pause.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), started).await.unwrap();
}

async fn install(admin: &Cluster) {
    for definition in isthmus_resources::crds() {
        admin.put(DEFINITION, definition).await.unwrap();
    }
}

/// Applies the manifest that says what the control plane may do; returns a kubeconfig as its ServiceAccount.
async fn least_privilege(kubernetes: &Kubernetes, admin: &Cluster) -> std::path::PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes/primary.yaml");
    for object in isthmus_resources::parse::values(&std::fs::read_to_string(manifest).unwrap()) {
        let object = object.unwrap();
        let kind = object["kind"].as_str().unwrap().to_string();
        let access = ACCESS.into_iter().find(|access| access.kind == kind);
        let of = access.unwrap_or_else(|| match kind.as_str() {
            "Namespace" => Kind::Namespace.into(),
            "ServiceAccount" => Kind::ServiceAccount.into(),
            other => panic!("the manifest has a {other}"),
        });
        admin.put(of, object).await.unwrap();
    }
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "isthmus-join", "namespace": "shop"},
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": "isthmus-join"},
        "subjects": [{"kind": "ServiceAccount", "name": "isthmus-primary", "namespace": "istio-system"}],
    });
    admin.create(ACCESS[3], binding).await.unwrap();
    let token = token(admin, "istio-system", "isthmus-primary", None).await;
    let kubeconfig = kubernetes.kubeconfig_of(&token);
    // The server takes note of its own rules a moment after it has stored them.
    let account = Cluster::from_kubeconfig(Some(&kubeconfig), None).await.unwrap();
    until("the rules to hold", || async {
        account.check().await.ok()?;
        account.list(Kind::Pod, None, None).await.ok()?;
        account.get(Kind::Secret, Some("istio-system"), "none").await.ok()?;
        account.get(Kind::Secret, Some("shop"), "none").await.ok()
    })
    .await;
    kubeconfig
}

/// A ServiceAccount's token, as `kubectl create token` makes it.
async fn token(admin: &Cluster, namespace: &str, account: &str, audience: Option<&str>) -> String {
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"audiences": audience.into_iter().collect::<Vec<_>>(), "expirationSeconds": 3600},
    });
    let made = admin.post_to(Kind::ServiceAccount, Some(namespace), account, "token", body).await.unwrap();
    made["status"]["token"].as_str().unwrap().to_string()
}

async fn shop(admin: &Cluster) {
    admin.ensure_namespace("shop").await.unwrap();
    for account in ["web", "db"] {
        admin.ensure_service_account("shop", account).await.unwrap();
    }
}

/// A Pod as a kubelet leaves it.
async fn pod(admin: &Cluster, name: &str, account: &str, ip: &str) {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": account}},
        "spec": {
            "serviceAccountName": account, "nodeName": "node-1",
            "containers": [{"name": "app", "image": "app", "ports": [{"name": "tcp", "containerPort": 9000}]}],
        },
    });
    admin.create(Kind::Pod, pod).await.unwrap();
    let status = json!({
        "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
        "conditions": [{"type": "Ready", "status": "True"}],
    });
    admin.merge(Kind::Pod, Some("shop"), name, Some("status"), json!({ "status": status })).await.unwrap();
}

fn service(name: &str, target: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"selector": {"app": name}, "ports": [{"name": "tcp", "port": 80, "targetPort": target}]},
    })
}

/// A server that was started again needs a moment until it has addresses for Services.
async fn create_service(admin: &Cluster, name: &str) {
    until("the Service", || async { admin.create(Kind::Service, service(name, json!(9000))).await.ok() })
        .await;
}

fn entry(name: &str) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "hosts": [format!("{name}.example")], "resolution": "DNS",
            "ports": [{"number": 443, "name": "tls", "protocol": "TLS"}],
        },
    })
}

/// What the debug page says of a proxy.
async fn page(plane: &Plane, section: &str) -> Option<Value> {
    let mut stream = TcpStream::connect(plane.monitoring).await.unwrap();
    let path = format!("/debug/isthmus/proxy/shop/web-1?type={section}");
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.contains(" 200 ").then(|| serde_json::from_str(body).unwrap())
}

async fn endpoints(plane: &Plane, cluster: &str) -> Vec<String> {
    let page = page(plane, "endpoints").await;
    let rows = page.as_ref().and_then(|page| page["endpoints"].as_array());
    let of_cluster = rows.into_iter().flatten().filter(|row| row["cluster"] == cluster);
    of_cluster.filter_map(|row| row["address"].as_str().map(String::from)).collect()
}

#[tokio::test]
async fn a_cluster_of_kubernetes_is_read_and_nothing_that_it_runs_is_written() {
    let Some((mut kubernetes, admin)) = kubernetes().await else { return };
    assert!(kubernetes.start_controllers(), "kube-controller-manager is built with the others");
    install(&admin).await;
    shop(&admin).await;
    let kubeconfig = least_privilege(&kubernetes, &admin).await;
    let machine = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}});
    admin.create(Kind::Node, machine).await.unwrap();
    pod(&admin, "web-1", "web", "192.0.2.7").await;
    pod(&admin, "db-1", "db", "192.0.2.8").await;
    let db = admin.create(Kind::Service, service("db", json!("tcp"))).await.unwrap();
    let site = Site::new(&Arc::new(MeshCa::new()), "east");
    let plane = Plane::beside(site, &kubeconfig, admin.clone(), &["--registration-grace", "200ms"]).await;

    // Pods and Istio's own agents find the mesh's roots in their namespace.
    let roots = plane.site.ca.roots_pem();
    for namespace in ["shop", "default"] {
        until("the root certificates", || async {
            let found = admin.config_map(namespace, "istio-ca-root-cert").await.unwrap()?;
            (found.get("root-cert.pem")? == roots).then_some(())
        })
        .await;
    }
    assert_eq!(admin.config_map("kube-system", "istio-ca-root-cert").await.unwrap(), None);

    // A token with Istio's audience gets a certificate; one of another audience does not.
    let good = token(&admin, "shop", "web", Some("istio-ca")).await;
    let other = token(&admin, "shop", "web", Some("something-else")).await;
    let key = KeyAndCsr::generate();
    let ask = async |bearer: &str| {
        let body = IstioCertificateRequest { csr: key.csr_pem.clone(), ..Default::default() };
        let mut request = tonic::Request::new(body);
        request.metadata_mut().insert("authorization", format!("Bearer {bearer}").parse().unwrap());
        let mut service = IstioCertificateServiceClient::new(plane.stranger().await);
        service.create_certificate(request).await.map(tonic::Response::into_inner)
    };
    assert_eq!(ask(&other).await.unwrap_err().code(), Code::Unauthenticated);
    let chain = ask(&good).await.unwrap().cert_chain;
    let material = isthmus_tls::Material::from_response(key.key_pem.clone(), &chain).unwrap();
    let web = isthmus_tls::Identity::from_material(&material).unwrap();
    assert_eq!(web.spiffe().unwrap().to_string(), "spiffe://cluster.local/ns/shop/sa/web");

    // A Pod's sidecar; its Pod is Kubernetes' and stays as it is.
    let before = plane.get(Kind::Pod, "web-1").await.unwrap();
    let channel = plane.channel(&web).await;
    let mut stream =
        Stream::open(&channel, &node("shop", "web", &[("ISTHMUS_REGISTER", "pod")])).await.unwrap();
    stream.ask(LISTENER, None).await;
    stream.name(CLUSTER, |name| name == "outbound|80||db.shop.svc.cluster.local").await;
    let listener = format!("{}_80", db["spec"]["clusterIP"].as_str().unwrap());
    stream.name(LISTENER, |name| name == listener).await;
    let cluster = "outbound|80||db.shop.svc.cluster.local";
    until("the endpoint, from Kubernetes' slice", || async {
        (endpoints(&plane, cluster).await == ["192.0.2.8:9000"]).then_some(())
    })
    .await;
    pod(&admin, "db-2", "db", "192.0.2.9").await;
    until("the second endpoint", || async { (endpoints(&plane, cluster).await.len() == 2).then_some(()) })
        .await;
    assert_eq!(plane.get(Kind::Pod, "web-1").await.unwrap(), before);
    let missing = node("shop", "web", &[("ISTHMUS_REGISTER", "pod"), ("NAME", "web-2")]);
    let refused = Stream::open(&channel, &missing).await.map(|_| ()).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("Pod shop/web-2"), "{refused}");

    // What is ours to write: an entry's addresses, what became of an object.
    admin.create(Kind::ServiceEntry, entry("outside")).await.unwrap();
    let address = until("the entry's address", || async {
        let entry = plane.get(Kind::ServiceEntry, "outside").await?;
        Some(entry.pointer("/status/addresses/0/value")?.as_str()?.to_string())
    })
    .await;
    assert!(address.starts_with("240.240."), "{address}");
    stream.name(CLUSTER, |name| name == "outbound|443||outside.example").await;
    let filter = json!({
        "apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter",
        "metadata": {"name": "f", "namespace": "shop"}, "spec": {"configPatches": []},
    });
    admin.create(Kind::EnvoyFilter, filter).await.unwrap();
    until("what became of the filter", || async {
        let filter = plane.get(Kind::EnvoyFilter, "f").await?;
        (filter.pointer("/status/conditions/0/type")? == "NotEnforced").then_some(())
    })
    .await;

    // A machine joins, once, and becomes an entry that its group owns.
    let group = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "WorkloadGroup",
        "metadata": {"name": "db", "namespace": "shop"}, "spec": {"template": {"serviceAccount": "db"}},
    });
    admin.create(Kind::WorkloadGroup, group).await.unwrap();
    let bearer = vm_token(&admin, "shop/db", "db").await;
    let key = KeyAndCsr::generate();
    let request = isthmus_proto::join::JoinRequest {
        kind: isthmus_proto::join::JoinKind::Vm.into(),
        csr: key.csr_pem.clone(),
        workload_group: "shop/db".to_string(),
        ..Default::default()
    };
    let joined = plane.join(&bearer, request.clone()).await.unwrap();
    assert_eq!(plane.join(&bearer, request).await.unwrap_err().code(), Code::Unauthenticated);
    let machine = plane.channel(&crate::plane::identity(&key, &joined)).await;
    let asks = [("AUTO_REGISTER_GROUP", "db"), ("NAME", "vm"), ("HEALTH_CHECKED", "true")];
    let stream = Stream::open(&machine, &node("shop", "db", &asks)).await.unwrap();
    let registered = plane.get(Kind::WorkloadEntry, "db-192.0.2.7").await.unwrap();
    assert_eq!(registered.pointer("/metadata/ownerReferences/0/kind").unwrap(), "WorkloadGroup");
    stream.ask(LISTENER, None).await;
    stream.ask(HEALTH, Some("connection refused")).await;
    until("the entry's health", || async {
        let entry = plane.get(Kind::WorkloadEntry, "db-192.0.2.7").await?;
        (entry.pointer("/status/conditions/0/status")? == "False").then_some(())
    })
    .await;
    drop(stream);
    until("the entry to go", || async {
        plane.get(Kind::WorkloadEntry, "db-192.0.2.7").await.is_none().then_some(())
    })
    .await;

    // A link says how it is.
    let peer = isthmus_resources::peer::Peer { mesh_id: "mesh1".to_string(), ..Default::default() };
    admin.put_peer("west", &peer).await.unwrap();
    until("the link's state", || async {
        let peer = admin.get(Kind::Peer, None, "west").await.unwrap()?;
        peer.pointer("/status/state").cloned()
    })
    .await;

    let slices = admin.list(Kind::EndpointSlice, Some("shop"), None).await.unwrap();
    for slice in &slices {
        let by = &slice["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"];
        assert_eq!(by, "endpointslice-controller.k8s.io", "{slice}");
    }
    assert_eq!(slices.len(), 1, "{slices:?}");
    soon("the end", plane.stop()).await;
}

#[tokio::test]
async fn a_plain_cluster_is_served_through_its_api_servers_death_and_kinds_installed_later_are_noticed() {
    let Some((mut kubernetes, admin)) = kubernetes().await else { return };
    shop(&admin).await;
    pod(&admin, "web-1", "web", "192.0.2.7").await;
    let site = Site::new(&Arc::new(MeshCa::new()), "east");
    // Both are being started: the control plane waits for the API server.
    kubernetes.kill_server();
    let kubeconfig = kubernetes.kubeconfig();
    let starting = Plane::beside(site, &kubeconfig, admin.clone(), &[]);
    let (plane, ()) = tokio::join!(starting, async { kubernetes.revive_server() });
    // By token alone, as Istio's agents open their first stream.
    let bearer = token(&admin, "shop", "web", Some("istio-ca")).await;
    let channel = plane.stranger().await;
    let mut stream = Stream::open_with(&channel, &node("shop", "web", &[]), Some(&bearer)).await.unwrap();
    create_service(&admin, "web").await;
    stream.name(CLUSTER, |name| name == "outbound|80||web.shop.svc.cluster.local").await;
    let refused = Stream::open_with(&channel, &node("shop", "db", &[]), Some(&bearer)).await;
    assert_eq!(refused.map(|_| ()).unwrap_err().code(), Code::PermissionDenied);

    install(&admin).await;
    until("ServiceEntries to be served", || async {
        admin.create(Kind::ServiceEntry, entry("outside")).await.ok()
    })
    .await;
    stream.name(CLUSTER, |name| name == "outbound|443||outside.example").await;

    // While the API server is dead nothing is taken away, whoever proves itself by certificate is served, and a token is not judged.
    kubernetes.kill_server();
    let web = plane.channel(&plane.site.ca.workload("east", "shop/web")).await;
    let mut second = Stream::open(&web, &node("shop", "web", &[("NAME", "web-2")])).await.unwrap();
    second.name(CLUSTER, |name| name == "outbound|443||outside.example").await;
    let unknown = Stream::attempt(&channel, &node("shop", "web", &[]), Some(&bearer)).await;
    assert_eq!(unknown.map(|_| ()).unwrap_err().code(), Code::Unavailable);
    kubernetes.revive_server();
    answers(&admin).await;
    create_service(&admin, "db").await;
    for stream in [&mut stream, &mut second] {
        let db = |name: &str| name == "outbound|80||db.shop.svc.cluster.local";
        tokio::time::timeout(Duration::from_secs(60), stream.name(CLUSTER, db)).await.unwrap();
    }
    soon("the end", plane.stop()).await;
}
