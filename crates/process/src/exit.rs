//! From `main` to an exit code.

use std::future::Future;
use std::process::ExitCode;

/// Installs the crypto provider, builds the runtime, runs the program, and turns an error into one line on standard error
/// and exit code 1 (usage errors are clap's, exit code 2).
pub fn run<F>(name: &str, program: impl FnOnce() -> F) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    // A second installation (tests) keeps the first, which is the same.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
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
