//! Memory that nobody uses goes back to the system.

/// Asks the allocator for what it keeps for later. mimalloc looks at its free pages when it is used: a program that has just read
/// something large and is quiet then keeps them resident. For programs whose allocator it is; others lose nothing by it.
#[expect(unsafe_code, reason = "mimalloc has no safe call for it")]
pub fn give_back() {
    // SAFETY: mi_collect takes no pointer, may be called at any time from any thread, and frees nothing that is in use.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

/// As [`give_back`] for programs that use the system's allocator, which keeps what was freed below something that is in use: the small
/// pieces of long lists lie among what was made of them.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "the C library has no safe call for it")]
    {
        // SAFETY: malloc_trim takes no pointer, may be called at any time from any thread, and frees nothing that is in use.
        let _ = unsafe { nix::libc::malloc_trim(0) };
    }
}

/// Has all threads take the system's allocator's memory from one arena. With one for each thread, what one frees is no use to the others:
/// a program whose work wanders between threads then keeps the peak of each. Said before the first thread is started; small pieces come from
/// a cache of each thread's own all the same.
pub fn one_arena() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "the C library has no safe call for it")]
    {
        // SAFETY: mallopt takes no pointer and changes where later calls find memory.
        let _ = unsafe { nix::libc::mallopt(nix::libc::M_ARENA_MAX, 1) };
    }
}
