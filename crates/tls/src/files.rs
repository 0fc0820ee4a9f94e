//! An identity in a directory: `key.pem`, `cert-chain.pem`, `root-cert.pem`, all 0600.
//!
//! A crash at any moment leaves a pair that belongs together: both new files are complete on disk before the chain is
//! renamed, and loading finishes a renaming that was cut off before the key's.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::identity::{InvalidLeaf, Leaf};
use crate::trust::Trust;

/// Name of the key's file.
pub const KEY: &str = "key.pem";
/// Name of the chain's file.
pub const CHAIN: &str = "cert-chain.pem";
/// Name of the roots' file.
pub const ROOTS: &str = "root-cert.pem";

/// Why an identity was not read or written.
#[derive(Debug, Error)]
pub enum FileError {
    /// The file system said no.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The files are there and say nothing usable.
    #[error("{}: {source}", directory.display())]
    Invalid {
        /// Which directory.
        directory: PathBuf,
        /// What is wrong.
        source: Box<InvalidLeaf>,
    },
}

/// PEM texts of an identity. `Debug` leaves the key out.
#[derive(Clone, PartialEq, Eq)]
pub struct Material {
    /// Private key.
    pub key: String,
    /// Leaf, then intermediates.
    pub chain: String,
    /// Roots of the own trust domain.
    pub roots: String,
}

impl Material {
    /// From the answer of a certificate service: leaf, intermediates, and the roots last.
    #[must_use]
    pub fn from_response(key: String, certificates: &[String]) -> Option<Self> {
        let (roots, chain) = certificates.split_last()?;
        if chain.is_empty() {
            return None;
        }
        let lines = chain.iter().map(|pem| pem.trim_end().to_string() + "\n");
        Some(Self { key, chain: lines.collect(), roots: roots.clone() })
    }

    /// Reads what these texts say. The own trust domain is that of the leaf.
    ///
    /// # Errors
    /// When a text cannot be read or key and chain do not belong together.
    pub fn parse(&self) -> Result<(Leaf, Trust), InvalidLeaf> {
        let leaf = Leaf::from_pem(&self.chain, &self.key)?;
        let trust = match leaf.spiffe() {
            Some(id) => Trust::mesh(id.trust_domain.clone(), &self.roots)?,
            None => Trust::private(&self.roots)?,
        };
        Ok((leaf, trust))
    }

    /// Reads a directory; none when there is no identity in it (yet).
    ///
    /// # Errors
    /// When files cannot be read, or do not belong together.
    pub fn load(directory: &Path) -> Result<Option<Self>, FileError> {
        let (Some(chain), Some(roots)) = (read(directory, CHAIN)?, read(directory, ROOTS)?) else {
            return Ok(None);
        };
        let key = read(directory, KEY)?.unwrap_or_default();
        let found = Self { key, chain, roots };
        let Err(source) = found.parse() else { return Ok(Some(found)) };
        // The machine stopped between the two renames of a save: the new key waits beside the old one.
        if let Some(key) = read(directory, &pending(KEY))? {
            let finished = Self { key, ..found };
            if finished.parse().is_ok() {
                rename(directory, KEY)?;
                return Ok(Some(finished));
            }
        }
        Err(FileError::Invalid { directory: directory.to_path_buf(), source: Box::new(source) })
    }

    /// Writes a directory (0700, made when absent).
    ///
    /// # Errors
    /// When the file system refuses; what was there before stays usable.
    pub fn save(&self, directory: &Path) -> Result<(), FileError> {
        let io = |source| FileError::Io { path: directory.to_path_buf(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io)?;
        for (name, text) in [(KEY, &self.key), (CHAIN, &self.chain), (ROOTS, &self.roots)] {
            write(&directory.join(pending(name)), text)?;
        }
        for name in [ROOTS, CHAIN, KEY] {
            rename(directory, name)?;
        }
        File::open(directory).and_then(|opened| opened.sync_all()).map_err(io)
    }
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Material").field("chain", &self.chain).finish_non_exhaustive()
    }
}

fn pending(name: &str) -> String {
    format!("{name}.new")
}

fn read(directory: &Path, name: &str) -> Result<Option<String>, FileError> {
    let path = directory.join(name);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FileError::Io { path, source }),
    }
}

fn rename(directory: &Path, name: &str) -> Result<(), FileError> {
    let path = directory.join(name);
    fs::rename(directory.join(pending(name)), &path).map_err(|source| FileError::Io { path, source })
}

fn write(path: &Path, text: &str) -> Result<(), FileError> {
    let io = |source| FileError::Io { path: path.to_path_buf(), source };
    // A leftover may have another mode: start from nothing.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io)?;
    file.write_all(text.as_bytes()).map_err(io)?;
    file.sync_all().map_err(io)
}
