//! Secrets for the proxy beside this agent, in memory alone: this workload's key and certificate as `default`, the mesh's roots as
//! `ROOTCA`, and what clusters name by file (Istio's `file-cert:CHAIN~KEY` and `file-root:FILE`).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::transport_socket::ConfigType;
use envoy_types::pb::envoy::config::core::v3::{DataSource, TransportSocket};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use isthmus_lifecycle::Signal;
use isthmus_proto::resource::{Resource, ResourceSet, View};
use isthmus_proto::type_url;
use isthmus_tls::Identity;
use parking_lot::Mutex;
use prost::Message;
use rustls::pki_types::PrivateKeyDer;
use tokio::sync::watch;

/// Own key and certificate.
const OWN: &str = "default";
/// The mesh's roots.
const ROOTS: &str = "ROOTCA";
/// Files are looked at this often.
const GLANCE: Duration = Duration::from_secs(10);
/// Where systems keep the roots of the public web.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The secrets of one agent. Cheap to clone.
#[derive(Clone)]
pub struct Secrets(Arc<Shared>);

struct Shared {
    identity: Identity,
    /// What clusters name by file, as last read.
    files: Mutex<BTreeMap<Arc<str>, tls::Secret>>,
    views: watch::Sender<Arc<View>>,
}

impl Secrets {
    /// Those of an identity.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        let secrets = Self(Arc::new(Shared {
            identity,
            files: Mutex::default(),
            views: watch::Sender::new(Arc::default()),
        }));
        secrets.publish();
        secrets
    }

    /// The newest secrets, and those after them.
    #[must_use]
    pub fn views(&self) -> watch::Receiver<Arc<View>> {
        self.0.views.subscribe()
    }

    /// Follows the identity and the files.
    pub async fn follow(self, stop: Signal) {
        let mut changes = self.0.identity.changes();
        // What happened between the first publication and now.
        self.publish();
        loop {
            tokio::select! {
                biased; // the last secrets stay
                () = stop.cut() => return,
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(GLANCE) => if !self.read_again() { continue },
            }
            self.publish();
        }
    }

    /// Makes sure that the secrets of a cluster are here.
    ///
    /// # Errors
    /// Which are not, and why: a proxy would wait for them for ever.
    pub fn provide(&self, cluster: &Cluster) -> Result<(), String> {
        let mut found = false;
        for name in names(cluster)? {
            if [OWN, ROOTS].contains(&&*name) || self.0.files.lock().contains_key(&*name) {
                continue;
            }
            let secret = read(&name)?;
            self.0.files.lock().insert(name.into(), secret);
            found = true;
        }
        if found {
            self.publish();
        }
        Ok(())
    }

    /// Reads the files once more; one that cannot be read stays as it was. Whether anything changed.
    fn read_again(&self) -> bool {
        let mut files = self.0.files.lock();
        let mut changed = false;
        for (name, known) in files.iter_mut() {
            match read(name) {
                Ok(secret) => changed |= std::mem::replace(known, secret.clone()) != secret,
                Err(error) => tracing::warn!(%error, "the last good stays"),
            }
        }
        changed
    }

    fn publish(&self) {
        let snapshot = self.0.identity.snapshot();
        let mut secrets: Vec<tls::Secret> = self.0.files.lock().values().cloned().collect();
        secrets.push(roots(ROOTS, snapshot.trust.roots_pem().as_bytes().to_vec()));
        if let Some(leaf) = &snapshot.leaf {
            let chain: String = leaf.chain().iter().map(|der| pem("CERTIFICATE", der)).collect();
            let kind = match leaf.private_key() {
                PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
                PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
                _ => "PRIVATE KEY",
            };
            let key = pem(kind, leaf.private_key().secret_der());
            secrets.push(pair(OWN, chain.into_bytes(), key.into_bytes()));
        }
        let resource = |secret: &tls::Secret| Resource::new(&*secret.name, secret.encode_to_vec().into());
        let set = Arc::new(ResourceSet::new(secrets.iter().map(resource).collect()));
        self.0.views.send_modify(|view| {
            *view = Arc::new(View { version: view.version + 1, sets: vec![(type_url::SECRET, set)] });
        });
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

fn inline(bytes: Vec<u8>) -> Option<DataSource> {
    Some(DataSource { specifier: Some(Specifier::InlineBytes(bytes)), ..Default::default() })
}

fn pair(name: &str, chain: Vec<u8>, key: Vec<u8>) -> tls::Secret {
    let certificate = tls::TlsCertificate {
        certificate_chain: inline(chain),
        private_key: inline(key),
        ..Default::default()
    };
    tls::Secret { name: name.into(), r#type: Some(tls::secret::Type::TlsCertificate(certificate)) }
}

fn roots(name: &str, pem: Vec<u8>) -> tls::Secret {
    let context = tls::CertificateValidationContext { trusted_ca: inline(pem), ..Default::default() };
    tls::Secret { name: name.into(), r#type: Some(tls::secret::Type::ValidationContext(context)) }
}

fn pem(kind: &str, der: &[u8]) -> String {
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let mut text = format!("-----BEGIN {kind}-----\n");
    for line in body.as_bytes().chunks(64) {
        text.extend(line.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    text + &format!("-----END {kind}-----\n")
}

/// Reads a secret that is named by file.
fn read(name: &str) -> Result<tls::Secret, String> {
    let file = |path: &str| std::fs::read(path).map_err(|error| format!("secret {name}: {path}: {error}"));
    if let Some(path) = name.strip_prefix("file-root:") {
        let system = || SYSTEM_ROOTS.into_iter().find(|path| Path::new(path).exists());
        let path = if path == "system" {
            system().ok_or_else(|| format!("secret {name}: this system has no roots of the public web"))?
        } else {
            path
        };
        return Ok(roots(name, file(path)?));
    }
    if let Some((chain, key)) = name.strip_prefix("file-cert:").and_then(|files| files.split_once('~')) {
        return Ok(pair(name, file(chain)?, file(key)?));
    }
    Err(format!("secret {name} is not held here: a workload has its own certificate and files"))
}

/// The secrets that a cluster asks for.
fn names(cluster: &Cluster) -> Result<Vec<String>, String> {
    let matched = cluster.transport_socket_matches.iter().filter_map(|one| one.transport_socket.as_ref());
    let mut found = Vec::new();
    for socket in cluster.transport_socket.iter().chain(matched) {
        found.extend(of_socket(socket)?);
    }
    Ok(found)
}

fn of_socket(socket: &TransportSocket) -> Result<Vec<String>, String> {
    let Some(ConfigType::TypedConfig(any)) = &socket.config_type else { return Ok(Vec::new()) };
    if !any.type_url.ends_with(".UpstreamTlsContext") {
        return Ok(Vec::new());
    }
    let context =
        tls::UpstreamTlsContext::decode(&*any.value).map_err(|error| format!("transport_socket: {error}"))?;
    let Some(common) = context.common_tls_context else { return Ok(Vec::new()) };
    let mut found: Vec<String> =
        common.tls_certificate_sds_secret_configs.into_iter().map(|secret| secret.name).collect();
    match common.validation_context_type {
        Some(ValidationContextType::ValidationContextSdsSecretConfig(secret)) => found.push(secret.name),
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            found.extend(combined.validation_context_sds_secret_config.map(|secret| secret.name));
        }
        _ => {}
    }
    Ok(found)
}
