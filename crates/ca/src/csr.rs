//! Certificate requests from strangers: bounded, proof of possession checked, weak keys refused. Only the key is used.
//!
//! Read with x509-parser and not with rcgen's own reader, which rejects extensions it does not know and can panic on a
//! malformed subject.

use rcgen::SubjectPublicKeyInfo;
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

/// Longest request that is read, in bytes of PEM.
pub const MAX_CSR: usize = 16 * 1024;

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidCsr {
    /// Larger than any honest request.
    #[error("csr has {0} bytes, at most {MAX_CSR} are read")]
    TooLarge(usize),
    /// Not PEM.
    #[error("csr is not PEM (BEGIN CERTIFICATE REQUEST): {0}")]
    Pem(String),
    /// Not PKCS#10.
    #[error("csr is not PKCS#10: {0}")]
    Malformed(String),
    /// A key that is too weak, or of a kind that TLS peers do not take.
    #[error("csr key: {0}; use ECDSA P-256 or P-384, Ed25519, or RSA of 2048 to 8192 bits")]
    Key(String),
    /// Signed with a broken hash.
    #[error("csr is signed with SHA-1; sign it with SHA-256 or better")]
    Sha1,
    /// The sender does not hold the key.
    #[error("csr signature does not fit its key: no proof of possession")]
    NoPossession,
}

/// Reads a request and checks it; what remains is its key.
///
/// # Errors
/// When it is too large, malformed, weak or not signed with its own key.
pub fn public_key(pem: &str) -> Result<SubjectPublicKeyInfo, InvalidCsr> {
    if pem.len() > MAX_CSR {
        return Err(InvalidCsr::TooLarge(pem.len()));
    }
    let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| InvalidCsr::Pem(error.to_string()))?;
    let (rest, csr) =
        X509CertificationRequest::from_der(&der).map_err(|error| InvalidCsr::Malformed(error.to_string()))?;
    if !rest.is_empty() {
        return Err(InvalidCsr::Malformed(format!("{} bytes after its end", rest.len())));
    }
    let key = &csr.certification_request_info.subject_pki;
    check_strength(key)?;
    let algorithm = &csr.signature_algorithm.algorithm;
    if *algorithm == oid_registry::OID_PKCS1_SHA1WITHRSA || *algorithm == oid_registry::OID_SHA1_WITH_RSA {
        return Err(InvalidCsr::Sha1);
    }
    csr.verify_signature().map_err(|_| InvalidCsr::NoPossession)?;
    SubjectPublicKeyInfo::from_der(key.raw).map_err(|error| InvalidCsr::Key(error.to_string()))
}

fn check_strength(key: &x509_parser::x509::SubjectPublicKeyInfo<'_>) -> Result<(), InvalidCsr> {
    let refuse = |text: String| Err(InvalidCsr::Key(text));
    if key.algorithm.algorithm == oid_registry::OID_SIG_ED25519 {
        return Ok(());
    }
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => {
            let bits = rsa.modulus.iter().skip_while(|byte| **byte == 0).count() * 8;
            if !(2048..=8192).contains(&bits) {
                return refuse(format!("RSA of {bits} bits"));
            }
            match rsa.try_exponent() {
                Ok(exponent) if exponent >= 65_537 && exponent % 2 == 1 => Ok(()),
                Ok(exponent) => refuse(format!("RSA with the public exponent {exponent}")),
                Err(_) => refuse("RSA with a public exponent of more than 64 bits".to_string()),
            }
        }
        Ok(PublicKey::EC(_)) => {
            let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
            match curve {
                Some(oid) if oid == oid_registry::OID_EC_P256 || oid == oid_registry::OID_NIST_EC_P384 => {
                    Ok(())
                }
                Some(oid) => refuse(format!("elliptic curve {oid}")),
                None => refuse("elliptic curve given by parameters instead of by name".to_string()),
            }
        }
        Ok(_) => refuse(format!("algorithm {}", key.algorithm.algorithm)),
        Err(error) => refuse(error.to_string()),
    }
}
