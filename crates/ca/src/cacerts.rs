//! Istio's `cacerts` layout: `ca-cert.pem`, `ca-key.pem`, `root-cert.pem`, `cert-chain.pem`; or the form of a TLS secret,
//! `tls.crt`, `tls.key`, `ca.crt`.

use std::fmt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::files::{self, WriteError};

/// The signer's certificate.
pub const CA_CERT: &str = "ca-cert.pem";
/// The signer's key.
pub const CA_KEY: &str = "ca-key.pem";
/// Roots that members of the mesh trust.
pub const ROOT_CERT: &str = "root-cert.pem";
/// The signer's certificate and those above it.
pub const CERT_CHAIN: &str = "cert-chain.pem";
/// Where [`crate::Root`] keeps its key; never in the directory of a running control plane.
pub const ROOT_KEY: &str = "root-key.pem";

/// Why a directory is not the material of a signer.
#[derive(Debug, Error)]
pub enum LoadError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] WriteError),
    /// The one thing that must not be there.
    #[error(
        "{} is the root's private key: no running control plane may be able to read it; move it offline \
         (another machine, or a medium in a safe) and start again",
        .0.display()
    )]
    RootKey(PathBuf),
    /// Files are missing. A partial set is refused, as Istio does.
    #[error(
        "{}: {} missing; make them with `isthmus ca intermediate --root DIR --cluster NAME --out {}`",
        directory.display(), missing.join(", "), directory.display()
    )]
    Missing {
        /// Where.
        directory: PathBuf,
        /// File names.
        missing: Vec<&'static str>,
    },
    /// They do not make a signer.
    #[error("{file}: {problem}")]
    Invalid {
        /// Which file.
        file: String,
        /// What is wrong.
        problem: String,
    },
}

/// PEM texts of a signer. `Debug` leaves the key out.
#[derive(Clone, PartialEq, Eq)]
pub struct Cacerts {
    /// The signer's certificate.
    pub certificate: String,
    /// The signer's key.
    pub key: String,
    /// The signer's certificate and those above it.
    pub chain: String,
    /// Roots.
    pub roots: String,
}

impl Cacerts {
    /// Reads a directory.
    ///
    /// # Errors
    /// When a file is missing or unreadable, or when the root's key lies there too.
    pub fn read(directory: &Path) -> Result<Self, LoadError> {
        let root_key = directory.join(ROOT_KEY);
        if root_key.exists() {
            return Err(LoadError::RootKey(root_key));
        }
        if directory.join("tls.crt").exists() {
            let [chain, key, roots] = Self::all(directory, ["tls.crt", "tls.key", "ca.crt"])?;
            return Ok(Self { certificate: chain.clone(), key, chain, roots });
        }
        let [certificate, key, roots, chain] =
            Self::all(directory, [CA_CERT, CA_KEY, ROOT_CERT, CERT_CHAIN])?;
        Ok(Self { certificate, key, chain, roots })
    }

    fn all<const N: usize>(directory: &Path, names: [&'static str; N]) -> Result<[String; N], LoadError> {
        let mut texts = Vec::with_capacity(N);
        let mut missing = Vec::new();
        for name in names {
            match files::read(&directory.join(name))? {
                Some(text) => texts.push(text),
                None => missing.push(name),
            }
        }
        texts.try_into().map_err(|_| LoadError::Missing { directory: directory.to_path_buf(), missing })
    }

    /// Writes a directory (0700, made when absent), the key 0600.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn write(&self, directory: &Path) -> Result<(), WriteError> {
        files::directory(directory)?;
        files::write_secret(&directory.join(CA_KEY), &self.key)?;
        for (name, text) in
            [(CA_CERT, &self.certificate), (CERT_CHAIN, &self.chain), (ROOT_CERT, &self.roots)]
        {
            files::write(&directory.join(name), text, 0o644)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Cacerts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cacerts").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}
