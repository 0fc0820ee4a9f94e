//! `make bench-xds`: see `XDS.md` beside this package.

use clap::Parser as _;
use isthmus_bench::xds::options::{Cli, Output, Part};
use isthmus_bench::xds::{run, simulator};
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    if let Some(Part::Proxies(settings)) = cli.command {
        return simulator::run(settings).await;
    }
    let mut terminated = signal(SignalKind::terminate())?;
    // When it is dropped, so are the processes.
    let report = tokio::select! {
        report = run::run(&cli.options) => report?,
        stop = tokio::signal::ctrl_c() => {
            stop?;
            anyhow::bail!("stopped");
        }
        _ = terminated.recv() => anyhow::bail!("stopped"),
    };
    match cli.options.output {
        Output::Table => print!("{}", report.table()),
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    Ok(())
}
