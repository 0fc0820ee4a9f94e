//! `isthmus-eastwest-gw`: see `isthmus_eastwest_gw`.

use std::process::ExitCode;

use clap::Parser as _;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = isthmus_eastwest_gw::Args::parse();
    isthmus_process::run("isthmus-eastwest-gw", || isthmus_eastwest_gw::run(args))
}
