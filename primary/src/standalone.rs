//! The API that a cluster without Kubernetes is configured by: our own server over a store, in this process and over HTTPS.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use isthmus_apiserver::{ApiServer, Config as ApiConfig};
use isthmus_ca::ApiPki;
use isthmus_ca::api_pki::{CA_CERT, CA_KEY};
use isthmus_kube::Cluster;
use isthmus_lifecycle::{Clock, OnFailure, TaskGroup};
use isthmus_store::{EmbeddedStore, EtcdStore, Expect, Store, Write};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use serde_json::json;
use tokio::net::TcpListener;

use crate::config::Config;
use crate::files;

/// Names that the API's certificate carries beside its addresses: what clients inside a cluster use.
const API_NAMES: [&str; 4] =
    ["localhost", "kubernetes", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];

/// Where replicas keep the API's private CA; outside what the API shows.
const API_CA: &str = "/isthmus-internal/api-ca";

/// The server, bound and not yet serving.
#[derive(Debug)]
pub struct Standalone {
    server: ApiServer,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
}

impl Standalone {
    /// Opens the store, starts the server, writes the administrator's kubeconfig. `listener` is at `config.api_address`.
    ///
    /// # Errors
    /// When the store or the private CA cannot be had, each named.
    pub async fn build(
        config: &Config,
        listener: TcpListener,
        clock: Arc<dyn Clock>,
        tasks: &TaskGroup,
    ) -> anyhow::Result<Self> {
        let store = store(config).await?;
        let pki = pki(config, store.as_ref(), clock.as_ref()).await.context("the API server's private CA")?;
        let tls = tls(config, &pki, clock.as_ref())?;
        let mut api = ApiConfig::new(store, tasks.clone());
        api.clock = Arc::clone(&clock);
        api.service_cidr = config.service_cidr.parse().with_context(|| {
            format!("--service-cidr {:?}: not an IPv4 range such as 10.96.0.0/16", config.service_cidr)
        })?;
        api.client_roots = certificates(pki.ca_pem())?;
        api.crds = isthmus_resources::crds();
        api.warnings = Arc::new(isthmus_resources::notices);
        let server = ApiServer::start(api).await.context("starting the API server")?;
        let tls = server.tls_config(tls).context("the API server's TLS settings")?;
        write_kubeconfig(config, &pki, clock.as_ref())?;
        Ok(Self { server, listener, tls })
    }

    /// The API in this process, as the control plane.
    #[must_use]
    pub fn cluster(&self) -> Cluster {
        Cluster::in_process(self.server.router())
    }

    /// Adds pages for admins.
    pub fn mount_debug(&self, pages: axum::Router) {
        self.server.mount_debug(pages);
    }

    /// Serves until told to stop.
    pub fn serve(self, tasks: &TaskGroup) {
        let stop = tasks.signal();
        tasks.spawn("api server", OnFailure::Stop, async move {
            self.server.serve(self.listener, self.tls, stop).await
        });
    }
}

async fn store(config: &Config) -> anyhow::Result<Arc<dyn Store>> {
    if config.etcd_endpoints.is_empty() {
        let path = config.data_dir.join("store.redb");
        let store = EmbeddedStore::open(&path).with_context(|| format!("opening {}", path.display()))?;
        return Ok(Arc::new(store));
    }
    let prefix = format!("/isthmus/{}/", config.cluster);
    let store = EtcdStore::connect(&config.etcd_endpoints, &prefix, None)
        .await
        .with_context(|| format!("--etcd-endpoints {}", config.etcd_endpoints.join(",")))?;
    Ok(Arc::new(store))
}

