//! Certificates that are read and put in order.

use std::time::SystemTime;

use rcgen::{Issuer, KeyPair};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Held;
use crate::cacerts::{CA_CERT, CERT_CHAIN, LoadError, ROOT_CERT};
use crate::names::{from_unix, hex, leaf};

/// The signer and the intermediates above it, up to but without the root.
pub(super) fn above(
    own: &CertificateDer<'static>,
    candidates: &[CertificateDer<'static>],
    roots: &[CertificateDer<'static>],
) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    let mut path = vec![own.clone()];
    loop {
        let last = path.last().unwrap_or(own);
        if roots.contains(last) {
            // The signer may be a root itself, as Istio's self-signed CA is; members have it.
            path.pop();
            return Ok(path);
        }
        if roots.iter().any(|root| signed_by(last, root)) {
            return Ok(path);
        }
        let next = candidates.iter().find(|above| !path.contains(above) && signed_by(last, above));
        match next {
            Some(above) => path.push(above.clone()),
            None => {
                let subject = parse(last, CERT_CHAIN)?.issuer().to_string();
                let problem = format!(
                    "the chain ends at an unknown issuer {subject:?}: it is neither here nor in {ROOT_CERT}"
                );
                return Err(invalid(CERT_CHAIN, problem));
            }
        }
    }
}

pub(crate) fn signed_by(below: &CertificateDer<'_>, above: &CertificateDer<'_>) -> bool {
    let (Ok((_, below)), Ok((_, above))) =
        (X509Certificate::from_der(below), X509Certificate::from_der(above))
    else {
        return false;
    };
    below.issuer().as_raw() == above.subject().as_raw()
        && below.verify_signature(Some(above.public_key())).is_ok()
}

/// Signs a certificate for nobody: proves that the key works and that the issuer's name comes out as it went in.
pub(super) fn probe(
    issuer: &Issuer<'static, KeyPair>,
    x509: &X509Certificate<'_>,
    at: SystemTime,
) -> Result<(), LoadError> {
    let failed = |problem: String| invalid(CA_CERT, problem);
    let key = KeyPair::generate().map_err(|error| failed(error.to_string()))?;
    let certificate =
        leaf(Vec::new(), at, at).signed_by(&key, issuer).map_err(|error| failed(error.to_string()))?;
    let signed = parse(certificate.der(), CA_CERT)?;
    if signed.issuer().as_raw() != x509.subject().as_raw() {
        let subject = x509.subject();
        return Err(failed(format!(
            "its subject {subject} has a form that cannot be written back (repeated parts)"
        )));
    }
    signed.verify_signature(Some(x509.public_key())).map_err(|error| failed(error.to_string()))
}

pub(super) fn held(
    kind: &'static str,
    der: &CertificateDer<'_>,
    file: &'static str,
) -> Result<Held, LoadError> {
    use sha2::{Digest, Sha256};
    let x509 = parse(der, file)?;
    Ok(Held {
        kind,
        subject: x509.subject().to_string(),
        not_after: from_unix(x509.validity().not_after.timestamp()),
        fingerprint: hex(&Sha256::digest(der)),
    })
}

pub(crate) fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in body.as_bytes().chunks(64) {
        text.extend(line.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    text + "-----END CERTIFICATE-----\n"
}

pub(crate) fn certificates(pem: &str, file: &'static str) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| invalid(file, format!("damaged PEM: {error}")))?;
    if found.is_empty() {
        return Err(invalid(file, "holds no certificate".to_string()));
    }
    Ok(found)
}

/// As [`certificates`], each proved to be X.509.
pub(super) fn certificates_of(
    pem: &str,
    file: &'static str,
) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    let found = certificates(pem, file)?;
    for der in &found {
        parse(der, file)?;
    }
    Ok(found)
}

pub(crate) fn parse<'a>(der: &'a [u8], file: &'static str) -> Result<X509Certificate<'a>, LoadError> {
    X509Certificate::from_der(der)
        .map(|(_, x509)| x509)
        .map_err(|error| invalid(file, format!("not an X.509 certificate: {error}")))
}

pub(super) fn invalid(file: &str, problem: String) -> LoadError {
    LoadError::Invalid { file: file.to_string(), problem }
}
