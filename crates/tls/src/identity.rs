//! The live identity: current leaf and trust, replaced in one step, read at every handshake.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use isthmus_model::SpiffeId;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::ProducesTickets;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use tokio::sync::watch;

use crate::files::Material;
use crate::peer::{InvalidCertificate, PeerCertificate};
use crate::trust::{InvalidRoots, Trust};
use crate::verified::Verified;

/// Why a key and a chain are not an identity.
#[derive(Debug, Clone, Error)]
pub enum InvalidLeaf {
    /// PEM armour or base64 is damaged, or nothing is in it.
    #[error("{what}: {problem}")]
    Pem {
        /// `certificate chain` or `private key`.
        what: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The first certificate cannot be read.
    #[error(transparent)]
    Certificate(#[from] InvalidCertificate),
    /// The key is not one that TLS can use, or belongs to another certificate.
    #[error("private key of {name}: {problem}")]
    Key {
        /// Whose.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// The roots that came with it.
    #[error(transparent)]
    Roots(#[from] InvalidRoots),
}

/// A key with its certificate chain.
#[derive(Debug)]
pub struct Leaf {
    certified: Arc<CertifiedKey>,
    certificate: PeerCertificate,
    // `Debug` leaves it out.
    key: PrivateKeyDer<'static>,
}

impl Leaf {
    /// Reads a chain (leaf first, then intermediates; a root at the end does no harm) and the leaf's key (PKCS#8, SEC1 or
    /// PKCS#1).
    ///
    /// # Errors
    /// When either cannot be read or they do not belong together.
    pub fn from_pem(chain_pem: &str, key_pem: &str) -> Result<Self, InvalidLeaf> {
        let pem = |what, problem: String| InvalidLeaf::Pem { what, problem };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain_pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| pem("certificate chain", error.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|error| pem("private key", error.to_string()))?;
        Self::new(chain, key)
    }

    /// From DER.
    ///
    /// # Errors
    /// As [`Leaf::from_pem`].
    pub fn new(
        mut chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, InvalidLeaf> {
        let Some(first) = chain.first() else {
            let problem = "the text holds no certificate".to_string();
            return Err(InvalidLeaf::Pem { what: "certificate chain", problem });
        };
        let certificate = PeerCertificate::parse(first)?;
        // Peers have the root; sending it costs bytes in each handshake.
        while chain.len() > 1 && chain.last().is_some_and(self_issued) {
            chain.pop();
        }
        let certified = CertifiedKey::from_der(chain, key.clone_key(), &crate::PROVIDER)
            .map_err(|error| InvalidLeaf::Key { name: certificate.name(), problem: error.to_string() })?;
        Ok(Self { certified: Arc::new(certified), certificate, key })
    }

    /// What the certificate says.
    #[must_use]
    pub fn certificate(&self) -> &PeerCertificate {
        &self.certificate
    }

    /// Workload identity, when it has one.
    #[must_use]
    pub fn spiffe(&self) -> Option<&SpiffeId> {
        self.certificate.spiffe.as_ref()
    }

    /// End of validity.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.certificate.not_after
    }

    /// The chain in DER, leaf first, without the root.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// The private key in DER: for a proxy that ends TLS in this identity's name, and for nobody else.
    #[must_use]
    pub fn private_key(&self) -> &PrivateKeyDer<'static> {
        &self.key
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }
}

fn self_issued(certificate: &CertificateDer<'_>) -> bool {
    use x509_parser::prelude::{FromDer, X509Certificate};
    X509Certificate::from_der(certificate).is_ok_and(|(_, x509)| x509.subject() == x509.issuer())
}

/// Leaf and trust of one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// Own key and chain; none for a client that only verifies.
    pub leaf: Option<Arc<Leaf>>,
    /// Whom to believe.
    pub trust: Trust,
    /// What this trust said of chains.
    pub(crate) verified: Verified,
    /// Keys of session tickets, made when the first is written. None: there is no randomness to be had, and no tickets.
    tickets: OnceLock<Option<Arc<dyn ProducesTickets>>>,
}

impl Snapshot {
    fn new(leaf: Option<Arc<Leaf>>, trust: Trust) -> Self {
        Self { leaf, trust, verified: Verified::default(), tickets: OnceLock::new() }
    }

    pub(crate) fn tickets(&self) -> Option<&dyn ProducesTickets> {
        self.tickets.get_or_init(|| Ticketer::new().ok()).as_deref()
    }
}

/// Handle to a live identity. Cheap to clone; all clones see an update.
#[derive(Clone)]
pub struct Identity {
    current: Arc<ArcSwap<Snapshot>>,
    changes: Arc<watch::Sender<u64>>,
}

impl Identity {
    /// An identity with a leaf.
    #[must_use]
    pub fn new(leaf: Leaf, trust: Trust) -> Self {
        Self::start(Some(Arc::new(leaf)), trust)
    }

    /// Verifies others, has nothing to show (yet).
    #[must_use]
    pub fn trusting(trust: Trust) -> Self {
        Self::start(None, trust)
    }

    /// From PEM texts; the own trust domain is that of the leaf, private trust when the leaf has no workload identity.
    ///
    /// # Errors
    /// When a text cannot be read or key and chain do not belong together.
    pub fn from_material(material: &Material) -> Result<Self, InvalidLeaf> {
        let (leaf, trust) = material.parse()?;
        Ok(Self::new(leaf, trust))
    }

    fn start(leaf: Option<Arc<Leaf>>, trust: Trust) -> Self {
        Self {
            current: Arc::new(ArcSwap::from_pointee(Snapshot::new(leaf, trust))),
            changes: Arc::new(watch::Sender::new(0)),
        }
    }

    /// Replaces leaf and trust in one step. Handshakes that begin later use them; open connections stay.
    pub fn update(&self, leaf: Leaf, trust: Trust) {
        self.current.store(Arc::new(Snapshot::new(Some(Arc::new(leaf)), trust)));
        self.changes.send_modify(|count| *count += 1);
    }

    /// Replaces the trust alone.
    pub fn update_trust(&self, trust: Trust) {
        self.current.rcu(|now| Snapshot::new(now.leaf.clone(), trust.clone()));
        self.changes.send_modify(|count| *count += 1);
    }

    /// Replaces everything by what these PEM texts say; on an error what was in force stays.
    ///
    /// # Errors
    /// As [`Identity::from_material`].
    pub fn update_material(&self, material: &Material) -> Result<(), InvalidLeaf> {
        let (leaf, trust) = material.parse()?;
        self.update(leaf, trust);
        Ok(())
    }

    /// Leaf and trust now, consistent with each other.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// The leaf now.
    #[must_use]
    pub fn leaf(&self) -> Option<Arc<Leaf>> {
        self.current.load().leaf.clone()
    }

    /// The own workload identity now.
    #[must_use]
    pub fn spiffe(&self) -> Option<SpiffeId> {
        self.current.load().leaf.as_ref()?.spiffe().cloned()
    }

    /// Counts updates; wait on it for the next.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(crate) fn with<T>(&self, read: impl FnOnce(&Snapshot) -> T) -> T {
        read(&self.current.load())
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.with(|now| {
            f.debug_struct("Identity")
                .field("leaf", &now.leaf.as_ref().map(|leaf| leaf.certificate.to_string()))
                .field("trust", &now.trust)
                .finish()
        })
    }
}
