//! The offline root and the intermediates that it signs.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use isthmus_model::{ClusterId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, GeneralSubtree, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, NameConstraints, PublicKeyData, SanType,
};
use sha2::{Digest, Sha256};
use thiserror::Error;
use x509_parser::extensions::GeneralName;

use crate::authority::chain;
use crate::cacerts::{Cacerts, LoadError, ROOT_CERT, ROOT_KEY};
use crate::files::{self, WriteError};
use crate::names::{dated, from_unix, hex};

/// What control planes of a cluster are called below their own federation name.
const SERVING_NAMES: [&str; 3] = ["svc", "svc.cluster.local", "localhost"];
/// Federation names of a cluster end so.
const FEDERATION: &str = "federation.isthmus.internal";

/// Why a root or an intermediate was not made.
#[derive(Debug, Error)]
pub enum RootError {
    /// The file system.
    #[error(transparent)]
    File(#[from] WriteError),
    /// What was read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// No root there.
    #[error("{}: no {ROOT_KEY}; make a root with `isthmus ca root --out {}`", .0.display(), .0.display())]
    NoRoot(PathBuf),
    /// A signer is there already, and replacing it would orphan what it signed.
    #[error("{}: there is a CA already; use another directory, or --force to replace it", .0.display())]
    Exists(PathBuf),
    /// The root is over.
    #[error("the root certificate {subject:?} has expired")]
    Expired {
        /// Its subject.
        subject: String,
    },
    /// A name that cannot be written.
    #[error("{0:?} cannot be written into a certificate")]
    Name(String),
    /// The crypto library failed.
    #[error("making a certificate failed: {0}")]
    Sign(#[from] rcgen::Error),
}

/// A root with its key, in the operator's hands.
#[derive(Debug)]
pub struct Root {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    subject: String,
    not_after: SystemTime,
    trust_domain: TrustDomain,
}

/// What an intermediate is asked to be.
#[derive(Debug, Clone)]
pub struct Intermediate {
    /// Cluster that will sign with it.
    pub cluster: ClusterId,
    /// Lifetime; never beyond the root's.
    pub lifetime: Duration,
    /// Limits the DNS names that it may vouch for to its cluster's control planes: it cannot speak for another cluster.
    pub constrained: bool,
    /// Further DNS names (and all below them) that a constrained one may vouch for.
    pub extra_dns: Vec<String>,
}

impl Intermediate {
    /// For a cluster: two years, constrained.
    #[must_use]
    pub fn new(cluster: ClusterId) -> Self {
        let lifetime = Duration::from_secs(730 * 24 * 3600);
        Self { cluster, lifetime, constrained: true, extra_dns: Vec::new() }
    }
}

impl Root {
    /// A new root for this trust domain.
    ///
    /// # Errors
    /// When the crypto library fails.
    pub fn create(
        trust_domain: &TrustDomain,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<(Self, String), RootError> {
        let key = KeyPair::generate()?;
        let mut params = authority(
            &format!("isthmus root {}", short(&key)),
            trust_domain,
            BasicConstraints::Unconstrained,
        )?;
        dated(&mut params, now, now + lifetime);
        let certificate = params.self_signed(&key)?;
        let key_pem = key.serialize_pem();
        Ok((Self::from_pem(&chain::pem(certificate.der()), &key_pem)?, key_pem))
    }

    /// From PEM texts, such as those of a root made with openssl. The trust domain is `cluster.local` where the
    /// certificate names none.
    ///
    /// # Errors
    /// When they do not fit together.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, RootError> {
        let der = chain::certificates(certificate, ROOT_CERT)?.remove(0);
        let key = KeyPair::from_pem(key)?;
        let x509 = chain::parse(&der, ROOT_CERT)?;
        let wrong = |problem: &str| LoadError::Invalid { file: ROOT_CERT.into(), problem: problem.into() };
        if !x509.is_ca() {
            return Err(wrong("is not a CA certificate").into());
        }
        if x509.public_key().raw != key.subject_public_key_info() {
            return Err(wrong("does not belong to root-key.pem").into());
        }
        let names = x509.subject_alternative_name().ok().flatten();
        let domain = names.iter().flat_map(|san| &san.value.general_names).find_map(|name| match name {
            GeneralName::URI(uri) => TrustDomain::new(uri.strip_prefix("spiffe://")?).ok(),
            _ => None,
        });
        let standard = || TrustDomain::new("cluster.local").expect("this is a trust domain");
        Ok(Self {
            issuer: Issuer::from_ca_cert_der(&der, key)?,
            pem: chain::pem(&der),
            subject: x509.subject().to_string(),
            not_after: from_unix(x509.validity().not_after.timestamp()),
            trust_domain: domain.unwrap_or_else(standard),
        })
    }

    /// Makes a root in a directory: `root-cert.pem`, and `root-key.pem` readable by its owner only.
    ///
    /// # Errors
    /// When there is one already (unless `force`), or the file system refuses.
    pub fn create_in(
        directory: &Path,
        trust_domain: &TrustDomain,
        lifetime: Duration,
        force: bool,
        now: SystemTime,
    ) -> Result<Self, RootError> {
        if !force && directory.join(ROOT_KEY).exists() {
            return Err(RootError::Exists(directory.to_path_buf()));
        }
        let (root, key) = Self::create(trust_domain, lifetime, now)?;
        files::directory(directory)?;
        files::write_secret(&directory.join(ROOT_KEY), &key)?;
        files::write(&directory.join(ROOT_CERT), &root.pem, 0o644)?;
        Ok(root)
    }

    /// Reads a root's directory.
    ///
    /// # Errors
    /// When there is none, or its files do not fit together.
    pub fn load(directory: &Path) -> Result<Self, RootError> {
        let missing = || RootError::NoRoot(directory.to_path_buf());
        let key = files::read(&directory.join(ROOT_KEY))?.ok_or_else(missing)?;
        let certificate = files::read(&directory.join(ROOT_CERT))?.ok_or_else(missing)?;
        Self::from_pem(&certificate, &key)
    }

    /// Signs an intermediate for a cluster; it may sign leaves and no further CAs (path length 0).
    ///
    /// # Errors
    /// When the root has expired or a name cannot be written.
    pub fn intermediate(&self, asked: &Intermediate, now: SystemTime) -> Result<Cacerts, RootError> {
        if self.not_after <= now {
            return Err(RootError::Expired { subject: self.subject.clone() });
        }
        let key = KeyPair::generate()?;
        let name = format!("isthmus intermediate {} {}", asked.cluster, short(&key));
        let mut params = authority(&name, &self.trust_domain, BasicConstraints::Constrained(0))?;
        params.use_authority_key_identifier_extension = true;
        if asked.constrained {
            let own = format!("{}.{FEDERATION}", asked.cluster);
            let names =
                [own].into_iter().chain(SERVING_NAMES.map(String::from)).chain(asked.extra_dns.clone());
            let permitted_subtrees = names.map(GeneralSubtree::DnsName).collect();
            params.name_constraints =
                Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
        }
        dated(&mut params, now, (now + asked.lifetime).min(self.not_after));
        let certificate = chain::pem(params.signed_by(&key, &self.issuer)?.der());
        Ok(Cacerts {
            chain: format!("{certificate}{}", self.pem),
            certificate,
            key: key.serialize_pem(),
            roots: self.pem.clone(),
        })
    }

    /// Signs an intermediate into a directory in the `cacerts` layout.
    ///
    /// # Errors
    /// When one is there already (unless `force`), the root has expired, or the file system refuses.
    pub fn intermediate_in(
        &self,
        directory: &Path,
        asked: &Intermediate,
        force: bool,
        now: SystemTime,
    ) -> Result<Cacerts, RootError> {
        if directory.join(ROOT_KEY).exists() {
            return Err(LoadError::RootKey(directory.join(ROOT_KEY)).into());
        }
        if !force && directory.join(crate::cacerts::CA_KEY).exists() {
            return Err(RootError::Exists(directory.to_path_buf()));
        }
        let made = self.intermediate(asked, now)?;
        made.write(directory)?;
        Ok(made)
    }

    /// The certificate.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Distinguished name.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// End of validity.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The trust domain that it is for.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }
}

fn authority(
    name: &str,
    trust_domain: &TrustDomain,
    length: BasicConstraints,
) -> Result<CertificateParams, RootError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "isthmus");
    params.distinguished_name.push(DnType::CommonName, name);
    // SPIFFE X.509-SVID section 4.1: a signing certificate names its trust domain, without a path.
    let uri = format!("spiffe://{trust_domain}");
    let uri = uri.as_str().try_into().map_err(|_| RootError::Name(uri.clone()))?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.is_ca = IsCa::Ca(length);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// Some digits of the key's hash, so that two CAs never share a name.
fn short(key: &KeyPair) -> String {
    hex(&Sha256::digest(key.subject_public_key_info())[..4])
}