/// The API's private CA. Replicas over one etcd share it, so that one kubeconfig is good at each of them: the first keeps it in the
/// store, the others take it from there.
async fn pki(config: &Config, store: &dyn Store, clock: &dyn Clock) -> anyhow::Result<ApiPki> {
    let directory = config.data_dir.join("api-pki");
    if config.etcd_endpoints.is_empty() {
        return Ok(ApiPki::open(&directory, clock.now())?);
    }
    files::folder(&directory)?;
    if let Some(kept) = store.get(API_CA).await? {
        take(&directory, &kept.value)?;
        return Ok(ApiPki::open(&directory, clock.now())?);
    }
    let made = ApiPki::open(&directory, clock.now())?;
    let read = |name: &str| -> anyhow::Result<String> {
        let path = directory.join(name);
        let bytes = files::read(&path)?.with_context(|| format!("{}: gone", path.display()))?;
        String::from_utf8(bytes).with_context(|| path.display().to_string())
    };
    let value = serde_json::to_vec(&json!({"certificate": read(CA_CERT)?, "key": read(CA_KEY)?}))?;
    match store.put(API_CA, value.into(), Expect::Absent, None).await? {
        Write::Done { .. } | Write::Conflict(None) => Ok(made),
        Write::Conflict(Some(kept)) => {
            take(&directory, &kept.value)?;
            Ok(ApiPki::open(&directory, clock.now())?)
        }
    }
}

/// Writes the shared CA into the directory, the key first: without the certificate nothing was ever signed.
fn take(directory: &Path, shared: &[u8]) -> anyhow::Result<()> {
    let shared: serde_json::Value = serde_json::from_slice(shared).context("the CA in the store")?;
    for (name, member) in [(CA_KEY, "key"), (CA_CERT, "certificate")] {
        let text = shared[member].as_str().with_context(|| format!("the CA in the store has no {member}"))?;
        files::write(&directory.join(name), text.as_bytes())?;
    }
    Ok(())
}

fn tls(
    config: &Config,
    pki: &ApiPki,
    clock: &dyn Clock,
) -> anyhow::Result<Arc<dyn rustls::server::ResolvesServerCert>> {
    let mut ips: Vec<IpAddr> = config.advertise.clone();
    ips.push(IpAddr::from([127, 0, 0, 1]));
    let mut names = API_NAMES.map(String::from).to_vec();
    let public = config.kubeconfig_server();
    let host = public.rsplit_once(':').map_or(public.as_str(), |(host, _)| host).trim_matches(['[', ']']);
    match host.parse() {
        Ok(ip) => ips.push(ip),
        Err(_) => names.push(host.to_string()),
    }
    ips.sort_unstable();
    ips.dedup();
    names.sort_unstable();
    names.dedup();
    let own = pki.server(&names, &ips, clock.now()).context("the API server's certificate")?;
    let key = PrivateKeyDer::from_pem_slice(own.key_pem.as_bytes()).context("the API server's key")?;
    let certified = CertifiedKey::from_der(certificates(&own.chain_pem)?, key, &isthmus_tls::provider());
    Ok(Arc::new(SingleCertAndKey::from(certified.context("the API server's certificate")?)))
}

fn certificates(pem: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .context("the API server's private CA")
}

/// A kubeconfig in JSON, which every YAML reader takes.
fn write_kubeconfig(config: &Config, pki: &ApiPki, clock: &dyn Clock) -> anyhow::Result<()> {
    let path = config.data_dir.join("admin.kubeconfig");
    let admin = pki.admin(clock.now()).context("the administrator's certificate")?;
    let (name, server) = (config.cluster.as_str(), config.kubeconfig_server());
    let user = format!("{name}-admin");
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": name, "cluster": {
            "server": format!("https://{server}"),
            "certificate-authority-data": STANDARD.encode(&admin.roots_pem),
        }}],
        "users": [{"name": user, "user": {
            "client-certificate-data": STANDARD.encode(&admin.chain_pem),
            "client-key-data": STANDARD.encode(&admin.key_pem),
        }}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
    });
    files::write(&path, serde_json::to_string_pretty(&kubeconfig)?.as_bytes())?;
    tracing::info!(kubeconfig = %path.display(), %server, "administrator's kubeconfig written");
    Ok(())
}
