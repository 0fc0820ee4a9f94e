//! The command `isthmus`.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args = isthmus_cli::Args::parse();
    isthmus_process::run("isthmus", || isthmus_cli::run(args))
}
