//! What a certificate says of its holder.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use isthmus_model::SpiffeId;
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A certificate that cannot be read, or that says contradictory things of its holder.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidCertificate {
    /// Not DER, or not X.509.
    #[error("the certificate is not X.509: {0}")]
    Malformed(String),
    /// SPIFFE X.509-SVID section 2: exactly one URI SAN.
    #[error("certificate {serial} has {count} URI names; a SPIFFE certificate has exactly one")]
    ManyUris {
        /// Serial number, hex.
        serial: String,
        /// URI SANs found.
        count: usize,
    },
    /// The URI is not one of the mesh's identities.
    #[error("certificate {serial}: {source}")]
    Uri {
        /// Serial number, hex.
        serial: String,
        /// What is wrong with it.
        source: isthmus_model::InvalidIdentity,
    },
}

/// The holder of a certificate, as far as the certificate says. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// Workload identity, when it has one.
    pub spiffe: Option<SpiffeId>,
    /// DNS SANs.
    pub dns_names: Arc<[Arc<str>]>,
    /// Serial number, lower-case hex without separators.
    pub serial: Arc<str>,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
    /// Issuer's distinguished name, RFC 4514 style.
    pub issuer: Arc<str>,
    /// Common name of the subject; empty for workloads.
    pub common_name: Arc<str>,
    /// Organizations of the subject: groups of a Kubernetes client certificate.
    pub organizations: Arc<[Arc<str>]>,
    /// Whether the key may make TLS signatures (key usage absent or with digitalSignature).
    pub may_sign: bool,
}

impl PeerCertificate {
    /// Reads a certificate without judging it.
    ///
    /// # Errors
    /// When it is not X.509, or has several URI names or one that is not an identity.
    pub fn parse(der: &CertificateDer<'_>) -> Result<Self, InvalidCertificate> {
        let (_, x509) = X509Certificate::from_der(der)
            .map_err(|error| InvalidCertificate::Malformed(error.to_string()))?;
        let serial = hex(x509.raw_serial());
        let malformed = |error: x509_parser::error::X509Error| {
            InvalidCertificate::Malformed(format!("certificate {serial}: {error}"))
        };
        let names = x509.subject_alternative_name().map_err(malformed)?;
        let names = names.map(|san| san.value.general_names.as_slice()).unwrap_or_default();
        let mut uris = names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        let spiffe = match (uris.next(), uris.count()) {
            (None, _) => None,
            (Some(uri), 0) => Some(
                uri.parse().map_err(|source| InvalidCertificate::Uri { serial: serial.clone(), source })?,
            ),
            (Some(_), more) => return Err(InvalidCertificate::ManyUris { serial, count: more + 1 }),
        };
        let dns_names = names.iter().filter_map(|name| match name {
            GeneralName::DNSName(dns) => Some(Arc::from(dns.to_ascii_lowercase())),
            _ => None,
        });
        let usage = x509.key_usage().map_err(malformed)?;
        let text = |attributes: &mut dyn Iterator<Item = &x509_parser::x509::AttributeTypeAndValue<'_>>| {
            attributes.filter_map(|a| a.as_str().ok().map(Arc::from)).collect::<Vec<Arc<str>>>()
        };
        Ok(Self {
            spiffe,
            dns_names: dns_names.collect(),
            not_before: time(x509.validity().not_before.timestamp()),
            not_after: time(x509.validity().not_after.timestamp()),
            issuer: x509.issuer().to_string().into(),
            common_name: text(&mut x509.subject().iter_common_name()).into_iter().next().unwrap_or_default(),
            organizations: text(&mut x509.subject().iter_organization()).into(),
            may_sign: usage.is_none_or(|usage| usage.value.digital_signature()),
            serial: serial.into(),
        })
    }

    /// The identity, or whatever else names the holder, for messages.
    #[must_use]
    pub fn name(&self) -> String {
        match (&self.spiffe, self.dns_names.first()) {
            (Some(id), _) => id.to_string(),
            (None, Some(dns)) => dns.to_string(),
            (None, None) if !self.common_name.is_empty() => self.common_name.to_string(),
            (None, None) => "a certificate without names".to_string(),
        }
    }
}

impl fmt::Display for PeerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (serial {}, issued by {:?})", self.name(), self.serial, self.issuer)
    }
}

/// From when until when a certificate is valid. Those of CAs may have names that are no peer's.
pub(crate) fn validity(der: &CertificateDer<'_>) -> Option<(SystemTime, SystemTime)> {
    let (_, x509) = X509Certificate::from_der(der).ok()?;
    Some((time(x509.validity().not_before.timestamp()), time(x509.validity().not_after.timestamp())))
}

fn hex(bytes: &[u8]) -> String {
    // DER adds a zero octet before a first byte of 0x80 and above.
    let bytes = match bytes {
        [0, rest @ ..] if !rest.is_empty() => rest,
        whole => whole,
    };
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn time(seconds: i64) -> SystemTime {
    match u64::try_from(seconds) {
        Ok(after) => UNIX_EPOCH + Duration::from_secs(after),
        Err(_) => UNIX_EPOCH,
    }
}
