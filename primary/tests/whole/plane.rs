//! A control plane on ports of the system's choice, and its clients.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Parser as _;
use hyper_util::rt::TokioIo;
use isthmus_ca::KeyAndCsr;
use isthmus_kube::Cluster;
use isthmus_lifecycle::{Drain, OnFailure, TaskGroup};
use isthmus_primary::app::App;
use isthmus_primary::config::Config;
use isthmus_proto::join::join_service_client::JoinServiceClient;
use isthmus_proto::join::{JoinKind, JoinRequest, JoinResponse};
use isthmus_resources::Kind;
use isthmus_testkit::MeshCa;
use isthmus_tls::{ClientCertificate, Expected, Identity, Material, client_config};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// Longest wait for anything; only a failing test takes it.
const PATIENCE: Duration = Duration::from_secs(15);

/// Waits for what must happen.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(PATIENCE, future).await;
    outcome.unwrap_or_else(|_| panic!("{what} did not happen within {PATIENCE:?}"))
}

/// Looks again and again until there is something.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let mut pause = tokio::time::interval(Duration::from_millis(10));
    soon(what, async {
        loop {
            pause.tick().await;
            if let Some(found) = look().await {
                return found;
            }
        }
    })
    .await
}

/// What outlives a control plane: its CA and its folder.
pub(crate) struct Site {
    pub(crate) ca: Arc<MeshCa>,
    pub(crate) cluster: &'static str,
    dir: tempfile::TempDir,
}

impl Site {
    pub(crate) fn new(ca: &Arc<MeshCa>, cluster: &'static str) -> Self {
        // As the program does first; only the first of these counts.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        ca.write_cacerts(cluster, &dir.path().join("cacerts"));
        std::fs::create_dir(dir.path().join("data")).unwrap();
        Self { ca: Arc::clone(ca), cluster, dir }
    }

    /// A file in the data folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("data").join(name)
    }

    /// The command line of a standalone one, every port left to the system.
    pub(crate) fn flags(&self) -> Vec<String> {
        self.flags_with(&["--standalone", "--api-address", "127.0.0.1:0"])
    }

    /// The command line with what says where the API server is.
    fn flags_with(&self, source: &[&str]) -> Vec<String> {
        let folder = |name: &str| self.dir.path().join(name).display().to_string();
        let mut flags: Vec<String> = ["isthmus-primary", "--advertise", "127.0.0.1"].map(String::from).into();
        flags.extend(source.iter().map(|flag| (*flag).to_string()));
        for (flag, value) in [
            ("--cluster", self.cluster.to_string()),
            ("--network", self.cluster.to_string()),
            ("--data-dir", folder("data")),
            ("--cacerts", folder("cacerts")),
            ("--grpc-address", "127.0.0.1:0".to_string()),
            ("--monitoring-address", "127.0.0.1:0".to_string()),
        ] {
            flags.extend([flag.to_string(), value]);
        }
        flags
    }

    /// As an administrator, by the kubeconfig that was written.
    pub(crate) async fn admin(&self) -> Cluster {
        Cluster::from_kubeconfig(Some(&self.file("admin.kubeconfig")), None).await.unwrap()
    }
}

/// A control plane in this process.
pub(crate) struct Plane {
    pub(crate) site: Site,
    /// As an administrator.
    pub(crate) admin: Cluster,
    /// Where xDS, joining and federation are.
    pub(crate) grpc: SocketAddr,
    /// Where metrics, readiness and, beside Kubernetes, the debug pages are.
    pub(crate) monitoring: SocketAddr,
    drain: Drain,
    tasks: TaskGroup,
}

impl Plane {
    /// Of `east`, with a CA and a folder of its own, and with namespace `shop` and ServiceAccounts `web` and `db` in it.
    pub(crate) async fn start() -> Self {
        let plane = Self::over(Site::new(&Arc::new(MeshCa::new()), "east"), &[]).await;
        plane.admin.ensure_namespace("shop").await.unwrap();
        for account in ["web", "db"] {
            plane.admin.ensure_service_account("shop", account).await.unwrap();
        }
        plane
    }

    pub(crate) async fn over(site: Site, more: &[&str]) -> Self {
        let mut flags = site.flags();
        flags.extend(more.iter().map(|flag| (*flag).to_string()));
        let app = Box::pin(App::build(Config::try_parse_from(flags).unwrap())).await.unwrap();
        let admin = site.admin().await;
        Self::serving(app, site, admin)
    }

    /// Beside Kubernetes, as whom the kubeconfig says.
    pub(crate) async fn beside(site: Site, kubeconfig: &Path, admin: Cluster, more: &[&str]) -> Self {
        let mut flags = site.flags_with(&["--kubeconfig", &kubeconfig.display().to_string()]);
        flags.extend(more.iter().map(|flag| (*flag).to_string()));
        let app = Box::pin(App::build(Config::try_parse_from(flags).unwrap())).await.unwrap();
        Self::serving(app, site, admin)
    }

