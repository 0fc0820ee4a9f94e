//! `isthmus-primary`: see `isthmus_primary`.

use std::process::ExitCode;

use clap::Parser as _;
use isthmus_primary::config::Config;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let config = Config::parse();
    isthmus_process::run("isthmus-primary", || isthmus_primary::run(config))
}
