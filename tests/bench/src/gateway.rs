//! Gateways by server name beside one another: each contender in turn has the same load of the same client and origin, and is
//! charged with its own CPU time.

pub mod args;
pub mod contender;
mod hello;
pub mod load;
mod memory;
mod netns;
pub mod origin;
mod ours;
mod pair;
mod peers;
pub mod report;
pub mod suite;

use anyhow::Context as _;
use clap::Parser as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use args::{Args, Format, Part, Suite};
use contender::Contender;
use origin::Origin;
use report::Report;
use suite::{Measure, Target, Wanted};

/// Names of the services behind the gateways.
pub const BULK: &str = "bulk.bench.mesh.internal";
/// The one that answers.
pub const ECHO: &str = "echo.bench.mesh.internal";

/// What contenders are started with.
#[derive(Debug)]
pub struct Context {
    /// The flags.
    pub args: Args,
    /// A folder for configuration and logs.
    pub folder: tempfile::TempDir,
    /// The folder of our programs.
    pub programs: std::path::PathBuf,
}

/// The server name by which a gateway finds a service.
#[must_use]
pub fn server_name(host: &str) -> String {
    format!("outbound_.80_._.{host}")
}

/// Runs the benchmark.
///
/// # Errors
/// When a contender that is there does not work.
pub fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    // Before any thread is there, so that all of them are inside.
    netns::enter().context("a network namespace of its own: run as root, or allow user namespaces")?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    // A second installation keeps the first, which is the same.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::select! {
            done = run(args) => done,
            _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
        }
    })
}

async fn run(args: Args) -> anyhow::Result<()> {
    let programs = std::env::current_exe()?.parent().context("a program is in a folder")?.to_path_buf();
    let context = Context { args, folder: tempfile::tempdir()?, programs };
    let _origin = Origin::start()?;
    let mut report = Report::default();
    let parts = &context.args.parts();
    let measures: Vec<_> = parts.iter().filter_map(|part| part.measure()).collect();
    let with = |target: fn(Measure) -> Target| -> Vec<Wanted> {
        measures.iter().map(|measure| (*measure, target(*measure))).collect()
    };
    let is_gateway = context.args.suite.contains(&Suite::Gateway);
    if is_gateway && !measures.is_empty() {
        let mut contenders = vec![Contender::direct()?];
        for name in context.args.contenders() {
            match peers::start(name, &context).await? {
                Some(contender) => contenders.push(contender),
                None => eprintln!("{name} is not here, its column stays empty: {}", peers::advice(name)),
            }
        }
        if context.args.wants("isthmus") {
            contenders.push(ours::start(&context, Vec::new(), &[]).await?);
        }
        suite::run("gateway", &contenders, &with(suite::gateway_target), &context.args, &mut report).await?;
    }
    if is_gateway && parts.contains(&Part::Services) && context.args.wants("isthmus") {
        report.add(memory::of_services(&context, "in full", &["--full-view"]).await?);
        report.add(memory::of_services(&context, "on demand", &[]).await?);
    }
    if context.args.suite.contains(&Suite::Pair) && !measures.is_empty() {
        let pairs = pair::start(&context).await?;
        suite::run("sidecar pair", &pairs.contenders, &with(pair::target), &context.args, &mut report)
            .await?;
    }
    match context.args.output {
        Format::Table => print!("{}", report.table()),
        Format::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    Ok(())
}
