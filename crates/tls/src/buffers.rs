//! Buffers that idle connections do not hold: each thread keeps a few, for TLS and for what is relayed beside it.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Four full records of TLS 1.3.
pub(crate) const BUFFER: usize = 4 * (16 * 1024 + 32);
/// What a thread keeps; more are freed.
const KEPT: usize = 64;

thread_local! {
    static BUFFERS: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    #[cfg(test)]
    static LENT: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// How many buffers are out, of those that this thread took and dropped.
#[cfg(test)]
pub(crate) fn lent() -> usize {
    LENT.get()
}

/// A borrowed buffer of four records; goes back to its thread's store when dropped.
#[derive(Debug)]
pub struct Buffer(Box<[u8]>);

impl Buffer {
    /// One of the thread's, or a new one. Its bytes are those of whoever had it before.
    #[must_use]
    pub fn take() -> Self {
        let kept = BUFFERS.with_borrow_mut(Vec::pop);
        #[cfg(test)]
        LENT.set(LENT.get() + 1);
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
        #[cfg(test)]
        LENT.set(LENT.get() - 1);
        // A thread that is ending has no store any more.
        let _ = BUFFERS.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            if kept.len() < KEPT {
                kept.push(bytes);
            }
        });
    }
}
