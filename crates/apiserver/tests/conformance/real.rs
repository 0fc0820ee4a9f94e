//! Kubernetes' own API server on loopback, if it has been built.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

/// etcd and kube-apiserver; killed when dropped.
pub(crate) struct Kubernetes {
    processes: Vec<Child>,
    port: u16,
    root: Vec<u8>,
    client: (String, String),
    _dir: tempfile::TempDir,
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port()
}

impl Kubernetes {
    /// Starts it; nothing when it is not there.
    pub(crate) async fn start() -> Option<Self> {
        let bin = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/kube/bin");
        let (etcd, apiserver) = (bin.join("etcd"), bin.join("kube-apiserver"));
        if !(etcd.exists() && apiserver.exists()) {
            return None;
        }
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (root, client) = certificates(dir.path());
        let (etcd_port, peer_port, port) = (free_port(), free_port(), free_port());
        let store = format!("http://127.0.0.1:{etcd_port}");
        let peer = format!("http://127.0.0.1:{peer_port}");
        let mut processes = Vec::new();
        processes.push(run(
            &etcd,
            &[
                format!("--data-dir={}", dir.path().join("etcd").display()),
                "--unsafe-no-fsync".to_string(),
                format!("--listen-client-urls={store}"),
                format!("--advertise-client-urls={store}"),
                format!("--listen-peer-urls={peer}"),
                format!("--initial-advertise-peer-urls={peer}"),
                format!("--initial-cluster=default={peer}"),
            ],
        ));
        let file = |name: &str| dir.path().join(name).display().to_string();
        processes.push(run(
            &apiserver,
            &[
                format!("--etcd-servers={store}"),
                "--bind-address=127.0.0.1".to_string(),
                format!("--secure-port={port}"),
                "--advertise-address=127.0.0.1".to_string(),
                "--endpoint-reconciler-type=none".to_string(),
                format!("--tls-cert-file={}", file("server.crt")),
                format!("--tls-private-key-file={}", file("server.key")),
                format!("--client-ca-file={}", file("ca.crt")),
                format!("--service-account-key-file={}", file("sa.pub")),
                format!("--service-account-signing-key-file={}", file("sa.key")),
                "--service-account-issuer=https://kubernetes.default.svc".to_string(),
                "--service-cluster-ip-range=10.96.0.0/16".to_string(),
                "--authorization-mode=RBAC".to_string(),
                "--disable-admission-plugins=ServiceAccount".to_string(),
                "--enable-priority-and-fairness=false".to_string(),
            ],
        ));
        Some(Self { processes, port, root, client, _dir: dir })
    }

    /// An admin's client, once the server is ready.
    pub(crate) async fn client(&self) -> kube::Client {
        let url = format!("https://127.0.0.1:{}", self.port).parse().expect("a URL");
        let mut config = kube::Config::new(url);
        config.root_cert = Some(vec![self.root.clone()]);
        let encode = |text: &str| {
            use base64::Engine;
            base64::engine::general_purpose::STANDARD.encode(text)
        };
        config.auth_info.client_certificate_data = Some(encode(&self.client.0));
        config.auth_info.client_key_data = Some(encode(&self.client.1).into());
        let client = kube::Client::try_from(config).expect("a client");
        until_served(&client, "/readyz").await;
        until_served(&client, "/api/v1/namespaces/default").await;
        client
    }
}

/// Asks until the answer is a success.
pub(crate) async fn until_served(client: &kube::Client, path: &str) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
    let mut pause = tokio::time::interval(Duration::from_millis(200));
    loop {
        pause.tick().await;
        let request = http::Request::get(path).body(kube::client::Body::empty()).expect("a request");
        if client.send(request).await.is_ok_and(|answer| answer.status().is_success()) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{path} is not served after two minutes");
    }
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn run(binary: &PathBuf, arguments: &[String]) -> Child {
    let mut command = Command::new(binary);
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("it starts")
}

/// Writes what the server needs; returns the root and an admin's certificate and key.
fn certificates(dir: &Path) -> (Vec<u8>, (String, String)) {
    let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).expect("a file");
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_key = KeyPair::generate().expect("a key");
    let root = params.self_signed(&root_key).expect("a root");
    write("ca.crt", &root.pem());
    let issuer = Issuer::from_params(&params, &root_key);
    let issue = |names: Vec<String>, user: &str, group: &str, usage| {
        let mut params = CertificateParams::new(names).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, user);
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    };
    let names = vec!["127.0.0.1".to_string(), "localhost".to_string()];
    let (certificate, key) = issue(names, "kube-apiserver", "test", ExtendedKeyUsagePurpose::ServerAuth);
    write("server.crt", &certificate);
    write("server.key", &key);
    let signing = KeyPair::generate().expect("a key");
    write("sa.key", &signing.serialize_pem());
    write("sa.pub", &signing.public_key_pem());
    let admin = issue(Vec::new(), "admin", "system:masters", ExtendedKeyUsagePurpose::ClientAuth);
    (root.der().to_vec(), admin)
}
