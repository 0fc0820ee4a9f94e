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
