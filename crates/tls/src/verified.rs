//! Chains that were verified: those of a busy peer come again and again, and the answer is the same while the trust is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::{CertificateDer, UnixTime};
use sha2::{Digest as _, Sha256};

use crate::peer::{PeerCertificate, validity};

/// Chains that are remembered; one more forgets all.
const MOST: usize = 1024;

/// The role in which a chain was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    Client,
    Server,
}

/// What one trust said of chains. It lives and ends with that trust.
#[derive(Debug, Default)]
pub(crate) struct Verified(Mutex<HashMap<Key, Entry>>);

type Key = (Role, [u8; 32]);

#[derive(Debug)]
struct Entry {
    peer: Arc<PeerCertificate>,
    from: SystemTime,
    until: SystemTime,
}

pub(crate) fn key(role: Role, leaf: &CertificateDer<'_>, above: &[CertificateDer<'_>]) -> Key {
    let mut digest = Sha256::new();
    for certificate in std::iter::once(leaf).chain(above) {
        // Lengths keep the boundaries.
        digest.update(certificate.len().to_be_bytes());
        digest.update(certificate);
    }
    (role, digest.finalize().into())
}

impl Verified {
    /// The peer of a chain that was verified, while every certificate in it is valid.
    pub(crate) fn get(&self, key: &Key, now: UnixTime) -> Option<Arc<PeerCertificate>> {
        let now = UNIX_EPOCH + Duration::from_secs(now.as_secs());
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .get(key)
            .filter(|entry| entry.from <= now && now < entry.until)
            .map(|entry| Arc::clone(&entry.peer))
    }

    /// Remembers a chain. One with a certificate that cannot be read is not.
    pub(crate) fn put(&self, key: Key, peer: &Arc<PeerCertificate>, above: &[CertificateDer<'_>]) {
        let (mut from, mut until) = (peer.not_before, peer.not_after);
        for certificate in above {
            let Some(valid) = validity(certificate) else { return };
            (from, until) = (from.max(valid.0), until.min(valid.1));
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(key, Entry { peer: Arc::clone(peer), from, until });
    }
}
