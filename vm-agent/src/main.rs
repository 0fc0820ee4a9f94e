//! `isthmus-vm-agent`: see `isthmus_vm_agent`.

use std::process::ExitCode;

use clap::Parser as _;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = isthmus_vm_agent::Args::parse();
    let workers = args.workers();
    isthmus_process::run_with("isthmus-vm-agent", workers, || isthmus_vm_agent::run(args))
}
