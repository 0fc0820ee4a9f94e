//! The texts that a person carries from one machine to another: join tokens and link tokens.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::name::{ClusterId, NamespacedName, NetworkId};

const JOIN: &str = "isthmus-join.v1.";
const LINK: &str = "isthmus-link.v1.";

/// Why a text is not a token.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidToken {
    /// Another kind of text.
    #[error("this is not a {expected} token: it should start with {prefix:?}; make one with {command}")]
    Prefix {
        /// `join` or `link`.
        expected: &'static str,
        /// How such a token starts.
        prefix: &'static str,
        /// What prints one.
        command: &'static str,
    },
    /// Cut off or changed on the way.
    #[error("the {0} token is damaged: copy it whole, in one line")]
    Damaged(&'static str),
}

/// What a join token lets its bearer become.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grant {
    /// A WorkloadEntry of this WorkloadGroup; works once.
    Vm(NamespacedName),
    /// Workloads that run as one of these ServiceAccounts; works until revoked.
    Host(Vec<NamespacedName>),
}

/// Everything that a machine needs to enter the mesh. The bearer part is a secret: `Debug` leaves it out.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// What it grants. For messages only: the control plane decides by the bearer part.
    pub grant: Grant,
    /// Cluster whose control plane made it.
    pub cluster: ClusterId,
    /// Network of the machine.
    pub network: NetworkId,
    /// `HOST:PORT` of the control plane as the machine reaches it, in order of preference.
    pub addresses: Vec<Arc<str>>,
    /// Server name to verify and to send.
    pub server_name: Arc<str>,
    /// PEM roots that the control plane's certificate must chain to.
    pub roots: Arc<str>,
    /// The credential, sent as `authorization: Bearer`.
    pub bearer: Arc<str>,
}

/// One side's offer to federate.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkToken {
    /// Mesh.
    pub mesh_id: Arc<str>,
    /// Cluster that offers.
    pub cluster: ClusterId,
    /// Its revision.
    pub revision: Arc<str>,
    /// Its network.
    pub network: NetworkId,
    /// Cluster that may accept.
    pub to: ClusterId,
    /// `HOST:PORT` of the offering cluster's gateways.
    pub gateways: Vec<Arc<str>>,
    /// SHA-256 of the shared root's DER, lower-case hex: a stranger's root is noticed before anything connects.
    pub root_sha256: Arc<str>,
    /// Proof of consent, used on first contact.
    pub secret: Arc<str>,
}

fn write<T: Serialize>(prefix: &str, token: &T, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let json = serde_json::to_vec(token).map_err(|_| fmt::Error)?;
    write!(f, "{prefix}{}", URL_SAFE_NO_PAD.encode(json))
}

fn read<T: DeserializeOwned>(
    text: &str,
    prefix: &'static str,
    expected: &'static str,
    command: &'static str,
) -> Result<T, InvalidToken> {
    let body = text.trim().strip_prefix(prefix).ok_or(InvalidToken::Prefix { expected, prefix, command })?;
    let json = URL_SAFE_NO_PAD.decode(body).map_err(|_| InvalidToken::Damaged(expected))?;
    serde_json::from_slice(&json).map_err(|_| InvalidToken::Damaged(expected))
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(JOIN, self, f)
    }
}

impl FromStr for JoinToken {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        read(text, JOIN, "join", "`isthmus vm token` or `isthmus host token`")
    }
}

impl fmt::Display for LinkToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(LINK, self, f)
    }
}

impl FromStr for LinkToken {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        read(text, LINK, "link", "`isthmus link create`")
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("grant", &self.grant)
            .field("cluster", &self.cluster)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for LinkToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkToken")
            .field("cluster", &self.cluster)
            .field("to", &self.to)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken {
            grant: Grant::Vm("vm/mysqldb-vm".parse().unwrap()),
            cluster: "west".parse().unwrap(),
            network: "site".parse().unwrap(),
            addresses: vec!["192.0.2.1:15012".into()],
            server_name: "default.west.federation.isthmus.internal".into(),
            roots: "PEM".into(),
            bearer: "secret".into(),
        }
    }

    #[test]
    fn a_token_survives_the_copy_and_debug_hides_its_secret() {
        let text = token().to_string();
        assert_eq!(format!(" {text}\n").parse::<JoinToken>().unwrap(), token());
        assert!(!format!("{:?}", token()).contains("secret"));
    }

    #[test]
    fn a_damaged_token_and_one_of_another_kind_are_told_apart() {
        let text = token().to_string();
        assert_eq!(text[..text.len() - 9].parse::<JoinToken>(), Err(InvalidToken::Damaged("join")));
        assert!(matches!(text.parse::<LinkToken>(), Err(InvalidToken::Prefix { expected: "link", .. })));
    }
}
