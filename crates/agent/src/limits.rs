//! Limits of the process.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// A relayed connection needs two descriptors, and bulk transfers borrow two more.
const WANTED: u64 = 200_000;

/// Raises the soft limit on open files as far as it is needed and allowed. Returns what it was, for a workload that starts under it.
#[must_use]
pub fn raise_open_files() -> Option<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    let wanted = WANTED.min(hard);
    if soft < wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_err() {
        tracing::warn!(soft, "the limit on open files cannot be raised");
    }
    Some(soft)
}

/// Puts the soft limit back.
///
/// # Errors
/// When the kernel refuses.
pub fn set_open_files(soft: u64) -> std::io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, soft.min(hard), hard)?)
}
