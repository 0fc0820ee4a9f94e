//! etcd and kube-apiserver, filled before the latter starts.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use etcd_client::Client;
use isthmus_ca::{ApiPki, sa_key};
use isthmus_tls::Material;
use serde_json::json;

use super::api::Api;
use super::clock::system_time;
use super::processes::{Running, free_address};
use super::world::Shape;
use super::{etcd, stored};

/// etcd and kube-apiserver, without controllers: the benchmark writes what they would.
pub struct Kubernetes {
    /// For administrators.
    pub api: Api,
    /// A kubeconfig of an administrator.
    pub kubeconfig: PathBuf,
    // Dropped in this order: the API server goes before its store.
    _server: Running,
    _store: Running,
}

impl Kubernetes {
    /// Starts them from `bin` (`make kube-assets`): etcd, which is filled with the objects of a shape, then the API server, which finds
    /// them there. `progress` is told how many objects are written.
    ///
    /// # Errors
    /// When they are not built or do not come up.
    pub async fn start(
        bin: &Path,
        folder: &Path,
        shape: Shape,
        progress: impl Fn(usize),
    ) -> anyhow::Result<Self> {
        let programs = [bin.join("etcd"), bin.join("kube-apiserver")];
        for program in &programs {
            anyhow::ensure!(
                program.exists(),
                "{} is not there; build it with `make kube-assets`, or run with --api standalone",
                program.display()
            );
        }
        let [etcd, apiserver] = programs;
        let (mut store, below, client) = Box::pin(start_etcd(&etcd, folder)).await?;
        let filled = etcd::fill(&client, stored::world(shape, &created()), progress).await;
        if filled.is_err() {
            // That it has ended says more.
            store.check()?;
        }
        filled?;

        let pki = ApiPki::open(&folder.join("kube-pki"), system_time())?;
        let admin = pki.admin(system_time())?;
        let address = free_address()?;
        let arguments = apiserver_arguments(&pki, folder, below, address)?;
        let mut server = Running::start(&apiserver, "kube-apiserver", &arguments, folder)?;
        let material = Material { key: admin.key_pem, chain: admin.chain_pem, roots: admin.roots_pem };
        let api = Api::new(address, &material)?;
        for path in ["/readyz", "/api/v1/namespaces/default"] {
            server.until(Duration::from_secs(180), async || api.serves(path).await).await?;
        }
        let kubeconfig = folder.join("kube.kubeconfig");
        std::fs::write(&kubeconfig, serde_json::to_vec(&config(address, &material))?)?;
        Ok(Self { api, kubeconfig, _server: server, _store: store })
    }
}

/// When all objects were created, as an API server writes it.
fn created() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The running etcd and a client of it.
async fn start_etcd(program: &Path, folder: &Path) -> anyhow::Result<(Running, SocketAddr, Client)> {
    let (address, peer) = (free_address()?, free_address()?);
    let arguments = [
        "--name=bench".to_string(),
        format!("--data-dir={}", folder.join("etcd").display()),
        // A benchmark's data need not outlive the machine.
        "--unsafe-no-fsync".to_string(),
        format!("--quota-backend-bytes={}", 8u64 << 30),
        format!("--listen-client-urls=http://{address}"),
        format!("--advertise-client-urls=http://{address}"),
        format!("--listen-peer-urls=http://{peer}"),
        format!("--initial-advertise-peer-urls=http://{peer}"),
        format!("--initial-cluster=bench=http://{peer}"),
    ];
    let mut store = Running::start(program, "etcd", &arguments, folder)?;
    let mut client = None;
    let connect = async || {
        // Its client connects with the first request.
        if let Ok(mut connected) = Client::connect([address.to_string()], None).await
            && connected.status().await.is_ok()
        {
            client = Some(connected);
        }
        client.is_some()
    };
    store.until(Duration::from_secs(60), connect).await?;
    Ok((store, address, client.context("etcd has answered")?))
}

fn apiserver_arguments(
    pki: &ApiPki,
    folder: &Path,
    store: SocketAddr,
    address: SocketAddr,
) -> anyhow::Result<Vec<String>> {
    let server = pki.server(&["localhost".into()], &["127.0.0.1".parse()?], system_time())?;
    let key = sa_key::generate();
    let public = sa_key::public_pem(&key).context("the service account key has no public part")?;
    let write = |name: &str, text: &str| -> anyhow::Result<String> {
        let path = folder.join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    Ok(vec![
        format!("--etcd-servers=http://{store}"),
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
    ])
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

#[cfg(test)]
mod tests;
