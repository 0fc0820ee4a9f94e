//! Workload identities: `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::name::{InvalidName, Namespace, TrustDomain};
use crate::shared::shared;

/// A workload's identity in Istio's form of a SPIFFE ID.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    /// Trust domain.
    pub trust_domain: TrustDomain,
    /// Namespace of the service account.
    pub namespace: Namespace,
    /// Service account.
    pub service_account: Arc<str>,
}

/// Why a text is not such an identity.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidIdentity {
    /// Not of the form at all.
    #[error("identity {0:?} is not of the form spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT")]
    Form(String),
    /// A part of it is malformed.
    #[error("identity {uri:?}: {source}")]
    Part {
        /// The whole text.
        uri: String,
        /// Which part and why.
        source: InvalidName,
    },
}

impl SpiffeId {
    /// The policy form without the scheme: `TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`.
    #[must_use]
    pub fn principal(&self) -> String {
        format!("{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidIdentity;

    fn from_str(uri: &str) -> Result<Self, InvalidIdentity> {
        let form = || InvalidIdentity::Form(uri.to_string());
        let rest = uri.strip_prefix("spiffe://").ok_or_else(form)?;
        let parts: Vec<&str> = rest.split('/').collect();
        let [domain, "ns", namespace, "sa", account] = parts[..] else { return Err(form()) };
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if account.is_empty() || account.len() > 253 || !account.bytes().all(allowed) {
            return Err(form());
        }
        let part = |source| InvalidIdentity::Part { uri: uri.to_string(), source };
        Ok(Self {
            trust_domain: TrustDomain::new(domain).map_err(part)?,
            namespace: Namespace::new(namespace).map_err(part)?,
            service_account: shared(account),
        })
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = InvalidIdentity;

    fn try_from(uri: String) -> Result<Self, InvalidIdentity> {
        uri.parse()
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_survive_a_round_trip_and_nothing_else_parses() {
        let text = "spiffe://cluster.local/ns/default/sa/bookinfo-reviews";
        let id: SpiffeId = text.parse().unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(id.principal(), "cluster.local/ns/default/sa/bookinfo-reviews");
        for bad in [
            "",
            "spiffe://",
            "spiffe://a/ns/b/sa/",
            "spiffe://a/ns/b/sa/c/d",
            "https://a/ns/b/sa/c",
            "spiffe://A/ns/b/sa/c",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad}");
        }
    }
}
