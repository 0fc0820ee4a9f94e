//! `isthmus-primary`: see `isthmus_primary`.

use std::process::ExitCode;

use clap::Parser as _;
use isthmus_primary::config::Config;
use isthmus_primary::memory::Sparse;

#[global_allocator]
static ALLOCATOR: Sparse = Sparse;

fn main() -> ExitCode {
    // Many small things of long life, and memory that is to shrink again: with pages of 2 MiB the kernel keeps a fifth more of it
    // resident (bench-xds), and with mimalloc a tenth more than with the system's allocator. A kernel that refuses has nothing to switch
    // off.
    let _ = nix::sys::prctl::set_thp_disable(true);
    isthmus_process::memory::one_arena();
    let config = Config::parse();
    isthmus_process::run("isthmus-primary", || isthmus_primary::run(config))
}
