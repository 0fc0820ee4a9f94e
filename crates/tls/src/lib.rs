//! rustls configuration from a live identity, SPIFFE peer verification for each trust domain.
//!
//! An [`Identity`] holds the current leaf and the trust bundles; configurations built from it read it at each handshake, so
//! a rotation needs no new configuration. Build a configuration once for each (identity, expectation) and share it.
//!
//! Two ways into a connection: [`connect`] and [`Terminator::without_sessions`] for long streams of control, which never
//! resume a session, and [`Originator`] and [`Terminator::new`] for the data path, which do. A session that is resumed skips rustls' check of the peer's chain;
//! so the chain of its first handshake is judged again, with the trust of the moment, before a byte is handed over, and both sides
//! forget all sessions when leaf or trust change ([`sessions`]). A session outlives neither a withdrawn root nor its own peer.

pub mod buffers;
pub mod client;
pub mod files;
mod handshake;
pub mod identity;
pub mod peer;
mod record;
pub mod refused;
pub mod server;
mod sessions;
pub mod stream;
pub mod trust;
mod verified;
mod verify;

pub use client::{ClientCertificate, Expected, Originator, client_config, connect};
pub use files::{FileError, Material};
pub use identity::{Identity, InvalidLeaf, Leaf};
pub use peer::{InvalidCertificate, PeerCertificate};
pub use refused::{HandshakeError, Refused};
pub use server::{ClientAuth, Terminator};
pub use stream::TlsStream;
pub use trust::{InvalidRoots, Trust};

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    // Processors hash its SHA-256 by themselves, and not the SHA-384 of AES-256: that one is a tenth of a new connection.
    let first = rustls::CipherSuite::TLS13_AES_128_GCM_SHA256;
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != first);
    Arc::new(provider)
});

/// The one crypto provider.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

#[cfg(test)]
mod tests;
