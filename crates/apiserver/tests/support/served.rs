//! A served API in a temporary folder, with an admin's kubeconfig, and the real kubectl.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use isthmus_apiserver::{ApiServer, Config};
use isthmus_lifecycle::{Drain, TaskGroup};
use isthmus_store::EmbeddedStore;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;

/// A throw-away authority for the server and its clients.
pub(crate) struct Authority {
    params: CertificateParams,
    key: KeyPair,
    pub(crate) root: CertificateDer<'static>,
    pub(crate) root_pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test root");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a root");
        Self { params, key, root: certificate.der().clone(), root_pem: certificate.pem() }
    }

    fn issue(&self, mut params: CertificateParams) -> (rcgen::Certificate, KeyPair) {
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().expect("a key");
        let issuer = Issuer::from_params(&self.params, &self.key);
        (params.signed_by(&key, &issuer).expect("a certificate"), key)
    }

    /// Certificate and key of a client.
    pub(crate) fn client(&self, user: &str, group: &str) -> (String, String) {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, user);
        params.distinguished_name.push(DnType::OrganizationName, group);
        let (certificate, key) = self.issue(params);
        (certificate.pem(), key.serialize_pem())
    }

    fn server(&self) -> Arc<dyn ResolvesServerCert> {
        let names = vec!["localhost".to_string(), "127.0.0.1".to_string()];
        let (certificate, key) = self.issue(CertificateParams::new(names).expect("parameters"));
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).expect("a key");
        Arc::new(Fixed(Arc::new(CertifiedKey::new(vec![certificate.der().clone()], key))))
    }
}

#[derive(Debug)]
struct Fixed(Arc<CertifiedKey>);

impl ResolvesServerCert for Fixed {
    fn resolve(&self, _hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// A running API.
pub(crate) struct Served {
    pub(crate) server: ApiServer,
    pub(crate) address: SocketAddr,
    pub(crate) authority: Authority,
    pub(crate) dir: tempfile::TempDir,
    drain: Drain,
}

impl Served {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let authority = Authority::new();
        let store = EmbeddedStore::open(&dir.path().join("store.redb")).expect("a store");
        let drain = Drain::new();
        let tasks = TaskGroup::new("api", drain.clone());
        let mut config = Config::new(Arc::new(store), tasks.clone());
        config.client_roots = vec![authority.root.clone()];
        change(&mut config);
        let server = ApiServer::start(config).await.expect("the API starts");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let tls = server.tls_config(authority.server()).expect("TLS settings");
        let (serving, signal) = (server.clone(), tasks.signal());
        tasks.spawn("serve", isthmus_lifecycle::OnFailure::Stop, async move {
            serving.serve(listener, tls, signal).await
        });
        let served = Self { server, address, authority, dir, drain };
        served.write_kubeconfig("admin", "system:masters");
        served
    }

    /// Writes NAME.kubeconfig for a client certificate and returns its path.
    pub(crate) fn write_kubeconfig(&self, user: &str, group: &str) -> PathBuf {
        let (certificate, key) = self.authority.client(user, group);
        let file = |name: &str, text: &str| {
            let path = self.dir.path().join(format!("{user}.{name}"));
            std::fs::write(&path, text).expect("a file");
            path
        };
        let (certificate, key) = (file("crt", &certificate), file("key", &key));
        let root = file("ca", &self.authority.root_pem);
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\ncontexts: [{{name: test, context: {{cluster: test, \
             user: test}}}}]\nclusters: [{{name: test, cluster: {{server: \"https://{}\", certificate-authority: \
             \"{}\"}}}}]\nusers: [{{name: test, user: {{client-certificate: \"{}\", client-key: \"{}\"}}}}]\n",
            self.address,
            root.display(),
            certificate.display(),
            key.display()
        );
        file("kubeconfig", &text)
    }

    /// The real kubectl as the admin; nothing when it is not on this machine.
    pub(crate) fn kubectl(&self) -> Option<Kubectl> {
        let binary = ["/usr/bin/kubectl", "/usr/local/bin/kubectl"]
            .into_iter()
            .find(|path| std::fs::exists(path).unwrap_or(false));
        if binary.is_none() {
            eprintln!("no kubectl on this machine: the API is not tested with it");
        }
        let dir = self.dir.path().to_path_buf();
        binary.map(|binary| Kubectl { binary, dir })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.drain.immediate();
    }
}

/// The real kubectl.
pub(crate) struct Kubectl {
    binary: &'static str,
    dir: PathBuf,
}

/// How a command ended.
pub(crate) struct Ended {
    pub(crate) good: bool,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Kubectl {
    pub(crate) fn command(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(self.binary);
        command
            .env_clear()
            .env("HOME", &self.dir)
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("KUBECONFIG", self.dir.join("admin.kubeconfig"))
            .current_dir(&self.dir)
            .args(arguments)
            .kill_on_drop(true);
        command
    }

    /// Runs a command with this text as its input.
    pub(crate) async fn run(&self, arguments: &[&str], input: &str) -> Ended {
        use tokio::io::AsyncWriteExt;
        let mut command = self.command(arguments);
        command.stdin(std::process::Stdio::piped());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut child = command.spawn().expect("kubectl starts");
        let mut stdin = child.stdin.take().expect("its input");
        // A command that reads no input closes it.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let wait = tokio::time::timeout(std::time::Duration::from_secs(60), child.wait_with_output());
        let output = wait.await.expect("kubectl ends within a minute").expect("its output");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_string();
        Ended { good: output.status.success(), out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// Runs a command that must succeed, and returns what it printed.
    pub(crate) async fn ok(&self, arguments: &[&str], input: &str) -> String {
        let ended = self.run(arguments, input).await;
        assert!(ended.good, "kubectl {} failed: {}\n{}", arguments.join(" "), ended.err, ended.out);
        ended.out
    }
}
