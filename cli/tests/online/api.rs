//! Our own API server over HTTPS on loopback, as `isthmus-primary --standalone` serves it: a private CA, an administrator's
//! client certificate, a store in a directory of its own.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use isthmus_apiserver::{ApiServer, Config};
use isthmus_ca::ApiPki;
use isthmus_kube::Cluster;
use isthmus_kube::mesh::MeshInfo;
use isthmus_lifecycle::{Clock, Drain, OnFailure, SystemClock, TaskGroup};
use isthmus_resources::Kind;
use isthmus_store::EmbeddedStore;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// The API of one cluster.
pub(crate) struct Api {
    runtime: Runtime,
    server: ApiServer,
    cluster: Cluster,
    tasks: TaskGroup,
    pki: ApiPki,
    address: String,
    _directory: tempfile::TempDir,
}

impl Drop for Api {
    fn drop(&mut self) {
        self.tasks.drain().immediate();
    }
}

impl Api {
    /// Starts it.
    pub(crate) fn start() -> Self {
        // A second installation keeps the first, which is the same.
        let _ = default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime starts");
        let directory = tempfile::tempdir().expect("a test has a temporary directory");
        let pki =
            ApiPki::open(&directory.path().join("pki"), SystemClock.now()).expect("a private CA is made");
        let tasks = TaskGroup::new("test", Drain::new());
        let store = EmbeddedStore::open(&directory.path().join("store.redb")).expect("a store is made");
        let mut config = Config::new(Arc::new(store), tasks.clone());
        config.crds = isthmus_resources::crds();
        config.client_roots = certificates(pki.ca_pem());
        let (server, cluster, address) = runtime.block_on(async {
            let server = ApiServer::start(config).await.expect("the API server starts");
            let listener =
                tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
            let address = listener.local_addr().expect("a bound listener has an address").to_string();
            let tls = server.tls_config(serving(&pki)).expect("the API server's certificate is usable");
            let (serving, stop) = (server.clone(), tasks.signal());
            tasks.spawn(
                "api server",
                OnFailure::Log,
                async move { serving.serve(listener, tls, stop).await },
            );
            let cluster = Cluster::in_process(server.router_as("admin", &["system:masters"]));
            (server, cluster, address)
        });
        Self { runtime, server, cluster, tasks, pki, address, _directory: directory }
    }

    /// Runs something against it.
    pub(crate) fn ask<T>(&self, asked: impl AsyncFnOnce(&Cluster) -> T) -> T {
        self.runtime.block_on(asked(&self.cluster))
    }

    /// Creates or replaces an object.
    pub(crate) fn put(&self, kind: Kind, object: Value) {
        let put = self.ask(async |cluster| cluster.put(kind, object).await);
        put.expect("the API server takes the object");
    }

    /// An object.
    pub(crate) fn get(&self, kind: Kind, namespace: Option<&str>, name: &str) -> Option<Value> {
        let found = self.ask(async |cluster| cluster.get(kind, namespace, name).await);
        found.expect("the API server answers")
    }

    /// All of a kind.
    pub(crate) fn list(&self, kind: Kind, namespace: Option<&str>) -> Vec<Value> {
        let found = self.ask(async |cluster| cluster.list(kind, namespace, None).await);
        found.expect("the API server answers")
    }

    /// Writes what the control plane says of itself.
    pub(crate) fn describe(&self, info: &MeshInfo) {
        let written = self.ask(async |cluster| cluster.write_mesh(info).await);
        written.expect("the API server takes the description");
    }

    /// Serves a page under `/debug/`.
    pub(crate) fn page(&self, path: &str, body: Value) {
        let page = axum::routing::get(move || async move { axum::Json(body) });
        self.server.mount_debug(axum::Router::new().route(path, page));
    }
}

fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    let all: Result<_, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    all.expect("a private CA writes PEM")
}

fn serving(pki: &ApiPki) -> Arc<SingleCertAndKey> {
    let made = pki.server(&["localhost".to_string()], &[[127, 0, 0, 1].into()], SystemClock.now());
    let made = made.expect("a serving certificate is made");
    let key = PrivateKeyDer::from_pem_slice(made.key_pem.as_bytes()).expect("its key is PEM");
    let certified = CertifiedKey::from_der(certificates(&made.chain_pem), key, &default_provider());
    Arc::new(SingleCertAndKey::from(certified.expect("key and certificate belong together")))
}

/// Writes a kubeconfig with an administrator's context for each API server; the first is the current one.
pub(crate) fn kubeconfig(file: &Path, servers: &[(&str, &Api)]) {
    let mut config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": servers[0].0,
        "clusters": [], "contexts": [], "users": [],
    });
    for (name, api) in servers {
        let admin = api.pki.admin(SystemClock.now()).expect("an administrator's certificate is made");
        let entries = [
            (
                "clusters",
                "cluster",
                json!({
                    "server": format!("https://{}", api.address),
                    "certificate-authority-data": STANDARD.encode(&admin.roots_pem),
                }),
            ),
            (
                "users",
                "user",
                json!({
                    "client-certificate-data": STANDARD.encode(&admin.chain_pem),
                    "client-key-data": STANDARD.encode(&admin.key_pem),
                }),
            ),
            ("contexts", "context", json!({ "cluster": name, "user": name })),
        ];
        for (list, member, value) in entries {
            if let Some(list) = config[list].as_array_mut() {
                list.push(json!({ "name": name, member: value }));
            }
        }
    }
    std::fs::write(file, config.to_string()).expect("a test's directory can be written");
}