    fn serving(app: App, site: Site, admin: Cluster) -> Self {
        let (addresses, drain) = (app.addresses(), app.drain());
        let tasks = TaskGroup::new("test", Drain::new());
        tasks.spawn("control plane", OnFailure::Log, async move {
            app.run().await.map_err(|error| format!("{error:#}"))
        });
        Self { site, admin, grpc: addresses.grpc, monitoring: addresses.monitoring, drain, tasks }
    }

    /// Stops it and waits until it has.
    pub(crate) async fn stop(self) -> Site {
        self.drain.immediate();
        soon("the end of the control plane", self.tasks.finished()).await;
        self.site
    }

    /// Its metrics page.
    pub(crate) async fn metrics(&self) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = TcpStream::connect(self.monitoring).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    pub(crate) async fn create(&self, kind: Kind, object: Value) -> Value {
        self.admin.create(kind, object).await.unwrap()
    }

    pub(crate) async fn get(&self, kind: Kind, name: &str) -> Option<Value> {
        self.admin.get(kind, Some("shop"), name).await.unwrap()
    }

    /// A connection that shows this identity's certificate, if it has one.
    pub(crate) async fn channel(&self, identity: &Identity) -> Channel {
        channel(self.grpc, self.site.cluster, identity).await
    }

    /// A connection that shows no certificate.
    pub(crate) async fn stranger(&self) -> Channel {
        self.channel(&Identity::trusting(self.site.ca.trust())).await
    }

    /// Redeems a token.
    pub(crate) async fn join(&self, bearer: &str, request: JoinRequest) -> Result<JoinResponse, Status> {
        let mut request = tonic::Request::new(request);
        request.metadata_mut().insert("authorization", format!("Bearer {bearer}").parse().unwrap());
        JoinServiceClient::new(self.stranger().await).join(request).await.map(tonic::Response::into_inner)
    }
}

/// A connection with the control plane of a cluster.
pub(crate) async fn channel(address: SocketAddr, cluster: &str, identity: &Identity) -> Channel {
    channel_to(address, format!("default.{cluster}.federation.isthmus.internal"), identity).await
}

/// A connection with a server that must prove this name.
pub(crate) async fn channel_to(address: SocketAddr, name: String, identity: &Identity) -> Channel {
    let expected = Expected::ServerName(name.as_str().into());
    let tls = client_config(identity, expected, &[b"h2"], ClientCertificate::Send);
    let name = ServerName::try_from(name).unwrap();
    let connect = tower::service_fn(move |_: http::Uri| {
        let (tls, name) = (Arc::clone(&tls), name.clone());
        async move {
            let stream = TcpStream::connect(address).await?;
            let shaken = isthmus_tls::connect(stream, &tls, name, PATIENCE).await;
            Ok::<_, io::Error>(TokioIo::new(shaken.map_err(io::Error::other)?.0))
        }
    });
    Endpoint::from_static("http://control-plane").connect_with_connector(connect).await.unwrap()
}

/// What a host asks for, as `isthmus-sidecar` does.
pub(crate) fn host(account: &str, csr: &str) -> JoinRequest {
    JoinRequest {
        kind: JoinKind::Host.into(),
        csr: csr.to_string(),
        service_account: account.to_string(),
        hostname: "host1".to_string(),
        ..JoinRequest::default()
    }
}

/// The identity that an answer to joining gives.
pub(crate) fn identity(key: &KeyAndCsr, response: &JoinResponse) -> Identity {
    let material = Material::from_response(key.key_pem.clone(), &response.cert_chain).unwrap();
    Identity::from_material(&material).unwrap()
}

/// A host token, as `isthmus host token` makes it.
pub(crate) async fn host_token(admin: &Cluster, accounts: &str) -> String {
    admin.ensure_service_account("istio-system", "isthmus-host").await.unwrap();
    let secret = ("istio-system", "isthmus-host-1", "isthmus.io/host");
    token(admin, secret, "isthmus-host", "isthmus-host", json!({ "serviceAccounts": accounts })).await
}

/// A VM's token, as `isthmus vm token` makes it.
pub(crate) async fn vm_token(admin: &Cluster, group: &str, account: &str) -> String {
    let secret = ("shop", "isthmus-join-1", "isthmus.io/vm-join");
    token(admin, secret, account, "isthmus-vm-join", json!({ "group": group })).await
}

async fn token(
    admin: &Cluster,
    (namespace, name, kind): (&str, &str, &str),
    account: &str,
    audience: &str,
    says: Value,
) -> String {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": kind,
        "metadata": {"name": name, "namespace": namespace}, "stringData": says,
    });
    let secret = admin.create(Kind::Secret, secret).await.unwrap();
    let bound = json!({"apiVersion": "v1", "kind": "Secret", "name": name, "uid": secret["metadata"]["uid"]});
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"audiences": [audience], "expirationSeconds": 3600, "boundObjectRef": bound},
    });
    let made = admin.post_to(Kind::ServiceAccount, Some(namespace), account, "token", body).await.unwrap();
    made["status"]["token"].as_str().unwrap().to_string()
}
