//! Where the last good state stays across restarts.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// Keeps bytes by name. Calls block; they are made where blocking is allowed.
pub trait LastGood: Send + Sync + 'static {
    /// The bytes saved last under this name.
    ///
    /// # Errors
    /// When they are there and cannot be read.
    fn load(&self, name: &str) -> io::Result<Option<Vec<u8>>>;

    /// Replaces the bytes: afterwards, whatever happens, either the old or the new ones are there.
    ///
    /// # Errors
    /// When they could not be made durable.
    fn save(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Forgets them.
    ///
    /// # Errors
    /// When they are there and cannot be removed.
    fn remove(&self, name: &str) -> io::Result<()>;
}

/// Files in a directory, readable by their owner only.
#[derive(Debug, Clone)]
pub struct Directory(PathBuf);

impl Directory {
    /// Uses this directory, creating it if need be.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn new(path: impl Into<PathBuf>) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let path = path.into();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.bin"))
    }
}

impl LastGood for Directory {
    fn load(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn save(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let fresh = self.0.join(format!("{name}.new"));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, self.path(name))?;
        // The rename is durable once its directory is.
        File::open(&self.0)?.sync_all()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// The memory twin: forgets everything with the process.
#[derive(Debug, Default)]
pub struct Memory(parking_lot::Mutex<std::collections::HashMap<String, Vec<u8>>>);

impl LastGood for Memory {
    fn load(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.0.lock().get(name).cloned())
    }

    fn save(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().insert(name.to_string(), bytes.to_vec());
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.lock().remove(name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn both_keep_replace_and_forget() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::new(dir.path().join("federation")).unwrap();
        let stores: [&dyn LastGood; 2] = [&directory, &Memory::default()];
        for store in stores {
            assert_eq!(store.load("peer-west").unwrap(), None);
            store.save("peer-west", b"one").unwrap();
            store.save("peer-west", b"two").unwrap();
            assert_eq!(store.load("peer-west").unwrap().unwrap(), b"two");
            store.remove("peer-west").unwrap();
            store.remove("peer-west").unwrap();
            assert_eq!(store.load("peer-west").unwrap(), None);
        }
    }

    #[test]
    fn files_are_their_owners_alone_and_a_half_written_one_is_not_seen() {
        let dir = tempfile::tempdir().unwrap();
        let store = Directory::new(dir.path()).unwrap();
        store.save("peer-west", b"good").unwrap();
        let mode = fs::metadata(dir.path().join("peer-west.bin")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(dir.path().join("peer-west.new"), b"ha").unwrap();
        assert_eq!(store.load("peer-west").unwrap().unwrap(), b"good");
    }
}
