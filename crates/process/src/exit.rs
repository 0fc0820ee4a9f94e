//! From `main` to an exit code.

use std::future::Future;
use std::num::NonZeroUsize;
use std::process::ExitCode;

use clap::Args;
use tokio::runtime::{Builder, Runtime};

/// How many threads serve traffic; a flag of programs on the data path.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct WorkerArgs {
    /// Worker threads [default: one for each CPU]
    #[arg(long, value_name = "COUNT")]
    pub concurrency: Option<NonZeroUsize>,
}

impl WorkerArgs {
    /// One worker is the main thread itself: tasks wake one another without a call into the kernel.
    fn runtime(self) -> std::io::Result<Runtime> {
        let mut builder = match self.concurrency.map(NonZeroUsize::get) {
            Some(1) => Builder::new_current_thread(),
            Some(count) => {
                let mut builder = Builder::new_multi_thread();
                builder.worker_threads(count);
                builder
            }
            None => Builder::new_multi_thread(),
        };
        builder.enable_all().build()
    }
}

/// [`run_with`] as many worker threads as there are CPUs.
pub fn run<F>(name: &str, program: impl FnOnce() -> F) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    run_with(name, WorkerArgs::default(), program)
}

/// Installs the crypto provider, builds the runtime, runs the program, and turns an error into one line on standard error
/// and exit code 1 (usage errors are clap's, exit code 2).
pub fn run_with<F>(name: &str, workers: WorkerArgs, program: impl FnOnce() -> F) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    // A second installation (tests) keeps the first, which is the same.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match workers.runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{name}: the runtime does not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(program()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
