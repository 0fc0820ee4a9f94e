//! The signer of one cluster.

use std::path::Path;
use std::time::{Duration, SystemTime};

use isthmus_model::TrustDomain;
use rcgen::{Issuer, KeyPair, PublicKeyData};
use thiserror::Error;

use crate::cacerts::{CA_CERT, CA_KEY, CERT_CHAIN, Cacerts, LoadError, ROOT_CERT};
use crate::csr::{self, InvalidCsr};
use crate::names::{Names, hex, leaf};
use crate::request::KeyAndChain;
use chain::{above, certificates, certificates_of, held, invalid, parse, pem, probe};
use signer::Signer;

pub(crate) mod chain;
mod signer;

/// How long leaves live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// When the caller asks for nothing. Istio's default: 24 h.
    pub default_ttl: Duration,
    /// Longer requests are refused, not shortened. Istio's default: 90 days.
    pub max_ttl: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self { default_ttl: Duration::from_secs(24 * 3600), max_ttl: Duration::from_secs(90 * 24 * 3600) }
    }
}

/// Why no certificate was issued.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IssueError {
    /// The request itself.
    #[error(transparent)]
    Csr(#[from] InvalidCsr),
    /// It should live longer than is allowed.
    #[error("requested lifetime of {} s is above the maximum of {} s", asked.as_secs(), max.as_secs())]
    TooLong {
        /// Asked for.
        asked: Duration,
        /// Allowed.
        max: Duration,
    },
    /// A name that this signer may not vouch for, or that cannot be written into a certificate.
    #[error("{name}: {problem}")]
    Name {
        /// Which.
        name: String,
        /// Why not.
        problem: String,
    },
    /// The signer's own certificate is over or not yet valid.
    #[error("the signing certificate {subject:?} {problem}; make a new one with `isthmus ca intermediate`")]
    Signer {
        /// Its subject.
        subject: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The crypto library failed.
    #[error("signing failed: {0}")]
    Sign(String),
}

impl IssueError {
    /// Whether the caller asked for something wrong (InvalidArgument), rather than that we failed (Internal).
    #[must_use]
    pub fn is_callers_fault(&self) -> bool {
        matches!(self, Self::Csr(_) | Self::TooLong { .. })
    }
}

/// A fresh certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// Leaf, then intermediates, one PEM each.
    pub chain: Vec<String>,
    /// Roots.
    pub roots: String,
    /// Serial number of the leaf, lower-case hex.
    pub serial: String,
    /// End of the leaf's validity.
    pub not_after: SystemTime,
}

impl Issued {
    /// The certificate service's answer: leaf, intermediates, roots last.
    #[must_use]
    pub fn response(&self) -> Vec<String> {
        self.chain.iter().cloned().chain([self.roots.clone()]).collect()
    }

    /// Leaf and intermediates in one text.
    #[must_use]
    pub fn chain_pem(&self) -> String {
        self.chain.concat()
    }
}

/// A certificate that the authority holds, for reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// `root` or `intermediate`.
    pub kind: &'static str,
    /// Distinguished name.
    pub subject: String,
    /// End of validity.
    pub not_after: SystemTime,
    /// SHA-256 of its DER, lower-case hex.
    pub fingerprint: String,
}

/// Signs for one cluster with an intermediate (or a plugged-in CA of Istio's).
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    signer: Signer,
    above: Vec<String>,
    roots: String,
    held: Vec<Held>,
    policy: Policy,
}

impl Authority {
    /// Reads a `cacerts` directory and proves that its parts belong together.
    ///
    /// # Errors
    /// When files are missing, do not fit, or the root's key lies among them. Expiry is no error here: it is one when
    /// something is to be issued.
    pub fn load(directory: &Path, policy: Policy) -> Result<Self, LoadError> {
        let found = Cacerts::read(directory)?;
        Self::new(&found, policy).map_err(|error| match error {
            LoadError::Invalid { file, problem } => {
                LoadError::Invalid { file: directory.join(file).display().to_string(), problem }
            }
            other => other,
        })
    }

