//! `isthmus-sidecar`: see `isthmus_sidecar`.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU8, Ordering};

use clap::Parser as _;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The workload's exit code becomes the program's.
static CODE: AtomicU8 = AtomicU8::new(0);

fn main() -> ExitCode {
    let args = isthmus_sidecar::Args::parse();
    let workers = args.workers();
    let outcome = isthmus_process::run_with("isthmus-sidecar", workers, || async {
        CODE.store(isthmus_sidecar::run(args).await?, Ordering::Relaxed);
        Ok(())
    });
    match CODE.load(Ordering::Relaxed) {
        0 => outcome,
        code => ExitCode::from(code),
    }
}
