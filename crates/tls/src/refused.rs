//! Why a handshake failed, told apart so that it can be logged and counted.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use isthmus_model::{SpiffeId, TrustDomain};
use thiserror::Error;

use crate::peer::{InvalidCertificate, PeerCertificate};

/// Why we do not believe a peer. Texts say what was expected, what came, its issuer and serial.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refused {
    /// It showed none where one is required.
    #[error("the peer presented no certificate")]
    NoCertificate,
    /// The chain ends at none of the roots that may vouch for it.
    #[error("{peer} does not chain to a root of {}", trusted(.domain.as_ref()))]
    UnknownIssuer {
        /// What it presented.
        peer: Box<PeerCertificate>,
        /// Whose roots were asked; none for private trust.
        domain: Option<TrustDomain>,
    },
    /// No roots at all for its trust domain.
    #[error("{peer} is of a trust domain without roots here; known: {}", list(.known))]
    UnknownTrustDomain {
        /// What it presented.
        peer: Box<PeerCertificate>,
        /// Domains that we have roots for.
        known: Vec<TrustDomain>,
    },
    /// Its validity, or that of a CA above it, is over.
    #[error("{peer}: the certificate, or a CA above it, expired at unix time {}", unix(.at))]
    Expired {
        /// What it presented.
        peer: Box<PeerCertificate>,
        /// End of validity.
        at: SystemTime,
    },
    /// Its validity has not begun: one of the two clocks is wrong.
    #[error("{peer}: not valid before unix time {}; compare the clocks", unix(.at))]
    NotYetValid {
        /// What it presented.
        peer: Box<PeerCertificate>,
        /// Start of validity.
        at: SystemTime,
    },
    /// A valid peer, and not the one asked for.
    #[error("expected {}, got {peer}", list(.expected))]
    WrongIdentity {
        /// Who would have been right.
        expected: Vec<SpiffeId>,
        /// What it presented.
        peer: Box<PeerCertificate>,
    },
    /// A valid peer of another trust domain than asked for.
    #[error("expected an identity of trust domain {expected}, got {peer}")]
    WrongTrustDomain {
        /// Which would have been right.
        expected: TrustDomain,
        /// What it presented.
        peer: Box<PeerCertificate>,
    },
    /// A valid server with other DNS names.
    #[error("expected a certificate for {expected:?}, got {peer} with DNS names {}", list(&.peer.dns_names))]
    WrongName {
        /// Name asked for.
        expected: String,
        /// What it presented.
        peer: Box<PeerCertificate>,
    },
    /// No SPIFFE id where only workloads may come.
    #[error("{peer} carries no workload identity (spiffe:// URI)")]
    NoIdentity {
        /// What it presented.
        peer: Box<PeerCertificate>,
    },
    /// Key usage, extended key usage or a constraint of a CA forbids it.
    #[error("{peer} may not be used so: {problem}")]
    Forbidden {
        /// What it presented.
        peer: Box<PeerCertificate>,
        /// Which rule.
        problem: String,
    },
    /// It cannot be read.
    #[error(transparent)]
    Malformed(#[from] InvalidCertificate),
}

fn trusted(domain: Option<&TrustDomain>) -> String {
    domain.map_or_else(|| "the private trust".to_string(), |domain| format!("trust domain {domain}"))
}

fn list<T: ToString>(items: &[T]) -> String {
    match items {
        [] => "none".to_string(),
        some => some.iter().map(T::to_string).collect::<Vec<_>>().join(", "),
    }
}

fn unix(at: &SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Refused {
    /// A short label, for metrics and logs.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::UnknownIssuer { .. } => "unknown_issuer",
            Self::UnknownTrustDomain { .. } => "unknown_trust_domain",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::WrongIdentity { .. } => "wrong_identity",
            Self::WrongTrustDomain { .. } => "wrong_trust_domain",
            Self::WrongName { .. } => "wrong_name",
            Self::NoIdentity { .. } => "no_identity",
            Self::Forbidden { .. } => "forbidden",
            Self::Malformed(_) => "malformed",
        }
    }

    /// What the peer presented, when it could be read.
    #[must_use]
    pub fn peer(&self) -> Option<&PeerCertificate> {
        match self {
            Self::NoCertificate | Self::Malformed(_) => None,
            Self::UnknownIssuer { peer, .. }
            | Self::UnknownTrustDomain { peer, .. }
            | Self::Expired { peer, .. }
            | Self::NotYetValid { peer, .. }
            | Self::WrongIdentity { peer, .. }
            | Self::WrongTrustDomain { peer, .. }
            | Self::WrongName { peer, .. }
            | Self::NoIdentity { peer }
            | Self::Forbidden { peer, .. } => Some(peer),
        }
    }

    /// The refusal inside an I/O error of a TLS stream, if that is its cause.
    #[must_use]
    pub fn in_io(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref::<rustls::Error>().and_then(Self::in_tls)
    }

    fn in_tls(error: &rustls::Error) -> Option<Self> {
        match error {
            rustls::Error::NoCertificatesPresented => Some(Self::NoCertificate),
            rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) => {
                other.0.downcast_ref::<Self>().cloned()
            }
            _ => None,
        }
    }
}

impl From<Refused> for rustls::Error {
    fn from(refused: Refused) -> Self {
        rustls::CertificateError::Other(rustls::OtherError(Arc::new(refused))).into()
    }
}

/// Why a handshake did not complete.
#[derive(Debug, Error)]
pub enum HandshakeError {
    /// We refused the peer.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The peer refused us.
    #[error("the peer refused the handshake: {0:?}")]
    ByPeer(rustls::AlertDescription),
    /// It took too long.
    #[error("the handshake took longer than {} ms", .0.as_millis())]
    Timeout(Duration),
    /// Not TLS, no common version, no common ALPN, no own certificate and the like.
    #[error("handshake: {0}")]
    Protocol(rustls::Error),
    /// The connection broke.
    #[error("connection lost in the handshake: {0}")]
    Io(io::Error),
}

impl HandshakeError {
    /// A short label, for metrics and logs.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Refused(refused) => refused.label(),
            Self::ByPeer(_) => "refused_by_peer",
            Self::Timeout(_) => "timeout",
            Self::Protocol(_) => "protocol",
            Self::Io(_) => "io",
        }
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            None => Self::Io(error),
            Some(rustls::Error::AlertReceived(alert)) => Self::ByPeer(*alert),
            Some(tls) => match Refused::in_tls(tls) {
                Some(refused) => Self::Refused(refused),
                None => Self::Protocol(tls.clone()),
            },
        }
    }
}
