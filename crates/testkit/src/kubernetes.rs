//! A real Kubernetes API server on loopback, where it has been built (`make kube-assets`).

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use isthmus_ca::ApiPki;
use isthmus_lifecycle::{Clock, SystemClock};

/// etcd and kube-apiserver, each test's own; killed when dropped.
#[derive(Debug)]
pub struct Kubernetes {
    processes: Vec<Child>,
    server: Command,
    port: u16,
    dir: tempfile::TempDir,
}

/// Where the API server is among the processes.
const SERVER: usize = 1;

impl Kubernetes {
    /// Starts them. None where they are not built: the test then says what it leaves out. The server needs some seconds until it answers.
    ///
    /// # Panics
    /// When they are there and do not start.
    #[must_use]
    pub fn start() -> Option<Self> {
        let (etcd, apiserver) = (binary("etcd"), binary("kube-apiserver"));
        if !(etcd.exists() && apiserver.exists()) {
            return None;
        }
        let dir = tempfile::tempdir().expect("a temporary folder");
        let port = crate::net::free_port();
        let server = Command::new(&apiserver);
        let mut kubernetes = Self { processes: Vec::new(), server, port, dir };
        kubernetes.make_certificates();
        let store = format!("http://127.0.0.1:{}", crate::net::free_port());
        let peer = format!("http://127.0.0.1:{}", crate::net::free_port());
        kubernetes.run(
            &etcd,
            &[
                format!("--data-dir={}", kubernetes.file("etcd")),
                "--unsafe-no-fsync".to_string(),
                format!("--listen-client-urls={store}"),
                format!("--advertise-client-urls={store}"),
                format!("--listen-peer-urls={peer}"),
                format!("--initial-advertise-peer-urls={peer}"),
                format!("--initial-cluster=default={peer}"),
            ],
        );
        let arguments = [
            format!("--etcd-servers={store}"),
            "--bind-address=127.0.0.1".to_string(),
            format!("--secure-port={port}"),
            "--advertise-address=127.0.0.1".to_string(),
            "--endpoint-reconciler-type=none".to_string(),
            format!("--tls-cert-file={}", kubernetes.file("server.crt")),
            format!("--tls-private-key-file={}", kubernetes.file("server.key")),
            format!("--client-ca-file={}", kubernetes.file("ca.crt")),
            format!("--service-account-key-file={}", kubernetes.file("sa.crt")),
            format!("--service-account-signing-key-file={}", kubernetes.file("sa.key")),
            "--service-account-issuer=https://kubernetes.default.svc".to_string(),
            "--service-cluster-ip-range=10.96.0.0/16".to_string(),
            "--authorization-mode=RBAC".to_string(),
            "--disable-admission-plugins=ServiceAccount".to_string(),
            "--enable-priority-and-fairness=false".to_string(),
        ];
        kubernetes.server.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        let server = kubernetes.server.spawn().expect("what is built starts");
        kubernetes.processes.push(server);
        Some(kubernetes)
    }

    /// Kills the API server; etcd keeps what it stored.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn kill_server(&mut self) {
        let server = &mut self.processes[SERVER];
        server.kill().expect("it runs");
        server.wait().expect("it ends");
    }

    /// Starts the API server again, at the same address.
    ///
    /// # Panics
    /// When it does not start.
    pub fn revive_server(&mut self) {
        self.processes[SERVER] = self.server.spawn().expect("what is built starts");
    }

    /// Starts Kubernetes' own controllers of EndpointSlices and of owned objects. False where they are not built.
    ///
    /// # Panics
    /// When they are there and do not start.
    pub fn start_controllers(&mut self) -> bool {
        let manager = binary("kube-controller-manager");
        if !manager.exists() {
            return false;
        }
        self.run(
            &manager,
            &[
                format!("--kubeconfig={}", self.kubeconfig().display()),
                format!("--service-account-private-key-file={}", self.file("sa.key")),
                format!("--root-ca-file={}", self.file("ca.crt")),
                "--leader-elect=false".to_string(),
                "--controllers=endpointslice-controller,garbage-collector-controller".to_string(),
                "--bind-address=127.0.0.1".to_string(),
                format!("--secure-port={}", crate::net::free_port()),
            ],
        );
        true
    }

    /// An administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("admin.kubeconfig")
    }

    /// A kubeconfig for a ServiceAccount's token.
    ///
    /// # Panics
    /// When the file system refuses.
    #[must_use]
    pub fn kubeconfig_of(&self, token: &str) -> PathBuf {
        let user = format!(r#"{{"token":"{token}"}}"#);
        self.write_kubeconfig("token.kubeconfig", &user)
    }

    fn write_kubeconfig(&self, name: &str, user: &str) -> PathBuf {
        let text = format!(
            r#"{{"apiVersion":"v1","kind":"Config","current-context":"test",
"clusters":[{{"name":"test","cluster":{{"server":"https://127.0.0.1:{}","certificate-authority":"{}"}}}}],
"users":[{{"name":"test","user":{user}}}],
"contexts":[{{"name":"test","context":{{"cluster":"test","user":"test"}}}}]}}"#,
            self.port,
            self.file("ca.crt"),
        );
        self.write(name, &text)
    }

    fn make_certificates(&self) {
        let now = SystemClock.now();
        let pki = ApiPki::open(&self.dir.path().join("pki"), now).expect("a CA can be made");
        let ips = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
        let server = pki.server(&["localhost".to_string()], &ips, now).expect("a certificate can be made");
        let admin = pki.admin(now).expect("a certificate can be made");
        self.write("ca.crt", pki.ca_pem());
        self.write("server.crt", &server.chain_pem);
        self.write("server.key", &server.key_pem);
        self.write("admin.crt", &admin.chain_pem);
        self.write("admin.key", &admin.key_pem);
        // The server takes a certificate where it wants a public key.
        let day = std::time::Duration::from_secs(24 * 3600);
        let tokens = pki.client("tokens", "test", day, now).expect("a certificate can be made");
        self.write("sa.crt", &tokens.chain_pem);
        self.write("sa.key", &tokens.key_pem);
        let user = format!(
            r#"{{"client-certificate":"{}","client-key":"{}"}}"#,
            self.file("admin.crt"),
            self.file("admin.key")
        );
        self.write_kubeconfig("admin.kubeconfig", &user);
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).expect("a file in a temporary folder");
        path
    }

    fn run(&mut self, binary: &Path, arguments: &[String]) {
        let mut command = Command::new(binary);
        command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        self.processes.push(command.spawn().expect("what is built starts"));
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

fn binary(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/kube/bin").join(name)
}
