//! Memory that the kernel reads and writes: one store of buffers to receive into, one to send from.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

/// Of one buffer.
pub(crate) const SIZE: usize = 4096;
/// Buffers to receive into: what one turn needs. Without one a socket reads for itself.
const COUNT: u16 = 128;
/// Buffers to send from; without one a socket writes for itself.
const MOST: usize = 256;
/// The group of the buffers to receive into.
pub(super) const GROUP: u16 = 0;

/// Buffers that the kernel takes from, behind the ring that tells it which are free.
pub(super) struct Received {
    memory: NonNull<u8>,
    tail: u16,
    leaked: bool,
}

/// Head of the memory: the entries, on a page of their own.
const ENTRIES: usize = 4096;

fn layout() -> Layout {
    Layout::from_size_align(ENTRIES + usize::from(COUNT) * SIZE, 4096).expect("a constant")
}

#[expect(unsafe_code, reason = "the kernel shares this memory")]
impl Received {
    pub(super) fn register(io: &IoUring) -> io::Result<Self> {
        // SAFETY: the size is not zero.
        let memory = unsafe { alloc_zeroed(layout()) };
        let memory = NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout()));
        let mut received = Self { memory, tail: 0, leaked: false };
        let address = memory.as_ptr() as u64;
        // SAFETY: a page-aligned piece with room for COUNT entries of 16 bytes, which lives as long as the ring.
        unsafe { io.submitter().register_buf_ring_with_flags(address, COUNT, GROUP, 0)? };
        (0..COUNT).for_each(|buffer| received.give_back(buffer));
        Ok(received)
    }

    fn start(&self, buffer: u16) -> *mut u8 {
        assert!(buffer < COUNT, "the kernel names buffers that it was given");
        // SAFETY: within the piece, as was asserted.
        unsafe { self.memory.as_ptr().add(ENTRIES + usize::from(buffer) * SIZE) }
    }

    /// A buffer that the kernel has filled, and that was not given back since.
    pub(super) fn bytes(&self, buffer: u16) -> &[u8] {
        // SAFETY: initialised, and not written to while it is ours.
        unsafe { std::slice::from_raw_parts(self.start(buffer), SIZE) }
    }

    pub(super) fn give_back(&mut self, buffer: u16) {
        let start = self.start(buffer);
        let entries = self.memory.as_ptr().cast::<BufRingEntry>();
        // SAFETY: the index is below COUNT, a power of two; the kernel reads an entry only after the tail has passed it. The tail lies in
        // a reserved field of the first entry, which the setters do not touch.
        unsafe {
            let entry = &mut *entries.add(usize::from(self.tail % COUNT));
            entry.set_addr(start as u64);
            entry.set_len(u32::try_from(SIZE).expect("a small constant"));
            entry.set_bid(buffer);
            self.tail = self.tail.wrapping_add(1);
            AtomicU16::from_ptr(BufRingEntry::tail(entries).cast_mut()).store(self.tail, Ordering::Release);
        }
    }

    /// Never frees it.
    pub(super) fn leak(&mut self) {
        self.leaked = true;
    }
}

#[expect(unsafe_code, reason = "the kernel shares this memory")]
impl Drop for Received {
    fn drop(&mut self) {
        if !self.leaked {
            // SAFETY: allocated with this layout; the ring has no request open that could use it.
            unsafe { dealloc(self.memory.as_ptr(), layout()) }
        }
    }
}

/// Buffers to send from.
#[derive(Default)]
pub(super) struct Sending {
    buffers: Vec<Box<[u8; SIZE]>>,
    free: Vec<u16>,
}

impl Sending {
    pub(super) fn has_room(&self) -> bool {
        !self.free.is_empty() || self.buffers.len() < MOST
    }

    /// A buffer with these bytes: its number, start and length.
    pub(super) fn fill<'a>(
        &mut self,
        parts: impl Iterator<Item = &'a [u8]>,
    ) -> Option<(u16, *const u8, u16)> {
        let number = match self.free.pop() {
            Some(number) => number,
            None if self.buffers.len() < MOST => {
                self.buffers.push(Box::new([0; SIZE]));
                u16::try_from(self.buffers.len() - 1).ok()?
            }
            None => return None,
        };
        let buffer = &mut self.buffers[usize::from(number)];
        let mut length = 0;
        for part in parts {
            buffer[length..length + part.len()].copy_from_slice(part);
            length += part.len();
        }
        Some((number, buffer.as_ptr(), u16::try_from(length).expect("at most a buffer's size")))
    }

    pub(super) fn give_back(&mut self, number: u16) {
        self.free.push(number);
    }

    /// Never frees them.
    pub(super) fn leak(&mut self) {
        std::mem::take(&mut self.buffers).into_iter().for_each(|buffer| {
            Box::leak(buffer);
        });
    }
}
