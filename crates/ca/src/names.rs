//! Whom a certificate is for.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use isthmus_model::SpiffeId;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType,
    SerialNumber,
};

/// Clocks of others may be this far behind.
pub(crate) const BACKDATE: Duration = Duration::from_secs(120);

/// Names of a leaf. Decided by whoever authenticated the caller; what the CSR asks for is ignored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Names {
    /// Workload identity, as URI SAN.
    pub spiffe: Option<SpiffeId>,
    /// DNS SANs, for control planes.
    pub dns: Vec<String>,
    /// IP SANs, for control planes.
    pub ips: Vec<IpAddr>,
}

impl Names {
    /// A workload: its identity and nothing else.
    #[must_use]
    pub fn workload(id: SpiffeId) -> Self {
        Self { spiffe: Some(id), ..Self::default() }
    }

    /// A server: DNS names and addresses, and an identity when it has one.
    #[must_use]
    pub fn serving(spiffe: Option<SpiffeId>, dns: Vec<String>, ips: Vec<IpAddr>) -> Self {
        Self { spiffe, dns, ips }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.spiffe.is_none() && self.dns.is_empty() && self.ips.is_empty()
    }

    /// SANs for rcgen; the name that is not ASCII, if one is not.
    pub(crate) fn sans(&self) -> Result<Vec<SanType>, String> {
        let mut sans = Vec::new();
        if let Some(id) = &self.spiffe {
            let uri = id.to_string();
            sans.push(SanType::URI(uri.as_str().try_into().map_err(|_| uri.clone())?));
        }
        for name in &self.dns {
            sans.push(SanType::DnsName(name.as_str().try_into().map_err(|_| name.clone())?));
        }
        sans.extend(self.ips.iter().copied().map(SanType::IpAddress));
        Ok(sans)
    }
}

/// What every leaf has: empty subject (and so critical SANs), server and client usage, random serial.
pub(crate) fn leaf(sans: Vec<SanType>, now: SystemTime, not_after: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = sans;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    dated(&mut params, now, not_after);
    params
}

/// Serial number and validity of any certificate of ours.
pub(crate) fn dated(params: &mut CertificateParams, now: SystemTime, not_after: SystemTime) {
    params.serial_number = Some(serial());
    params.not_before = whole_seconds(now - BACKDATE).into();
    params.not_after = whole_seconds(not_after).into();
}

/// 128 random bits (CA/Browser Forum asks for 64), never zero.
fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] |= 1;
    SerialNumber::from_slice(&bytes)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn whole_seconds(at: SystemTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}

pub(crate) fn from_unix(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}
