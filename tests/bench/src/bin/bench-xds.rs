//! `make bench-xds`: see `XDS.md` beside this package.

use std::process::ExitCode;

use clap::Parser as _;
use isthmus_bench::xds::options::{Cli, Output, Part};
use isthmus_bench::xds::{run, simulator};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    if let Some(Part::Proxies(settings)) = cli.command {
        return simulator::run(settings).await.map(|()| ExitCode::SUCCESS);
    }
    // A connection is a file of the control plane and one of the proxies.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    // When the run is dropped, so are its processes.
    let report = tokio::select! {
        report = run::run(&cli.options) => report,
        signal = stopped() => {
            eprintln!("bench-xds: {}", signal?);
            return Ok(ExitCode::FAILURE);
        }
    };
    let report = match report {
        Ok(report) => report,
        Err(error) => {
            eprintln!("bench-xds: {error:#}");
            return Ok(ExitCode::FAILURE);
        }
    };
    match cli.options.output {
        Output::Table => print!("{}", report.table()),
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits for a signal to stop, and says which it was.
async fn stopped() -> std::io::Result<&'static str> {
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut hung_up = signal(SignalKind::hangup())?;
    Ok(tokio::select! {
        _ = terminated.recv() => "terminated; all that it started has ended",
        _ = interrupted.recv() => "interrupted; all that it started has ended",
        _ = hung_up.recv() => "its terminal is gone; all that it started has ended",
    })
}
