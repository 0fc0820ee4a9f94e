//! Who we are, who the peer must be, and how both prove it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use isthmus_model::name::{ClusterId, NetworkId};
use isthmus_proto::federation::{Hello, Owner};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Last labels of a control plane's server name.
const SUFFIX: &str = ".federation.isthmus.internal";

/// The control plane that runs here.
#[derive(Debug, Clone)]
pub struct Me {
    /// Mesh.
    pub mesh_id: Arc<str>,
    /// Cluster.
    pub cluster: ClusterId,
    /// Revision.
    pub revision: Arc<str>,
    /// Network.
    pub network: NetworkId,
}

fn owner(mesh_id: &str, cluster: &ClusterId, revision: &str) -> Owner {
    Owner { mesh_id: mesh_id.to_string(), cluster: cluster.to_string(), revision: revision.to_string() }
}

impl Me {
    /// The owner of our records.
    #[must_use]
    pub fn owner(&self) -> Owner {
        owner(&self.mesh_id, &self.cluster, &self.revision)
    }
}

/// A link, as its `Peer` object describes it.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerConfig {
    /// The peer's cluster.
    pub cluster: ClusterId,
    /// Its mesh; must be ours.
    pub mesh_id: Arc<str>,
    /// Its revision.
    pub revision: Arc<str>,
    /// Where to call it, `HOST:PORT` of its gateways. Empty: it calls us.
    pub gateways: Vec<Arc<str>>,
    /// Proof of consent to send, on the calling side.
    pub secret: Option<Arc<str>>,
    /// SHA-256 of the proof that we expect on first contact, hexadecimal, on the accepting side.
    pub secret_sha256: Option<Arc<str>>,
}

impl fmt::Debug for PeerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerConfig")
            .field("cluster", &self.cluster)
            .field("mesh_id", &self.mesh_id)
            .field("revision", &self.revision)
            .field("gateways", &self.gateways)
            .finish_non_exhaustive()
    }
}

impl PeerConfig {
    /// The server name that its certificate must carry.
    #[must_use]
    pub fn name(&self) -> PeerName {
        PeerName { revision: Arc::clone(&self.revision), cluster: self.cluster.clone() }
    }

    /// The owner of its records.
    #[must_use]
    pub fn owner(&self) -> Owner {
        owner(&self.mesh_id, &self.cluster, &self.revision)
    }
}

/// `REVISION.CLUSTER.federation.isthmus.internal`: the DNS name in a control plane's certificate, and its server name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerName {
    /// Revision.
    pub revision: Arc<str>,
    /// Cluster.
    pub cluster: ClusterId,
}

/// A name that is not a control plane's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not a control plane's name, which reads REVISION.CLUSTER{SUFFIX}")]
pub struct NotAPeerName(String);

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}{SUFFIX}", self.revision, self.cluster)
    }
}

impl FromStr for PeerName {
    type Err = NotAPeerName;

    fn from_str(text: &str) -> Result<Self, NotAPeerName> {
        let bad = || NotAPeerName(text.to_string());
        let (revision, cluster) =
            text.strip_suffix(SUFFIX).and_then(|head| head.split_once('.')).ok_or_else(bad)?;
        if revision.is_empty() {
            return Err(bad());
        }
        Ok(Self { revision: revision.into(), cluster: cluster.parse().map_err(|_| bad())? })
    }
}

/// Why a peer is refused. The texts go to both sides.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Mismatch {
    /// The certificate is another control plane's.
    #[error("the certificate names {presented:?}, the link is with {expected}")]
    Certificate {
        /// DNS names in it.
        presented: Vec<String>,
        /// Ours to expect.
        expected: String,
    },
    /// The peer says that it is someone else.
    #[error("hello says {field} {said:?}, the link is with {field} {expected:?}")]
    Hello {
        /// `mesh`, `cluster` or `revision`.
        field: &'static str,
        /// Said.
        said: String,
        /// Expected.
        expected: String,
    },
    /// No proof of consent on first contact.
    #[error(
        "first contact with {0} needs the link's secret; run isthmus link create here and isthmus link accept there"
    )]
    NoSecret(ClusterId),
    /// A wrong one.
    #[error(
        "the link secret from {0} is not the one that was issued; run isthmus link create here and isthmus link accept there"
    )]
    WrongSecret(ClusterId),
}

