//! `isthmus-vm-agent`: see `isthmus_vm_agent`.

use std::process::ExitCode;

use clap::Parser as _;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = isthmus_vm_agent::Args::parse();
    isthmus_process::run("isthmus-vm-agent", || isthmus_vm_agent::run(args))
}
