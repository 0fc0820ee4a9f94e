//! Trust bundles: which roots may vouch for which trust domain.

use std::collections::BTreeMap;
use std::sync::Arc;

use isthmus_model::TrustDomain;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Why a text is not a bundle of roots.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidRoots {
    /// PEM armour or base64 is damaged.
    #[error("root certificates: damaged PEM: {0}")]
    Pem(String),
    /// No certificate in it. Never read as "trust nobody": the caller keeps what it had.
    #[error("root certificates: the text holds no certificate")]
    Empty,
    /// One of them is not a CA certificate that can be an anchor.
    #[error("root certificates: number {position} cannot be a trust anchor: {problem}")]
    Anchor {
        /// Counted from 1.
        position: usize,
        /// What is wrong.
        problem: String,
    },
}

/// Roots of one trust domain.
pub(crate) struct Bundle {
    pub(crate) anchors: Vec<TrustAnchor<'static>>,
    certificates: Vec<CertificateDer<'static>>,
    pem: Arc<str>,
}

impl Bundle {
    fn parse(pem: &str) -> Result<Self, InvalidRoots> {
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| InvalidRoots::Pem(error.to_string()))?;
        if certificates.is_empty() {
            return Err(InvalidRoots::Empty);
        }
        let anchor = |(index, certificate): (usize, &CertificateDer<'static>)| {
            webpki::anchor_from_trusted_cert(certificate)
                .map(|anchor| anchor.to_owned())
                .map_err(|error| InvalidRoots::Anchor { position: index + 1, problem: error.to_string() })
        };
        let anchors = certificates.iter().enumerate().map(anchor).collect::<Result<_, _>>()?;
        Ok(Self { anchors, certificates, pem: pem.into() })
    }
}

/// Whom to believe. A CA of one domain never vouches for a name in another. Cheap to clone.
#[derive(Clone)]
pub struct Trust {
    home: Option<TrustDomain>,
    named: Arc<Bundle>,
    domains: BTreeMap<TrustDomain, Arc<Bundle>>,
}

impl Trust {
    /// Trust of a mesh member: these roots vouch for identities of its own domain, and for the DNS names of its control
    /// planes.
    ///
    /// # Errors
    /// When the PEM text is not a bundle of CA certificates.
    pub fn mesh(home: TrustDomain, roots_pem: &str) -> Result<Self, InvalidRoots> {
        let bundle = Arc::new(Bundle::parse(roots_pem)?);
        Ok(Self {
            home: Some(home.clone()),
            named: Arc::clone(&bundle),
            domains: BTreeMap::from([(home, bundle)]),
        })
    }

    /// Trust outside any domain: these roots vouch for DNS names and for clients without a workload identity. For a
    /// private API server, and for a machine that has a join token and no identity yet.
    ///
    /// # Errors
    /// When the PEM text is not a bundle of CA certificates.
    pub fn private(roots_pem: &str) -> Result<Self, InvalidRoots> {
        Ok(Self { home: None, named: Arc::new(Bundle::parse(roots_pem)?), domains: BTreeMap::new() })
    }

    /// Also believes these roots about this domain, in place of what it held for it.
    ///
    /// # Errors
    /// When the PEM text is not a bundle of CA certificates.
    pub fn with_domain(mut self, domain: TrustDomain, roots_pem: &str) -> Result<Self, InvalidRoots> {
        let bundle = Arc::new(Bundle::parse(roots_pem)?);
        if self.home.as_ref() == Some(&domain) {
            self.named = Arc::clone(&bundle);
        }
        self.domains.insert(domain, bundle);
        Ok(self)
    }

    /// The own trust domain; none for private trust.
    #[must_use]
    pub fn home(&self) -> Option<&TrustDomain> {
        self.home.as_ref()
    }

    /// All domains with roots.
    pub fn domains(&self) -> impl Iterator<Item = &TrustDomain> {
        self.domains.keys()
    }

    /// The own roots as PEM.
    #[must_use]
    pub fn roots_pem(&self) -> &Arc<str> {
        &self.named.pem
    }

    /// Roots of one domain as PEM.
    #[must_use]
    pub fn domain_pem(&self, domain: &TrustDomain) -> Option<&Arc<str>> {
        self.domains.get(domain).map(|bundle| &bundle.pem)
    }

    /// SHA-256 of each own root's DER, lower-case hex.
    #[must_use]
    pub fn fingerprints(&self) -> Vec<String> {
        self.named.certificates.iter().map(fingerprint).collect()
    }

    pub(crate) fn named(&self) -> &Bundle {
        &self.named
    }

    pub(crate) fn domain(&self, domain: &TrustDomain) -> Option<&Bundle> {
        self.domains.get(domain).map(|bundle| &**bundle)
    }
}

/// SHA-256 of a certificate's DER, lower-case hex.
#[must_use]
pub fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    Sha256::digest(certificate).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust")
            .field("home", &self.home)
            .field("domains", &self.domains.keys().collect::<Vec<_>>())
            .field("roots", &self.named.certificates.len())
            .finish()
    }
}