    /// From PEM texts.
    ///
    /// # Errors
    /// When they do not fit together.
    pub fn new(material: &Cacerts, policy: Policy) -> Result<Self, LoadError> {
        let own = certificates(&material.certificate, CA_CERT)?.swap_remove(0);
        let key = KeyPair::from_pem(&material.key)
            .map_err(|error| invalid(CA_KEY, format!("no private key that can sign: {error}")))?;
        let x509 = parse(&own, CA_CERT)?;
        let signer = Signer::read(&x509)?;
        if x509.public_key().raw != key.subject_public_key_info() {
            return Err(invalid(CA_KEY, format!("is not the key of {CA_CERT} ({:?})", signer.subject)));
        }
        let roots = certificates_of(&material.roots, ROOT_CERT)?;
        let above = above(&own, &certificates(&material.chain, CERT_CHAIN)?, &roots)?;
        let issuer = Issuer::from_ca_cert_der(&own, key)
            .map_err(|error| invalid(CA_CERT, format!("cannot sign with it: {error}")))?;
        probe(&issuer, &x509, signer.not_after)?;
        let held = roots
            .iter()
            .map(|root| held("root", root, ROOT_CERT))
            .chain(above.iter().map(|ca| held("intermediate", ca, CERT_CHAIN)))
            .collect::<Result<_, _>>()?;
        let roots = roots.iter().map(|der| pem(der)).collect();
        let above = above.iter().map(|der| pem(der)).collect();
        Ok(Self { issuer, signer, above, roots, held, policy })
    }

    /// Roots, PEM.
    #[must_use]
    pub fn roots_pem(&self) -> &str {
        &self.roots
    }

    /// SHA-256 of the first root's DER, lower-case hex: what two clusters compare before they link.
    #[must_use]
    pub fn root_sha256(&self) -> &str {
        self.held.first().map_or("", |root| &root.fingerprint)
    }

    /// Roots and intermediates, with their expiry.
    #[must_use]
    pub fn held(&self) -> &[Held] {
        &self.held
    }

    /// The trust domain that the signer's certificate is limited to, if it names one.
    #[must_use]
    pub fn trust_domain(&self) -> Option<&TrustDomain> {
        self.signer.trust_domain.as_ref()
    }

    /// End of the signer's validity.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.signer.not_after
    }

    /// Certifies the key of a request for these names. Without a lifetime the default applies; validity begins two
    /// minutes ago and never outlives the signer.
    ///
    /// # Errors
    /// When the request is bad, asks for too long, or the signer may not vouch for the names.
    pub fn issue(
        &self,
        csr_pem: &str,
        names: &Names,
        ttl: Option<Duration>,
        now: SystemTime,
    ) -> Result<Issued, IssueError> {
        let asked = ttl.unwrap_or(self.policy.default_ttl);
        if asked > self.policy.max_ttl {
            return Err(IssueError::TooLong { asked, max: self.policy.max_ttl });
        }
        let key = csr::public_key(csr_pem)?;
        self.sign(&key, names, asked, now)
    }

    /// A fresh key and certificate for the control plane itself; its lifetime is not bounded by the policy for others.
    ///
    /// # Errors
    /// When the signer may not vouch for the names.
    pub fn issue_own(
        &self,
        names: &Names,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<(KeyAndChain, Issued), IssueError> {
        let key = KeyPair::generate().map_err(|error| IssueError::Sign(error.to_string()))?;
        let issued = self.sign(&key, names, ttl, now)?;
        let chain_pem = issued.chain_pem();
        let roots_pem = issued.roots.clone();
        Ok((KeyAndChain { key_pem: key.serialize_pem(), chain_pem, roots_pem }, issued))
    }

    fn sign(
        &self,
        key: &impl PublicKeyData,
        names: &Names,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Issued, IssueError> {
        self.signer.check_time(now)?;
        self.signer.check_names(names)?;
        let sans = names.sans().map_err(|name| {
            let problem = "cannot be written into a certificate: it is not ASCII".to_string();
            IssueError::Name { name, problem }
        })?;
        let not_after = (now + ttl).min(self.signer.not_after);
        let params = leaf(sans, now, not_after);
        let serial = params.serial_number.as_ref().map(|serial| hex(&serial.to_bytes())).unwrap_or_default();
        let certificate =
            params.signed_by(key, &self.issuer).map_err(|error| IssueError::Sign(error.to_string()))?;
        let chain = std::iter::once(pem(certificate.der())).chain(self.above.iter().cloned()).collect();
        Ok(Issued { chain, roots: self.roots.clone(), serial, not_after })
    }
}

#[cfg(test)]
mod tests;
