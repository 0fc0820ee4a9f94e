//! Secrets in files. Who names a file is far away (a DestinationRule's `caCertificates`): it may be anything.

use std::fs::{Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use tokio::sync::Semaphore;

use super::{pair, roots};

/// What names of secrets in files begin with.
pub(super) const PREFIX: &str = "file-";
/// The largest file, in bytes.
const LARGEST: u64 = 1024 * 1024;
/// Time for one secret: a network file system may not answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Threads that may wait for files.
const TOGETHER: usize = 8;
/// Where systems keep the roots of the public web.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Reads secrets, on threads that may block.
pub(super) struct Reader(Arc<Semaphore>);

impl Default for Reader {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(TOGETHER)))
    }
}

impl Reader {
    /// Reads a secret that is named by file.
    pub(super) async fn read(&self, name: &str) -> Result<tls::Secret, String> {
        let reading = async {
            let slot = Arc::clone(&self.0).acquire_owned().await;
            let own: Arc<str> = name.into();
            // The slot is held until the thread is back, however long nobody waits for it any longer.
            let read = tokio::task::spawn_blocking(move || {
                let _slot = slot;
                read(&own)
            });
            read.await.unwrap_or_else(|_| Err(format!("secret {name}: the agent is stopping")))
        };
        let silent = |_| Err(format!("secret {name}: its file has not been read within {PATIENCE:?}"));
        tokio::time::timeout(PATIENCE, reading).await.unwrap_or_else(silent)
    }
}

fn read(name: &str) -> Result<tls::Secret, String> {
    let file = |path: &str| contents(path).map_err(|error| format!("secret {name}: {path}: {error}"));
    if let Some(path) = name.strip_prefix("file-root:") {
        let system = || SYSTEM_ROOTS.into_iter().find(|path| Path::new(path).exists());
        let path = if path == "system" {
            system().ok_or_else(|| format!("secret {name}: this system has no roots of the public web"))?
        } else {
            path
        };
        return Ok(roots(name, file(path)?));
    }
    if let Some((chain, key)) = name.strip_prefix("file-cert:").and_then(|files| files.split_once('~')) {
        return Ok(pair(name, file(chain)?, file(key)?));
    }
    Err(format!("secret {name} is neither a file with roots nor a pair of files"))
}

/// The bytes of a regular file of a sensible size. Nothing else is opened: a device may do something then, and a pipe waits.
fn contents(path: &str) -> io::Result<Vec<u8>> {
    regular(&std::fs::metadata(path)?)?;
    let flags = nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    // What was looked at may have been replaced.
    regular(&file.metadata()?)?;
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(bytes)
}

fn regular(about: &Metadata) -> io::Result<()> {
    if about.is_file() { Ok(()) } else { Err(io::Error::other("it is no regular file")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_of_a_sensible_size_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        nix::unistd::mkfifo(path("fifo").as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::fs::write(path("large"), vec![b'a'; LARGEST as usize + 1]).unwrap();
        std::fs::write(path("fits"), vec![b'a'; LARGEST as usize]).unwrap();
        let problem = |path: &str| read(&format!("file-root:{path}")).unwrap_err();
        for other in ["/dev/zero", &path("fifo"), &path("")] {
            assert!(problem(other).ends_with("it is no regular file"), "{}", problem(other));
        }
        assert!(problem(&path("large")).ends_with("it is larger than 1 MiB"));
        assert!(read(&format!("file-cert:{}~{}", path("fits"), path("fits"))).is_ok());
    }
}
