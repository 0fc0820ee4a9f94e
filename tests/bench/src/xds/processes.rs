//! The processes of a run: an API server where one is wanted, and the control plane. All end with the run.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use isthmus_ca::{ApiPki, sa_key};
use isthmus_tls::Material;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::api::Api;
use super::clock::system_time;

/// A child that is stopped with this value.
pub struct Running {
    child: Child,
    /// Its name, for messages.
    name: String,
}

impl Running {
    /// Starts a program; what it writes goes to `NAME.log` in the folder.
    ///
    /// # Errors
    /// When there is no such program.
    pub fn start(program: &Path, name: &str, arguments: &[String], folder: &Path) -> anyhow::Result<Self> {
        let log = File::create(folder.join(format!("{name}.log")))?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| program.display().to_string())?;
        Ok(Self { child, name: name.to_string() })
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails when it has ended.
    ///
    /// # Errors
    /// As said.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            Some(status) => anyhow::bail!("{} ended early: {status}", self.name),
            None => Ok(()),
        }
    }

    /// Ends it in order and waits for that.
    pub fn stop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id())
            && self.child.try_wait().is_ok_and(|ended| ended.is_none())
        {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            for _ in 0..100 {
                if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A port that is free now.
///
/// # Errors
/// When none is.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// etcd and kube-apiserver, without controllers: the benchmark writes what they would.
pub struct Kubernetes {
    /// For administrators.
    pub api: Api,
    /// A kubeconfig of an administrator.
    pub kubeconfig: PathBuf,
    _processes: Vec<Running>,
}

impl Kubernetes {
    /// Starts them from `bin` (`make kube-assets`).
    ///
    /// # Errors
    /// When they are not built or do not come up.
    pub async fn start(bin: &Path, folder: &Path) -> anyhow::Result<Self> {
        let (etcd, apiserver) = (bin.join("etcd"), bin.join("kube-apiserver"));
        for program in [&etcd, &apiserver] {
            anyhow::ensure!(
                program.exists(),
                "{} is not there; build it with `make kube-assets`, or run with --api standalone",
                program.display()
            );
        }
        let pki = ApiPki::open(&folder.join("kube-pki"), system_time())?;
        let server = pki.server(&["localhost".into()], &["127.0.0.1".parse()?], system_time())?;
        let admin = pki.admin(system_time())?;
        let key = sa_key::generate();
        let public = sa_key::public_pem(&key).context("the service account key has no public part")?;
        let write = |name: &str, text: &str| -> anyhow::Result<String> {
            let path = folder.join(name);
            std::fs::write(&path, text)?;
            Ok(path.display().to_string())
        };
        let (client, peer, address) = (free_address()?, free_address()?, free_address()?);
        let store = Running::start(
            &etcd,
            "etcd",
            &[
                format!("--data-dir={}", folder.join("etcd").display()),
                "--unsafe-no-fsync".to_string(),
                "--quota-backend-bytes=8589934592".to_string(),
                format!("--listen-client-urls=http://{client}"),
                format!("--advertise-client-urls=http://{client}"),
                format!("--listen-peer-urls=http://{peer}"),
                format!("--initial-advertise-peer-urls=http://{peer}"),
                format!("--initial-cluster=default=http://{peer}"),
            ],
            folder,
        )?;
        let arguments = [
            format!("--etcd-servers=http://{client}"),
            "--bind-address=127.0.0.1".to_string(),
            format!("--secure-port={}", address.port()),
            "--advertise-address=127.0.0.1".to_string(),
            "--endpoint-reconciler-type=none".to_string(),
            format!("--tls-cert-file={}", write("kube.crt", &server.chain_pem)?),
            format!("--tls-private-key-file={}", write("kube.key", &server.key_pem)?),
            format!("--client-ca-file={}", write("kube-ca.crt", pki.ca_pem())?),
            format!("--service-account-key-file={}", write("sa.pub", &public)?),
            format!("--service-account-signing-key-file={}", write("sa.key", &key)?),
            "--service-account-issuer=https://kubernetes.default.svc".to_string(),
            "--service-cluster-ip-range=10.96.0.0/16".to_string(),
            "--authorization-mode=RBAC".to_string(),
            "--disable-admission-plugins=ServiceAccount".to_string(),
            "--max-requests-inflight=0".to_string(),
            "--enable-priority-and-fairness=false".to_string(),
        ];
        let server = Running::start(&apiserver, "kube-apiserver", &arguments, folder)?;
        let material = Material { key: admin.key_pem, chain: admin.chain_pem, roots: admin.roots_pem };
        let api = Api::new(address, &material)?;
        api.until_served("/readyz", Duration::from_secs(120)).await?;
        api.until_served("/api/v1/namespaces/default", Duration::from_secs(120)).await?;
        let kubeconfig = folder.join("kube.kubeconfig");
        std::fs::write(&kubeconfig, serde_json::to_vec(&config(address, &material))?)?;
        Ok(Self { api, kubeconfig, _processes: vec![server, store] })
    }
}

/// A kubeconfig in JSON, which every YAML reader takes.
fn config(address: SocketAddr, admin: &Material) -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "bench",
        "clusters": [{"name": "bench", "cluster": {
            "server": format!("https://{address}"),
            "certificate-authority-data": STANDARD.encode(&admin.roots),
        }}],
        "users": [{"name": "admin", "user": {
            "client-certificate-data": STANDARD.encode(&admin.chain),
            "client-key-data": STANDARD.encode(&admin.key),
        }}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "admin"}}],
    })
}

/// The administrator in a kubeconfig that isthmus-primary wrote.
///
/// # Errors
/// When it is not one.
pub fn admin_of(kubeconfig: &Path) -> anyhow::Result<Material> {
    let text = std::fs::read(kubeconfig).with_context(|| kubeconfig.display().to_string())?;
    let value: serde_json::Value = serde_json::from_slice(&text)?;
    let data = |pointer: &str| -> anyhow::Result<String> {
        let encoded = value.pointer(pointer).and_then(|value| value.as_str()).context("a kubeconfig")?;
        Ok(String::from_utf8(STANDARD.decode(encoded)?)?)
    };
    Ok(Material {
        key: data("/users/0/user/client-key-data")?,
        chain: data("/users/0/user/client-certificate-data")?,
        roots: data("/clusters/0/cluster/certificate-authority-data")?,
    })
}
