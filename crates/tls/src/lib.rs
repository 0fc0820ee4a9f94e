//! rustls configuration from a live identity, SPIFFE peer verification for each trust domain.
//!
//! An [`Identity`] holds the current leaf and the trust bundles; configurations built from it read it at each handshake, so
//! a rotation needs no new configuration. Build a configuration once for each (identity, expectation) and share it.
//!
//! Sessions are never resumed: a resumed session would skip the check of the peer's chain and so outlive a root that was
//! withdrawn. The cost is one full handshake (two signatures, one chain) for each connection.

pub mod client;
pub mod files;
pub mod identity;
pub mod peer;
pub mod refused;
pub mod server;
pub mod trust;
mod verify;

pub use client::{ClientCertificate, Expected, client_config, connect};
pub use files::{FileError, Material};
pub use identity::{Identity, InvalidLeaf, Leaf};
pub use peer::{InvalidCertificate, PeerCertificate};
pub use refused::{HandshakeError, Refused};
pub use server::{ClientAuth, accept, server_config};
pub use trust::{InvalidRoots, Trust};

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;

static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));

/// The one crypto provider.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

#[cfg(test)]
mod tests;
