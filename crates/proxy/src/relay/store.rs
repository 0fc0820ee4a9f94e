//! Buffers and pipes that idle connections do not hold: each thread keeps a few.

use std::cell::RefCell;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::OwnedFd;

use nix::fcntl::OFlag;

/// Four TLS records: with TLS on either side all bytes come through here, and each call into the kernel should bring many.
const BUFFER: usize = 64 * 1024;
/// What is read at once between two sockets; beyond it the kernel splices.
pub(super) const PLAIN: usize = 16 * 1024;
/// What a pipe may hold. Larger ones save wake-ups; the kernel lets one user have 64 MiB of them in all.
const PIPE: i32 = 256 * 1024;
/// What a thread keeps; more are freed.
const KEPT_BUFFERS: usize = 64;
const KEPT_PIPES: usize = 32;

thread_local! {
    static BUFFERS: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    static PIPES: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// A borrowed buffer; goes back when dropped.
#[derive(Debug)]
pub(crate) struct Buffer(Box<[u8]>);

impl Buffer {
    pub(crate) fn take() -> Self {
        let kept = BUFFERS.with_borrow_mut(Vec::pop);
        Self(kept.unwrap_or_else(|| vec![0; BUFFER].into()))
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.0);
        // A thread that is ending has no store any more.
        let _ = BUFFERS.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            if kept.len() < KEPT_BUFFERS {
                kept.push(bytes);
            }
        });
    }
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
