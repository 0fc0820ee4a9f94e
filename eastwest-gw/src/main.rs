//! `isthmus-eastwest-gw`: see `isthmus_eastwest_gw`.

use std::process::ExitCode;

use clap::Parser as _;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // With pages of 2 MiB the kernel keeps far more resident than a gateway's small pieces fill (bench-gateway). A kernel that refuses
    // has nothing to switch off.
    let _ = nix::sys::prctl::set_thp_disable(true);
    let args = isthmus_eastwest_gw::Args::parse();
    let workers = args.workers;
    isthmus_process::run_with("isthmus-eastwest-gw", workers, || isthmus_eastwest_gw::run(args))
}
