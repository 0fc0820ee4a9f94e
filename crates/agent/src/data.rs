//! The data directory: one agent's memory, readable by its owner alone.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use thiserror::Error;

/// Why the directory cannot be used.
#[derive(Debug, Error)]
pub enum DataError {
    /// The file system said no.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process has it.
    #[error("{}: another agent uses this data directory; stop it, or choose another with --data-dir", .0.display())]
    InUse(PathBuf),
    /// A file in it says nothing usable.
    #[error("{}: {problem}; remove the file and join again", path.display())]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// A directory that this process alone uses while any clone lives.
#[derive(Debug, Clone)]
pub struct DataDir {
    path: PathBuf,
    lock: Arc<Mutex<Lock>>,
}

/// The lock of a directory, which two processes may share for the time of a handover.
#[derive(Debug)]
struct Lock {
    /// None when a successor has it.
    file: Option<File>,
    /// It ends with this process's use of it. Not so while a predecessor may still go on.
    own: bool,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing it would do, were there no child that is between fork and exec and has it too.
        if let Some(file) = self.file.as_ref().filter(|_| self.own) {
            let _ = file.unlock();
        }
    }
}

impl DataDir {
    /// Makes the directory (0700) when it is absent, and locks it.
    ///
    /// # Errors
    /// When the file system refuses or another process holds it.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let io = |source| DataError::Io { path: path.to_path_buf(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(io)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self::locked(path, lock, true)),
            Err(TryLockError::WouldBlock) => Err(DataError::InUse(path.to_path_buf())),
            Err(TryLockError::Error(source)) => Err(io(source)),
        }
    }

    fn locked(path: &Path, lock: File, own: bool) -> Self {
        Self { path: path.to_path_buf(), lock: Arc::new(Mutex::new(Lock { file: Some(lock), own })) }
    }

    /// A directory whose lock another process shares: [`DataDir::share_lock`] of that one. It stays that one's until
    /// [`DataDir::keep`].
    #[must_use]
    pub fn adopt(path: &Path, lock: OwnedFd) -> Self {
        Self::locked(path, File::from(lock), false)
    }

    /// The process that shared the lock has left the directory to this one.
    pub fn keep(&self) {
        self.lock.lock().own = true;
    }

    /// The lock once more, for a successor. The directory stays locked while either has it.
    ///
    /// # Errors
    /// When it was handed over before, or the process has no descriptor left.
    pub fn share_lock(&self) -> io::Result<OwnedFd> {
        match &self.lock.lock().file {
            Some(lock) => lock.as_fd().try_clone_to_owned(),
            None => Err(io::Error::other("the data directory was handed over already")),
        }
    }

    /// Leaves the directory to a successor that shares the lock. Nothing may be written here afterwards.
    pub fn leave(&self) {
        self.lock.lock().file = None;
    }

    /// Where key, chain and roots lie.
    #[must_use]
    pub fn identity(&self) -> PathBuf {
        self.path.join("identity")
    }

    /// A file in it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Reads a file; none when it is absent.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, DataError> {
        let path = self.file(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DataError::Io { path, source }),
        }
    }

    /// Opens a file; none when it is absent.
    pub(crate) fn open_file(&self, name: &str) -> Result<Option<File>, DataError> {
        let path = self.file(name);
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DataError::Io { path, source }),
        }
    }

    /// Writes a file (0600), whole or not at all, on disk when this returns.
    ///
    /// # Errors
    /// When the file system refuses; what was there before stays.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), DataError> {
        self.write_by(name, |file| file.write_all(bytes))
    }

    /// As [`DataDir::write`], for what is not in memory as a whole.
    pub(crate) fn write_by(
        &self,
        name: &str,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<(), DataError> {
        let (path, new) = (self.file(name), self.file(&format!("{name}.new")));
        let io = |source| DataError::Io { path: path.clone(), source };
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).map_err(io)?;
        write(&mut file).and_then(|()| file.sync_all()).map_err(io)?;
        fs::rename(&new, &path).map_err(io)?;
        File::open(&self.path).and_then(|directory| directory.sync_all()).map_err(io)
    }

    /// Forgets everything that joining and running made: membership, keys, last-good resources, sockets, bootstraps.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn forget(&self) -> Result<(), DataError> {
        let gone = |result: io::Result<()>, path: PathBuf| match result {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(DataError::Io { path, source }),
            _ => Ok(()),
        };
        for folder in [self.identity(), self.file(crate::sockets::FOLDER), self.file(crate::envoy::FOLDER)] {
            gone(fs::remove_dir_all(&folder), folder)?;
        }
        let files = [crate::state::FILE, crate::cache::FILE, crate::grpc::BOOTSTRAP, crate::envoy::BOOTSTRAP];
        for name in files {
            gone(fs::remove_file(self.file(name)), self.file(name))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_has_one_user_and_its_files_one_reader() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("agent");
        let data = DataDir::open(&path).unwrap();
        assert!(matches!(DataDir::open(&path), Err(DataError::InUse(_))));
        data.write("thing", b"one").unwrap();
        data.write("thing", b"two").unwrap();
        assert_eq!(data.read("thing").unwrap().as_deref(), Some(&b"two"[..]));
        assert_eq!(data.read("other").unwrap(), None);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join("thing"))), (0o700, 0o600));
        drop(data);
        DataDir::open(&path).unwrap();
    }

    #[test]
    fn a_lock_is_handed_over_without_a_moment_between() {
        let temporary = tempfile::tempdir().unwrap();
        let old = DataDir::open(temporary.path()).unwrap();
        let in_use = || matches!(DataDir::open(temporary.path()), Err(DataError::InUse(_)));
        drop(DataDir::adopt(temporary.path(), old.share_lock().unwrap()));
        assert!(in_use(), "a successor that failed took nothing with it");
        let new = DataDir::adopt(temporary.path(), old.share_lock().unwrap());
        new.keep();
        old.leave();
        assert!(old.share_lock().is_err());
        drop(old);
        assert!(in_use());
        drop(new);
        DataDir::open(temporary.path()).unwrap();
    }
}
