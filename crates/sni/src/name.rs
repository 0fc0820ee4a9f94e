//! Names of services at the wire: `outbound_.PORT_.SUBSET_.HOST` as TLS server name, `outbound|PORT|SUBSET|HOST` as
//! cluster name.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;
use std::sync::Arc;

use isthmus_model::{Hostname, InvalidName};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Why a text is neither of the service forms nor a plain host.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidServerName {
    /// It begins like the service form and has not its four parts.
    #[error("name {0:?} is not of the form outbound_.PORT_.SUBSET_.HOST (or outbound|PORT|SUBSET|HOST)")]
    Form(String),
    /// The port is not one.
    #[error("name {name:?}: port {port:?} is not in 1..=65535")]
    Port {
        /// The whole text.
        name: String,
        /// The part that should be a port.
        port: String,
    },
    /// The subset is not a DNS label.
    #[error("name {name:?}: subset {subset:?} must be at most 63 of a-z, A-Z, 0-9 and '-'")]
    Subset {
        /// The whole text.
        name: String,
        /// The part that should be a subset.
        subset: String,
    },
    /// The host is malformed.
    #[error("name {name:?}: {source}")]
    Host {
        /// The whole text.
        name: String,
        /// What is wrong with the host.
        source: InvalidName,
    },
}

/// One port of one service, or of a subset of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    port: NonZeroU16,
    subset: Option<Arc<str>>,
    host: Hostname,
}

impl ServiceName {
    /// All endpoints of this port.
    #[must_use]
    pub fn new(port: NonZeroU16, host: Hostname) -> Self {
        Self { port, subset: None, host }
    }

    /// The endpoints of a subset; an empty one means all.
    ///
    /// # Errors
    /// When the subset is not a DNS label.
    pub fn with_subset(
        port: NonZeroU16,
        subset: impl Into<Arc<str>>,
        host: Hostname,
    ) -> Result<Self, InvalidServerName> {
        let subset = subset.into();
        if !is_subset(&subset) {
            return Err(InvalidServerName::Subset { name: host.to_string(), subset: subset.to_string() });
        }
        Ok(Self { port, subset: (!subset.is_empty()).then_some(subset), host })
    }

    /// The service port.
    #[must_use]
    pub fn port(&self) -> NonZeroU16 {
        self.port
    }

    /// The subset, if it names one.
    #[must_use]
    pub fn subset(&self) -> Option<&str> {
        self.subset.as_deref()
    }

    /// The service's host.
    #[must_use]
    pub fn host(&self) -> &Hostname {
        &self.host
    }

    /// `outbound_.PORT_.SUBSET_.HOST`.
    #[must_use]
    pub fn sni(&self) -> String {
        format!("outbound_.{}_.{}_.{}", self.port, self.subset().unwrap_or(""), self.host)
    }

    /// `outbound|PORT|SUBSET|HOST`.
    #[must_use]
    pub fn cluster(&self) -> String {
        format!("outbound|{}|{}|{}", self.port, self.subset().unwrap_or(""), self.host)
    }

    /// Reads `outbound_.PORT_.SUBSET_.HOST`.
    ///
    /// # Errors
    /// When it is not of that form, naming the part.
    pub fn from_sni(text: &str) -> Result<Self, InvalidServerName> {
        Self::split(text, "_.")
    }

    /// Reads `outbound|PORT|SUBSET|HOST`.
    ///
    /// # Errors
    /// When it is not of that form, naming the part.
    pub fn from_cluster(text: &str) -> Result<Self, InvalidServerName> {
        Self::split(text, "|")
    }

    fn split(text: &str, separator: &str) -> Result<Self, InvalidServerName> {
        let form = || InvalidServerName::Form(text.to_string());
        let mut parts = text.splitn(5, separator);
        let (Some("outbound"), Some(port), Some(subset), Some(host), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(form());
        };
        let digits = port.bytes().all(|b| b.is_ascii_digit()) && !port.starts_with('0');
        let port = digits
            .then(|| port.parse().ok())
            .flatten()
            .ok_or_else(|| InvalidServerName::Port { name: text.to_string(), port: port.to_string() })?;
        if !is_subset(subset) {
            return Err(InvalidServerName::Subset { name: text.to_string(), subset: subset.to_string() });
        }
        let host = Hostname::new(host)
            .map_err(|source| InvalidServerName::Host { name: text.to_string(), source })?;
        Ok(Self { port, subset: (!subset.is_empty()).then(|| subset.into()), host })
    }
}

