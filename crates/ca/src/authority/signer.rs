//! What the signer's own certificate allows.

use std::time::SystemTime;

use isthmus_model::TrustDomain;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;

use super::IssueError;
use super::chain::invalid;
use crate::cacerts::{CA_CERT, LoadError};
use crate::names::{BACKDATE, Names, from_unix};

/// What matters of the signer's certificate.
#[derive(Debug)]
pub(super) struct Signer {
    pub(super) subject: String,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    pub(super) trust_domain: Option<TrustDomain>,
    permitted_dns: Option<Vec<String>>,
}

impl Signer {
    pub(super) fn read(x509: &X509Certificate<'_>) -> Result<Self, LoadError> {
        let subject = x509.subject().to_string();
        if !x509.is_ca() {
            return Err(invalid(CA_CERT, format!("{subject:?} is not a CA certificate")));
        }
        let malformed = |error: x509_parser::error::X509Error| invalid(CA_CERT, error.to_string());
        if x509.key_usage().map_err(malformed)?.is_some_and(|usage| !usage.value.key_cert_sign()) {
            return Err(invalid(
                CA_CERT,
                format!("key usage of {subject:?} does not allow signing certificates"),
            ));
        }
        let names = x509.subject_alternative_name().map_err(malformed)?;
        let trust_domain =
            names.iter().flat_map(|san| &san.value.general_names).find_map(|name| match name {
                GeneralName::URI(uri) => {
                    TrustDomain::new(uri.strip_prefix("spiffe://")?.trim_end_matches('/')).ok()
                }
                _ => None,
            });
        let constraints = x509.name_constraints().map_err(malformed)?;
        let permitted = constraints.and_then(|found| found.value.permitted_subtrees.as_ref());
        let permitted_dns: Option<Vec<String>> = permitted.map(|subtrees| {
            let dns = subtrees.iter().filter_map(|subtree| match subtree.base {
                GeneralName::DNSName(name) => Some(name.to_string()),
                _ => None,
            });
            dns.collect()
        });
        Ok(Self {
            subject,
            not_before: from_unix(x509.validity().not_before.timestamp()),
            not_after: from_unix(x509.validity().not_after.timestamp()),
            trust_domain,
            permitted_dns: permitted_dns.filter(|names| !names.is_empty()),
        })
    }

    pub(super) fn check_time(&self, now: SystemTime) -> Result<(), IssueError> {
        let problem = if self.not_after <= now {
            "has expired"
        } else if self.not_before > now + BACKDATE {
            "is not valid yet: compare the clocks"
        } else {
            return Ok(());
        };
        Err(IssueError::Signer { subject: self.subject.clone(), problem })
    }

    pub(super) fn check_names(&self, names: &Names) -> Result<(), IssueError> {
        let refuse = |name: String, problem: String| Err(IssueError::Name { name, problem });
        if names.is_empty() {
            return refuse("a certificate".to_string(), "needs at least one name".to_string());
        }
        if let (Some(id), Some(own)) = (&names.spiffe, &self.trust_domain)
            && id.trust_domain != *own
        {
            return refuse(id.to_string(), format!("this CA vouches for trust domain {own} only"));
        }
        let Some(permitted) = &self.permitted_dns else { return Ok(()) };
        for name in &names.dns {
            // RFC 5280 section 4.2.1.10: a constraint covers its own name and all below it.
            let covered = |base: &String| {
                name == base || name.strip_suffix(base.as_str()).is_some_and(|head| head.ends_with('.'))
            };
            if !permitted.iter().any(covered) {
                let problem = format!("this CA vouches only for DNS names in {}", permitted.join(", "));
                return refuse(name.clone(), problem);
            }
        }
        Ok(())
    }
}
