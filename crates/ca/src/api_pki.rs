//! The private CA of a standalone API server: its serving certificate, and client certificates for administrators. It
//! vouches for nobody in the mesh, and no intermediate of the mesh vouches for the API server.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData,
};
use thiserror::Error;
use x509_parser::extensions::GeneralName;

use crate::authority::chain;
use crate::cacerts::LoadError;
use crate::files::{self, WriteError};
use crate::names::{Names, dated, from_unix, leaf};
use crate::request::KeyAndChain;

/// The CA certificate's file in the directory.
pub const CA_CERT: &str = "api-ca-cert.pem";
/// The CA key's file in the directory.
pub const CA_KEY: &str = "api-ca-key.pem";
const SERVER_CERT: &str = "api-server-cert.pem";
const SERVER_KEY: &str = "api-server-key.pem";
const CA_LIFETIME: Duration = Duration::from_secs(3650 * 24 * 3600);
/// Leaves of this CA live a year and are renewed when a third of it is left.
const LEAF_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// Why the API server has no certificates.
#[derive(Debug, Error)]
pub enum ApiPkiError {
    /// The file system.
    #[error(transparent)]
    File(#[from] WriteError),
    /// What was read.
    #[error("{}: {source}", directory.display())]
    Load {
        /// Where.
        directory: PathBuf,
        /// What is wrong.
        source: Box<LoadError>,
    },
    /// A name that cannot be written.
    #[error("api server name {0:?} cannot be written into a certificate: it is not ASCII")]
    Name(String),
    /// The crypto library failed.
    #[error("making a certificate failed: {0}")]
    Sign(#[from] rcgen::Error),
}

/// The CA with its directory.
#[derive(Debug)]
pub struct ApiPki {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
}

impl ApiPki {
    /// Opens the CA in a directory, made on first use (files 0600).
    ///
    /// # Errors
    /// When files cannot be read, written, or do not fit together.
    pub fn open(directory: &Path, now: SystemTime) -> Result<Self, ApiPkiError> {
        files::directory(directory)?;
        let (cert_file, key_file) = (directory.join(CA_CERT), directory.join(CA_KEY));
        let (ca_pem, key_pem) = match (files::read(&cert_file)?, files::read(&key_file)?) {
            (Some(certificate), Some(key)) => (certificate, key),
            (Some(_), None) => {
                let problem = format!("is there without its key {CA_KEY}; restore it, or remove {CA_CERT}");
                let source = Box::new(LoadError::Invalid { file: CA_CERT.to_string(), problem });
                return Err(ApiPkiError::Load { directory: directory.to_path_buf(), source });
            }
            // The certificate is written last: without it nothing was ever signed.
            (None, _) => {
                let (certificate, key) = Self::create(now)?;
                files::write_secret(&key_file, &key)?;
                files::write_secret(&cert_file, &certificate)?;
                (certificate, key)
            }
        };
        let load =
            |source| ApiPkiError::Load { directory: directory.to_path_buf(), source: Box::new(source) };
        let der = chain::certificates(&ca_pem, CA_CERT).map_err(load)?.remove(0);
        let key = KeyPair::from_pem(&key_pem)?;
        if chain::parse(&der, CA_CERT).map_err(load)?.public_key().raw != key.subject_public_key_info() {
            let problem = format!("does not belong to {CA_KEY}");
            return Err(load(LoadError::Invalid { file: CA_CERT.to_string(), problem }));
        }
        let issuer = Issuer::from_ca_cert_der(&der, key)?;
        Ok(Self { directory: directory.to_path_buf(), issuer, ca_pem })
    }

    fn create(now: SystemTime) -> Result<(String, String), rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "isthmus api server ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        dated(&mut params, now, now + CA_LIFETIME);
        Ok((chain::pem(params.self_signed(&key)?.der()), key.serialize_pem()))
    }

    /// The CA certificate: what clients trust, and what client certificates are checked against.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The serving certificate for these names: the stored one while it has exactly them and a third of its life,
    /// otherwise a new one, stored.
    ///
    /// # Errors
    /// When files cannot be read or written, or a name cannot be encoded.
    pub fn server(
        &self,
        dns: &[String],
        ips: &[IpAddr],
        now: SystemTime,
    ) -> Result<KeyAndChain, ApiPkiError> {
        let names = Names::serving(None, dns.to_vec(), ips.to_vec());
        let (cert_file, key_file) = (self.directory.join(SERVER_CERT), self.directory.join(SERVER_KEY));
        if let (Some(chain_pem), Some(key_pem)) = (files::read(&cert_file)?, files::read(&key_file)?)
            && self.still_good(&chain_pem, &key_pem, &names, now)
        {
            return Ok(KeyAndChain { key_pem, chain_pem, roots_pem: self.ca_pem.clone() });
        }
        let sans = names.sans().map_err(ApiPkiError::Name)?;
        let mut params = leaf(sans, now, now + LEAF_LIFETIME);
        params.distinguished_name.push(DnType::CommonName, "isthmus api server");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let made = self.sign(&params)?;
        files::write_secret(&key_file, &made.key_pem)?;
        files::write_secret(&cert_file, &made.chain_pem)?;
        Ok(made)
    }

    /// A client certificate that Kubernetes' rules read as this user in this group. Administrators are in
    /// `system:masters`.
    ///
    /// # Errors
    /// When the crypto library fails.
    pub fn client(
        &self,
        user: &str,
        group: &str,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<KeyAndChain, ApiPkiError> {
        let mut params = leaf(Vec::new(), now, now + lifetime);
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.distinguished_name.push(DnType::CommonName, user);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params)
    }

    /// A client certificate for an administrator, one year.
    ///
    /// # Errors
    /// When the crypto library fails.
    pub fn admin(&self, now: SystemTime) -> Result<KeyAndChain, ApiPkiError> {
        self.client("isthmus-admin", "system:masters", LEAF_LIFETIME, now)
    }

    fn sign(&self, params: &CertificateParams) -> Result<KeyAndChain, ApiPkiError> {
        let key = KeyPair::generate()?;
        let chain_pem = chain::pem(params.signed_by(&key, &self.issuer)?.der());
        Ok(KeyAndChain { key_pem: key.serialize_pem(), chain_pem, roots_pem: self.ca_pem.clone() })
    }

    fn still_good(&self, chain_pem: &str, key_pem: &str, names: &Names, now: SystemTime) -> bool {
        let Ok(found) = chain::certificates(chain_pem, SERVER_CERT) else { return false };
        let Ok(x509) = chain::parse(&found[0], SERVER_CERT) else { return false };
        let Ok(key) = KeyPair::from_pem(key_pem) else { return false };
        let ca = chain::certificates(&self.ca_pem, CA_CERT).unwrap_or_default();
        let ours = ca.first().is_some_and(|ca| chain::signed_by(&found[0], ca));
        let belongs = x509.public_key().raw == key.subject_public_key_info();
        let lasts = from_unix(x509.validity().not_after.timestamp()) > now + LEAF_LIFETIME / 3;
        let san = x509.subject_alternative_name().ok().flatten();
        let mut has: Vec<String> = san.iter().flat_map(|san| &san.value.general_names).map(written).collect();
        let mut wants: Vec<String> = names.dns.clone();
        wants.extend(names.ips.iter().map(IpAddr::to_string));
        has.sort_unstable();
        wants.sort_unstable();
        ours && belongs && lasts && has == wants
    }
}

fn written(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DNSName(dns) => (*dns).to_string(),
        GeneralName::IPAddress(bytes) => match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
            (Ok(four), _) => IpAddr::from(four).to_string(),
            (_, Ok(sixteen)) => IpAddr::from(sixteen).to_string(),
            _ => String::new(),
        },
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_795_500_000)
    }

    #[test]
    fn the_serving_certificate_is_kept_until_names_change_or_a_third_of_its_life_is_left() {
        let place = tempfile::tempdir().unwrap();
        let names = ["kubernetes.default.svc".to_string(), "localhost".to_string()];
        let ips = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let first = ApiPki::open(place.path(), now()).unwrap().server(&names, &ips, now()).unwrap();
        let pki = ApiPki::open(place.path(), now()).unwrap();
        assert_eq!(pki.server(&names, &ips, now()).unwrap(), first);
        let moved = pki.server(&names, &ips[..1], now()).unwrap();
        assert_ne!(moved, first);
        assert_eq!(pki.server(&names, &ips[..1], now()).unwrap(), moved);
        assert_ne!(pki.server(&names, &ips[..1], now() + LEAF_LIFETIME * 3 / 4).unwrap(), moved);
    }

    #[test]
    fn an_administrator_is_in_the_group_that_kubernetes_gives_everything() {
        let place = tempfile::tempdir().unwrap();
        let pki = ApiPki::open(place.path(), now()).unwrap();
        let admin = pki.admin(now()).unwrap();
        let der = chain::certificates(&admin.chain_pem, CA_CERT).unwrap().remove(0);
        let subject = chain::parse(&der, CA_CERT).unwrap().subject().to_string();
        assert_eq!(subject, "O=system:masters, CN=isthmus-admin");
        std::fs::remove_file(place.path().join(CA_KEY)).unwrap();
        let error = ApiPki::open(place.path(), now()).unwrap_err().to_string();
        assert!(error.contains("is there without its key"), "{error}");
    }
}
