//! The system's allocator, except that blocks of 16 KiB lie on pages of their own, which are empty when a block is taken.
//!
//! HTTP/2 writes into a buffer of that size, one for each connection, and a quiet connection has written a few hundred bytes of it.
//! The system's allocator makes it of what was freed before, all of which is resident; here it costs the one page that was written,
//! and nothing once it is freed. With a thousand proxies that is a tenth of the memory of a control plane.

#![expect(unsafe_code, reason = "an allocator is made of unsafe functions")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use nix::libc;

/// The size of blocks that have pages of their own.
const BLOCK: usize = 16 * 1024;
/// So many of them, which are half a gigabyte of addresses; the system's allocator has those beyond.
const BLOCKS: u16 = 1 << 15;
/// What a page is at least.
const PAGE: usize = 4096;

/// Where the blocks are; none where the system gave no addresses.
static REGION: OnceLock<Option<usize>> = OnceLock::new();
static FREE: Mutex<Free> = Mutex::new(Free { fresh: 0, count: 0, returned: [0; BLOCKS as usize] });

/// Blocks that nobody has: those that nobody has had yet, and those that came back.
struct Free {
    fresh: u16,
    count: usize,
    returned: [u16; BLOCKS as usize],
}

impl Free {
    fn lock() -> MutexGuard<'static, Self> {
        FREE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&mut self) -> Option<u16> {
        if self.count > 0 {
            self.count -= 1;
            return Some(self.returned[self.count]);
        }
        let block = self.fresh;
        (block < BLOCKS).then(|| {
            self.fresh += 1;
            block
        })
    }

    fn give_back(&mut self, block: u16) {
        self.returned[self.count] = block;
        self.count += 1;
    }
}

/// One mapping for all, however many are in use. None where pages are so large that emptying a block would empty its neighbours.
fn reserve() -> Option<usize> {
    // SAFETY: it takes no pointer.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
    if !BLOCK.is_multiple_of(page) {
        return None;
    }
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing that exists.
    let start = unsafe {
        libc::mmap(
            null_mut(),
            BLOCK * usize::from(BLOCKS),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return None;
    }
    // A huge page would hold all of 128 blocks. A kernel that refuses has none.
    // SAFETY: the mapping is as long, and nobody uses it yet.
    let _ = unsafe { libc::madvise(start, BLOCK * usize::from(BLOCKS), libc::MADV_NOHUGEPAGE) };
    Some(start as usize)
}

/// A block, all zeros; none when all are in use.
fn take() -> Option<*mut u8> {
    let start = (*REGION.get_or_init(reserve))?;
    let block = Free::lock().take()?;
    Some((start + BLOCK * usize::from(block)) as *mut u8)
}

/// Which block this is; none for memory of the system's allocator.
fn block_of(pointer: *mut u8) -> Option<u16> {
    let start = (*REGION.get()?)?;
    let block = (pointer as usize).checked_sub(start)? / BLOCK;
    u16::try_from(block).ok().filter(|block| *block < BLOCKS)
}

/// See the module.
#[derive(Debug)]
pub struct Sparse;

impl Sparse {
    fn block(layout: Layout) -> Option<*mut u8> {
        if layout.size() == BLOCK && layout.align() <= PAGE { take() } else { None }
    }
}

// SAFETY: a block is handed out to one owner at a time, is as large as BLOCK and aligned to a page; all else is the system's allocator's.
unsafe impl GlobalAlloc for Sparse {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is the same.
        Self::block(layout).unwrap_or_else(|| unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is the same.
        Self::block(layout).unwrap_or_else(|| unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let Some(block) = block_of(pointer) else {
            // SAFETY: it is none of our blocks, so it came from there.
            return unsafe { System.dealloc(pointer, layout) };
        };
        // SAFETY: these are whole pages that nobody uses any more.
        let emptied = unsafe { libc::madvise(pointer.cast(), BLOCK, libc::MADV_DONTNEED) };
        if emptied != 0 {
            // Pages that are locked in memory stay there.
            // SAFETY: the block is as long, and nobody uses it any more.
            unsafe { pointer.write_bytes(0, BLOCK) };
        }
        Free::lock().give_back(block);
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if size != BLOCK && block_of(pointer).is_none() {
            // SAFETY: it came from there, and the caller's promise is the same.
            return unsafe { System.realloc(pointer, layout, size) };
        }
        // SAFETY: the caller promises a size that is not zero and does not overflow with this alignment; old and new memory are both as
        // long as what is copied, and are not the same.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                pointer.copy_to_nonoverlapping(new, size.min(layout.size()));
                self.dealloc(pointer, layout);
            }
            new
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 1).unwrap()
    }

    /// Pages of a block that are in memory.
    fn resident(block: *mut u8) -> usize {
        let mut pages = [0; BLOCK / PAGE];
        // SAFETY: it is a block, and there is a byte for each of its pages.
        assert_eq!(unsafe { libc::mincore(block.cast(), BLOCK, pages.as_mut_ptr()) }, 0);
        pages.iter().filter(|page| *page & 1 == 1).count()
    }

    #[test]
    fn a_block_costs_the_pages_that_were_written_and_comes_back_empty() {
        // SAFETY: each block is written within its size, and freed once with its layout.
        unsafe {
            let block = Sparse.alloc(layout(BLOCK));
            assert!(block_of(block).is_some());
            assert_eq!(resident(block), 0);
            block.write_bytes(7, 300);
            assert_eq!(resident(block), 1);
            block.write_bytes(7, BLOCK);
            assert_eq!(resident(block), BLOCK / PAGE);
            Sparse.dealloc(block, layout(BLOCK));
            let again = Sparse.alloc_zeroed(layout(BLOCK));
            assert!(std::slice::from_raw_parts(again, BLOCK).iter().all(|byte| *byte == 0));
            Sparse.dealloc(again, layout(BLOCK));
        }
    }

    #[test]
    fn what_grows_and_shrinks_through_a_block_keeps_its_bytes() {
        // SAFETY: as above.
        unsafe {
            let mut memory = Sparse.alloc(layout(100));
            assert!(block_of(memory).is_none());
            for at in 0..100 {
                memory.add(at).write(u8::try_from(at).unwrap());
            }
            let mut size = 100;
            for next in [BLOCK, 3 * BLOCK, BLOCK, BLOCK / 2, 200] {
                memory = Sparse.realloc(memory, layout(size), next);
                assert_eq!(block_of(memory).is_some(), next == BLOCK);
                assert!(std::slice::from_raw_parts(memory, 100).iter().copied().eq(0..100));
                size = next;
            }
            Sparse.dealloc(memory, layout(size));
        }
    }

    #[test]
    fn blocks_beyond_all_are_the_systems() {
        let mut free = Box::new(Free { fresh: BLOCKS - 1, count: 0, returned: [0; BLOCKS as usize] });
        assert_eq!(free.take(), Some(BLOCKS - 1));
        assert_eq!(free.take(), None);
        free.give_back(5);
        assert_eq!((free.take(), free.take()), (Some(5), None));
    }
}
