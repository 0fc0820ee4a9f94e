//! `isthmus-primary`: see `isthmus_primary`.

use std::process::ExitCode;

use clap::Parser as _;
use isthmus_primary::config::Config;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Many small things of long life, and memory that is to shrink again: with pages of 2 MiB the kernel keeps a quarter more of it
    // resident. A kernel that refuses has nothing to switch off.
    let _ = nix::sys::prctl::set_thp_disable(true);
    let config = Config::parse();
    isthmus_process::run("isthmus-primary", || isthmus_primary::run(config))
}
