//! `isthmus-eastwest-gw`: see `isthmus_eastwest_gw`.

use std::process::ExitCode;

use clap::Parser as _;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = isthmus_eastwest_gw::Args::parse();
    let workers = args.workers;
    isthmus_process::run_with("isthmus-eastwest-gw", workers, || isthmus_eastwest_gw::run(args))
}
