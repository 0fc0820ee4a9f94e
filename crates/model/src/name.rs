//! Names that cannot be mixed up or malformed.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::shared::shared;

/// Why a text is not a name of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{kind} {value:?} {problem}")]
pub struct InvalidName {
    /// What was being read, such as `cluster name`.
    pub kind: &'static str,
    /// The text.
    pub value: String,
    /// What is wrong with it and what would be right.
    pub problem: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:expr, $keep:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks the text.
            ///
            /// # Errors
            /// When it is not a name of this kind.
            pub fn new(text: impl Into<Arc<str>>) -> Result<Self, InvalidName> {
                let text = text.into();
                let check: fn(&str) -> Result<(), &'static str> = $check;
                match check(&text) {
                    Ok(()) => {
                        let keep: fn(Arc<str>) -> Arc<str> = $keep;
                        Ok(Self(keep(text)))
                    }
                    Err(problem) => Err(InvalidName { kind: $kind, value: text.to_string(), problem }),
                }
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }
        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.to_string()
            }
        }
        impl From<$name> for Arc<str> {
            fn from(name: $name) -> Self {
                name.0
            }
        }
    };
}

/// RFC 1123 label: at most 63 of `a-z 0-9 -`, neither first nor last a dash.
fn dns_label(text: &str) -> Result<(), &'static str> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if text.is_empty() || text.len() > 63 {
        return Err("must have 1 to 63 characters");
    }
    if !text.bytes().all(inner) {
        return Err("may hold only a-z, 0-9 and '-'");
    }
    if text.starts_with('-') || text.ends_with('-') {
        return Err("must start and end with a letter or digit");
    }
    Ok(())
}

/// A host as services carry it: lower case labels of at most 63, 253 in all; the first may be `*`. `_` is let through, as
/// DNS SRV style names and Istio do.
fn hostname(text: &str) -> Result<(), &'static str> {
    if text.is_empty() || text.len() > 253 {
        return Err("must have 1 to 253 characters");
    }
    for (position, label) in text.split('.').enumerate() {
        if position == 0 && label == "*" {
            continue;
        }
        if label.is_empty() || label.len() > 63 {
            return Err("must consist of labels of 1 to 63 characters");
        }
        if !label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_') {
            return Err("may hold only a-z, 0-9, '-', '_' and '.'");
        }
    }
    Ok(())
}

fn printable(text: &str) -> Result<(), &'static str> {
    if text.len() > 253 {
        return Err("must have at most 253 characters");
    }
    if text.bytes().any(|b| b <= b' ' || b == 0x7f || b == b'~' || b == b'|') {
        return Err("must not hold spaces, control characters, '~' or '|'");
    }
    Ok(())
}

fn trust_domain(text: &str) -> Result<(), &'static str> {
    if text.is_empty() || text.len() > 255 {
        return Err("must have 1 to 255 characters");
    }
    if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.'))
    {
        return Err("may hold only a-z, 0-9, '-', '_' and '.' (SPIFFE-ID section 2.1)");
    }
    Ok(())
}

name!(
    /// One source of services, such as `east`; unique in a mesh.
    ClusterId, "cluster name", dns_label, shared
);
name!(
    /// A network: workloads of one reach each other directly. Empty is the default network, equal to any.
    NetworkId, "network", printable, shared
);
name!(
    /// A Kubernetes namespace.
    Namespace, "namespace", dns_label, shared
);
name!(
    /// A service's host, such as `reviews.default.svc.cluster.local` or `*.example.com`; lower case.
    Hostname, "host", hostname, |text| text
);
name!(
    /// SPIFFE trust domain, such as `cluster.local`.
    TrustDomain, "trust domain", trust_domain, shared
);

impl ClusterId {
    /// No cluster in particular: what a gateway that only MeshNetworks names belongs to.
    #[must_use]
    pub fn unnamed() -> Self {
        Self(Arc::from(""))
    }

    /// A cluster as Istio names them: any printable text, such as `Kubernetes`, its agents' default. What a name of ours must be besides
    /// is a part of DNS names.
    ///
    /// # Errors
    /// When it is empty, too long, or holds what separates names on the wire.
    pub fn of_istio(text: impl Into<Arc<str>>) -> Result<Self, InvalidName> {
        let text = text.into();
        let check = match &*text {
            "" => Err("must not be empty"),
            text if text.contains(['/', ';']) => Err("must not hold '/' or ';'"),
            text => printable(text),
        };
        match check {
            Ok(()) => Ok(Self(text)),
            Err(problem) => Err(InvalidName { kind: "cluster name", value: text.to_string(), problem }),
        }
    }
}

impl NetworkId {
    /// The default network.
    #[must_use]
    pub fn unnamed() -> Self {
        Self(Arc::from(""))
    }

    /// Whether this is the default network.
    #[must_use]
    pub fn is_unnamed(&self) -> bool {
        self.0.is_empty()
    }

    /// Istio's rule: an unnamed network is the same as any other.
    #[must_use]
    pub fn reaches(&self, other: &Self) -> bool {
        self.is_unnamed() || other.is_unnamed() || self == other
    }
}

impl Default for NetworkId {
    fn default() -> Self {
        Self::unnamed()
    }
}

impl Hostname {
    /// Whether the first label is `*`.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with("*.") || &*self.0 == "*"
    }

    /// Whether `other` equals this name or, when this is a wildcard, lies below it.
    #[must_use]
    pub fn covers(&self, other: &str) -> bool {
        match self.0.strip_prefix('*') {
            Some("") => true,
            Some(suffix) => other.len() > suffix.len() && other.ends_with(suffix),
            None => &*self.0 == other,
        }
    }
}

/// `NAMESPACE/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NamespacedName {
    /// Namespace.
    pub namespace: Namespace,
    /// Name within it.
    pub name: Arc<str>,
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for NamespacedName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let bad = |problem| InvalidName { kind: "name", value: text.to_string(), problem };
        let (namespace, name) = text.split_once('/').ok_or_else(|| bad("must be written NAMESPACE/NAME"))?;
        if name.is_empty() || name.contains('/') || printable(name).is_err() {
            return Err(bad("must be written NAMESPACE/NAME"));
        }
        Ok(Self { namespace: Namespace::new(namespace)?, name: name.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_cluster_name_says_what_is_wrong() {
        let error = ClusterId::new("East").unwrap_err().to_string();
        assert_eq!(error, r#"cluster name "East" may hold only a-z, 0-9 and '-'"#);
        assert!(ClusterId::new("-a").is_err());
        assert!(ClusterId::new("a".repeat(64)).is_err());
        assert_eq!(ClusterId::of_istio("Kubernetes").unwrap().as_str(), "Kubernetes");
        assert!(ClusterId::of_istio("a;b").is_err() && ClusterId::of_istio("").is_err());
    }

    #[test]
    fn wildcards_cover_what_lies_below_them_only() {
        let wild = Hostname::new("*.local").unwrap();
        assert!(wild.covers("a.b.local"));
        assert!(!wild.covers(".local"));
        assert!(!wild.covers("local"));
        assert!(Hostname::new("*").unwrap().covers("x"));
        assert!(!Hostname::new("a.local").unwrap().covers("b.local"));
    }

    #[test]
    fn the_unnamed_network_reaches_all() {
        let named = NetworkId::new("west").unwrap();
        assert!(NetworkId::unnamed().reaches(&named) && named.reaches(&NetworkId::unnamed()));
        assert!(!named.reaches(&NetworkId::new("east").unwrap()));
    }
}
