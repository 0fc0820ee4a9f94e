//! Keys on the holder's side.

use std::fmt;

use rcgen::{CertificateParams, DistinguishedName, KeyPair};

/// A fresh key with the request to certify it. `Debug` leaves the key out.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyAndCsr {
    /// PKCS#8 PEM.
    pub key_pem: String,
    /// PKCS#10 PEM. Names nobody: the certificate service decides whom it speaks with.
    pub csr_pem: String,
}

impl KeyAndCsr {
    /// A new ECDSA P-256 key.
    #[must_use]
    pub fn generate() -> Self {
        let key = KeyPair::generate().expect("the crypto library makes P-256 keys");
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&key).expect("a request without names can be encoded");
        let csr_pem = csr.pem().expect("an encoded request has a PEM form");
        Self { key_pem: key.serialize_pem(), csr_pem }
    }
}

impl fmt::Debug for KeyAndCsr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyAndCsr").field("csr_pem", &self.csr_pem).finish_non_exhaustive()
    }
}

/// A key with its chain, leaf first, and the roots above. `Debug` leaves the key out.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyAndChain {
    /// PKCS#8 PEM.
    pub key_pem: String,
    /// Leaf, then intermediates.
    pub chain_pem: String,
    /// Roots.
    pub roots_pem: String,
}

impl fmt::Debug for KeyAndChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyAndChain").field("chain_pem", &self.chain_pem).finish_non_exhaustive()
    }
}