/// What stands for a server name where many are kept: the first eight bytes of its SHA-256, big-endian. Short enough to keep for
/// every service of a mesh, and nobody makes another name with the hash of an exported one by the way.
#[must_use]
pub fn name_hash(server_name: &str) -> u64 {
    let digest = Sha256::digest(server_name.as_bytes());
    digest.iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

/// `inbound|PORT||`, the cluster of a workload's own port.
#[must_use]
pub fn inbound_cluster(port: u16) -> String {
    format!("inbound|{port}||")
}

fn is_subset(text: &str) -> bool {
    text.len() <= 63 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// A TLS server name as mesh clients send it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServerName {
    /// `outbound_.PORT_.SUBSET_.HOST`: a service behind the gateway.
    Service(ServiceName),
    /// Any other host, such as a control plane's.
    Plain(Hostname),
}

impl FromStr for ServerName {
    type Err = InvalidServerName;

    fn from_str(text: &str) -> Result<Self, InvalidServerName> {
        if text.starts_with("outbound_.") {
            return ServiceName::from_sni(text).map(Self::Service);
        }
        Hostname::new(text)
            .map(Self::Plain)
            .map_err(|source| InvalidServerName::Host { name: text.to_string(), source })
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(service) => f.write_str(&service.sni()),
            Self::Plain(host) => write!(f, "{host}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn service_names_have_istios_two_forms() {
        let host = Hostname::new("reviews.default.svc.cluster.local").unwrap();
        let port = NonZeroU16::new(9080).unwrap();
        let all = ServiceName::new(port, host.clone());
        assert_eq!(all.sni(), "outbound_.9080_._.reviews.default.svc.cluster.local");
        assert_eq!(all.cluster(), "outbound|9080||reviews.default.svc.cluster.local");
        let v2 = ServiceName::with_subset(port, "v2", host).unwrap();
        assert_eq!(v2.sni(), "outbound_.9080_.v2_.reviews.default.svc.cluster.local");
        for name in [all, v2] {
            assert_eq!(ServiceName::from_sni(&name.sni()).unwrap(), name);
            assert_eq!(ServiceName::from_cluster(&name.cluster()).unwrap(), name);
        }
    }

    #[test]
    fn a_hash_is_the_same_on_every_machine() {
        // sha256sum of "abc": ba7816bf8f01cfea…
        assert_eq!(name_hash("abc"), 0xba78_16bf_8f01_cfea);
    }

    #[test]
    fn other_names_are_plain() {
        let name: ServerName = "default.west.federation.isthmus.internal".parse().unwrap();
        assert!(matches!(name, ServerName::Plain(_)));
        assert_eq!(name.to_string(), "default.west.federation.isthmus.internal");
    }

    #[test]
    fn malformed_names_say_which_part() {
        let problem = |text: &str| text.parse::<ServerName>().unwrap_err().to_string();
        assert!(problem("outbound_.9080_.reviews").contains("not of the form"));
        assert!(problem("outbound_.9080_._.a_.b").contains("not of the form"), "a fifth part");
        assert!(problem("outbound_.0_._.a.b").contains("port \"0\""));
        assert!(problem("outbound_.+80_._.a.b").contains("port \"+80\""));
        assert!(problem("outbound_.65536_._.a.b").contains("port \"65536\""));
        assert!(problem("outbound_.80_.v/2_.a.b").contains("subset \"v/2\""));
        assert!(problem("outbound_.80_._.A.b").contains("host \"A.b\""));
        assert!(problem("").contains("host"));
        assert!(ServiceName::from_cluster("inbound|80||").is_err());
        assert!(ServiceName::from_cluster("PassthroughCluster").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_what_is_read_prints_back(text in ".{0,80}|outbound_\\.[0-9]{0,6}_\\.[a-z0-9_.]{0,40}") {
            if let Ok(name) = text.parse::<ServerName>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }
}
