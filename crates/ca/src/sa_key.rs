//! The key that signs a standalone API server's ServiceAccount tokens (ES256).

use std::path::Path;

use rcgen::KeyPair;

use crate::files::{self, WriteError};

/// A new ECDSA P-256 key, PKCS#8 PEM.
#[must_use]
pub fn generate() -> String {
    KeyPair::generate().expect("the crypto library makes P-256 keys").serialize_pem()
}

/// The public half, SPKI PEM; none when the text is not a private key.
#[must_use]
pub fn public_pem(key_pem: &str) -> Option<String> {
    KeyPair::from_pem(key_pem).ok().map(|key| key.public_key_pem())
}

/// The key in this file, made (0600) when the file is absent. Tokens live as long as the key does.
///
/// # Errors
/// When the file cannot be read or written.
pub fn load_or_create(path: &Path) -> Result<String, WriteError> {
    if let Some(found) = files::read(path)? {
        return Ok(found);
    }
    if let Some(parent) = path.parent() {
        files::directory(parent)?;
    }
    let key = generate();
    files::write_secret(path, &key)?;
    Ok(key)
}
