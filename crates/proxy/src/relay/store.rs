//! Pipes that idle connections do not hold: each thread keeps a few. Buffers are those of `isthmus_tls::buffers`.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::OFlag;

/// What is read at once between two sockets; beyond it the kernel splices.
pub(super) const PLAIN: usize = 16 * 1024;
/// What a pipe may hold. Larger ones save wake-ups; the kernel lets one user have 64 MiB of them in all.
const PIPE: i32 = 256 * 1024;
/// What a thread keeps; more are freed.
const KEPT_PIPES: usize = 32;

thread_local! {
    static PIPES: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// A pipe for splicing.
#[derive(Debug)]
pub(crate) struct Pipe {
    pub(super) out: OwnedFd,
    pub(super) into: OwnedFd,
}

impl Pipe {
    pub(super) fn take() -> io::Result<Self> {
        if let Some(kept) = PIPES.with_borrow_mut(Vec::pop) {
            return Ok(kept);
        }
        let (out, into) = nix::unistd::pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
        // Beyond the user's limit the pipe stays at its default of 64 KiB: slower, and right.
        let _ = nix::fcntl::fcntl(&into, nix::fcntl::FcntlArg::F_SETPIPE_SZ(PIPE));
        Ok(Self { out, into })
    }

    /// Only an empty pipe may be given back.
    pub(super) fn give_back(self) {
        let _ = PIPES.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            if kept.len() < KEPT_PIPES {
                kept.push(self);
            }
        });
    }
}