/// Checks the certificate's names and the first frame against the link. `proven` is the hash of the secret that was shown at an
/// earlier contact.
///
/// # Errors
/// The first thing that does not fit.
pub fn check(
    peer: &PeerConfig,
    presented: &[String],
    hello: &Hello,
    accepting: bool,
    proven: Option<&str>,
) -> Result<(), Mismatch> {
    let expected = peer.name().to_string();
    if !presented.iter().any(|name| name.eq_ignore_ascii_case(&expected)) {
        return Err(Mismatch::Certificate { presented: presented.to_vec(), expected });
    }
    let fields = [
        ("mesh", &hello.mesh_id, &*peer.mesh_id),
        ("cluster", &hello.cluster, peer.cluster.as_str()),
        ("revision", &hello.revision, &*peer.revision),
    ];
    for (field, said, expected) in fields {
        if said != expected {
            return Err(Mismatch::Hello { field, said: said.clone(), expected: expected.to_string() });
        }
    }
    let Some(issued) = peer.secret_sha256.as_deref().filter(|_| accepting) else { return Ok(()) };
    if hello.link_secret.is_empty() {
        return if proven == Some(issued) { Ok(()) } else { Err(Mismatch::NoSecret(peer.cluster.clone())) };
    }
    if same_hash(&hello.link_secret, issued) {
        Ok(())
    } else {
        Err(Mismatch::WrongSecret(peer.cluster.clone()))
    }
}

/// Compares without telling by time how much fits.
fn same_hash(secret: &str, issued: &str) -> bool {
    let shown = Sha256::digest(secret.as_bytes());
    let shown =
        shown.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|half| b"0123456789abcdef"[half as usize]);
    let issued = issued.as_bytes();
    issued.len() == 64
        && shown.zip(issued).fold(0, |differ, (a, b)| differ | (a ^ b.to_ascii_lowercase())) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> PeerConfig {
        PeerConfig {
            cluster: "west".parse().unwrap(),
            mesh_id: "mesh1".into(),
            revision: "default".into(),
            gateways: vec![],
            secret: None,
            // of "open sesame"
            secret_sha256: Some("41ef4bb0b23661e66301aac36066912dac037827b4ae63a7b1165a5aa93ed4eb".into()),
        }
    }

    fn hello() -> Hello {
        Hello {
            mesh_id: "mesh1".into(),
            cluster: "west".into(),
            revision: "default".into(),
            link_secret: "open sesame".into(),
            ..Hello::default()
        }
    }

    fn names() -> Vec<String> {
        vec!["default.west.federation.isthmus.internal".into()]
    }

    #[test]
    fn names_are_read_and_written_alike() {
        let name: PeerName = names()[0].parse().unwrap();
        assert_eq!((&*name.revision, name.cluster.as_str()), ("default", "west"));
        assert_eq!(name.to_string(), names()[0]);
        for bad in ["west", "a.b.c.federation.isthmus.internal", ".west.federation.isthmus.internal", ""] {
            assert!(bad.parse::<PeerName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_right_peer_with_the_right_secret_is_accepted() {
        assert_eq!(check(&peer(), &names(), &hello(), true, None), Ok(()));
    }

    #[test]
    fn a_mismatch_names_both_values() {
        let other = vec!["default.north.federation.isthmus.internal".to_string()];
        let error = check(&peer(), &other, &hello(), true, None).unwrap_err().to_string();
        assert!(error.contains("default.north") && error.contains("default.west"), "{error}");
        let liar = Hello { cluster: "east".into(), ..hello() };
        let error = check(&peer(), &names(), &liar, true, None).unwrap_err().to_string();
        assert_eq!(error, r#"hello says cluster "east", the link is with cluster "west""#);
        let stranger = Hello { mesh_id: "mesh2".into(), ..hello() };
        assert!(check(&peer(), &names(), &stranger, true, None).is_err());
    }

    #[test]
    fn first_contact_needs_the_secret_and_later_ones_do_not() {
        let silent = Hello { link_secret: String::new(), ..hello() };
        let wrong = Hello { link_secret: "guess".into(), ..hello() };
        let issued = peer().secret_sha256.unwrap();
        assert!(matches!(check(&peer(), &names(), &silent, true, None), Err(Mismatch::NoSecret(_))));
        assert!(matches!(
            check(&peer(), &names(), &wrong, true, Some(&issued)),
            Err(Mismatch::WrongSecret(_))
        ));
        assert_eq!(check(&peer(), &names(), &silent, true, Some(&issued)), Ok(()));
        // A new offer needs a new proof.
        assert!(check(&peer(), &names(), &silent, true, Some("older")).is_err());
        // The calling side has nothing to ask for.
        assert_eq!(check(&peer(), &names(), &silent, false, None), Ok(()));
    }
}
