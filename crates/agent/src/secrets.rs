//! Secrets for the proxy beside this agent, in memory alone: this workload's key and certificate as `default`, the mesh's roots as
//! `ROOTCA`, and what clusters name by file (Istio's `file-cert:CHAIN~KEY` and `file-root:FILE`).

mod file;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
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
/// The secrets of one agent. Cheap to clone.
#[derive(Clone)]
pub struct Secrets(Arc<Shared>);

struct Shared {
    identity: Identity,
    named: Mutex<Named>,
    reader: file::Reader,
    views: watch::Sender<Arc<View>>,
}

/// What clusters name by file.
#[derive(Default)]
struct Named {
    /// As last read.
    secrets: BTreeMap<Arc<str>, tls::Secret>,
    /// Which are wanted, by cluster.
    by_cluster: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// Why some could not be read at the last attempt.
    problems: BTreeMap<Arc<str>, String>,
}

impl Secrets {
    /// Those of an identity.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        let secrets = Self(Arc::new(Shared {
            identity,
            named: Mutex::default(),
            reader: file::Reader::default(),
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
        // Of its own: a file that does not answer keeps nothing else waiting.
        let files = self.follow_files();
        tokio::pin!(files);
        loop {
            tokio::select! {
                biased; // the last secrets stay
                () = stop.cut() => return,
                changed = changes.changed() => if changed.is_err() { return },
                () = &mut files => return,
            }
            self.publish();
        }
    }

    async fn follow_files(&self) {
        loop {
            tokio::time::sleep(GLANCE).await;
            if self.read_again().await {
                self.publish();
            }
        }
    }

    /// Reads what these clusters name by file, unless it is here. What cannot be read is told by [`Secrets::provide`].
    pub async fn fetch(&self, clusters: impl IntoIterator<Item = &Bytes>) {
        let mut missing: BTreeSet<Arc<str>> = clusters.into_iter().flat_map(files_of).collect();
        {
            let mut named = self.0.named.lock();
            named.problems.clear();
            missing.retain(|name| !named.secrets.contains_key(name));
        }
        if missing.is_empty() {
            return;
        }
        let reading = missing.into_iter().map(|name| async move { (self.0.reader.read(&name).await, name) });
        let read = futures::future::join_all(reading).await;
        let mut named = self.0.named.lock();
        for (outcome, name) in read {
            match outcome {
                Ok(secret) => drop(named.secrets.insert(name, secret)),
                Err(problem) => drop(named.problems.insert(name, problem)),
            }
        }
        drop(named);
        self.publish();
    }

    /// Makes sure that the secrets of a cluster are here: those in files were fetched before.
    ///
    /// # Errors
    /// Which are not, and why: a proxy would wait for them for ever.
    pub fn provide(&self, cluster: &Cluster) -> Result<(), String> {
        let named = self.0.named.lock();
        for name in names(cluster)? {
            if [OWN, ROOTS].contains(&&*name) || named.secrets.contains_key(&*name) {
                continue;
            }
            return Err(match named.problems.get(&*name) {
                Some(problem) => problem.clone(),
                None => {
                    format!("secret {name} is not held here: a workload has its own certificate and files")
                }
            });
        }
        Ok(())
    }

    /// Clusters are now what they are in these forms: in force, or what they may go back to. Files that none names any longer are
    /// forgotten.
    pub(crate) fn keep(&self, clusters: impl IntoIterator<Item = (Arc<str>, Vec<Bytes>)>) {
        let mut named = self.0.named.lock();
        for (cluster, forms) in clusters {
            let files: BTreeSet<Arc<str>> = forms.iter().flat_map(files_of).collect();
            if files.is_empty() {
                named.by_cluster.remove(&cluster);
            } else {
                named.by_cluster.insert(cluster, files);
            }
        }
        let Named { secrets, by_cluster, .. } = &mut *named;
        let before = secrets.len();
        if before > 0 {
            let wanted: BTreeSet<&Arc<str>> = by_cluster.values().flatten().collect();
            secrets.retain(|name, _| wanted.contains(name));
        }
        let changed = secrets.len() < before;
        drop(named);
        if changed {
            self.publish();
        }
    }

    /// Reads the files once more; one that cannot be read stays as it was. Whether anything changed.
    async fn read_again(&self) -> bool {
        let names: Vec<Arc<str>> = self.0.named.lock().secrets.keys().cloned().collect();
        let mut changed = false;
        for name in names {
            match self.0.reader.read(&name).await {
                Ok(secret) => {
                    // It may have been forgotten meanwhile.
                    if let Some(known) = self.0.named.lock().secrets.get_mut(&name) {
                        changed |= *known != secret;
                        *known = secret;
                    }
                }
                Err(error) => tracing::warn!(%error, "the last good stays"),
            }
        }
        changed
    }

    fn publish(&self) {
        self.0.views.send_modify(|view| {
            // Gathered within: what is older must not come after what is newer.
            let set = Arc::new(self.gather());
            *view = Arc::new(View { version: view.version + 1, sets: vec![(type_url::SECRET, set)] });
        });
    }

    fn gather(&self) -> ResourceSet {
        let snapshot = self.0.identity.snapshot();
        let mut secrets: Vec<tls::Secret> = self.0.named.lock().secrets.values().cloned().collect();
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
        ResourceSet::new(secrets.iter().map(resource).collect())
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

/// The files that an encoded cluster asks for; most ask for none, and are not decoded.
fn files_of(body: &Bytes) -> Vec<Arc<str>> {
    if !body.windows(file::PREFIX.len()).any(|part| part == file::PREFIX.as_bytes()) {
        return Vec::new();
    }
    // What cannot be decoded is refused where it is put in force.
    let named =
        Cluster::decode(body.clone()).ok().and_then(|cluster| names(&cluster).ok()).unwrap_or_default();
    named.into_iter().filter(|name| name.starts_with(file::PREFIX)).map(Arc::from).collect()
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

#[cfg(test)]
mod tests {
    use isthmus_testkit::MeshCa;

    use super::*;

    #[tokio::test]
    async fn a_file_is_forgotten_with_the_last_cluster_that_may_need_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("roots.pem");
        std::fs::write(&path, "roots").unwrap();
        let name = format!("file-root:{}", path.display());
        let secrets = Secrets::new(MeshCa::new().workload("west", "default/reviews"));
        let roots = tls::SdsSecretConfig { name: name.clone(), ..Default::default() };
        let common = tls::CommonTlsContext {
            validation_context_type: Some(ValidationContextType::ValidationContextSdsSecretConfig(roots)),
            ..Default::default()
        };
        let context = tls::UpstreamTlsContext { common_tls_context: Some(common), ..Default::default() };
        let config_type = Some(ConfigType::TypedConfig(envoy_types::util::pack_any(context)));
        let socket = TransportSocket { config_type, ..Default::default() };
        let with: Bytes =
            Cluster { transport_socket: Some(socket), ..Default::default() }.encode_to_vec().into();
        let without: Bytes = Cluster::default().encode_to_vec().into();
        let held = || secrets.views().borrow().set(type_url::SECRET).unwrap().get(&name).is_some();

        secrets.fetch([&with]).await;
        secrets.keep([("a".into(), vec![with.clone()]), ("b".into(), vec![with.clone()])]);
        assert!(held());
        // One is gone; of the other the earlier form may come back.
        secrets.keep([("a".into(), vec![]), ("b".into(), vec![with, without.clone()])]);
        assert!(held());
        secrets.keep([("b".into(), vec![without])]);
        assert!(!held());
    }
}
