//! The command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use isthmus_agent::args::{AgentArgs, label};
use isthmus_agent::child::BecomeArgs;
use isthmus_process::WorkerArgs;
use isthmus_process::telemetry::LogArgs;

/// Brings this machine into the mesh.
#[derive(Debug, Parser)]
#[command(name = "isthmus-vm-agent", version)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Redeem a token of `isthmus vm token`, remember the membership, then run
    Join(Box<JoinArgs>),
    /// Run as the member that an earlier join made this machine
    Run(Box<RunArgs>),
    /// Give the network back and forget the membership
    Leave(DataArgs),
    /// Say what this machine is in the mesh and how its agent does
    Status(StatusArgs),
    /// Become an Envoy that ends with its agent; used by `run`
    #[command(hide = true)]
    Become(BecomeArgs),
}

/// Where the membership is.
#[derive(Debug, Clone, clap::Args)]
pub struct DataArgs {
    /// Where keys, certificate and last-good configuration are kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/isthmus/agent")]
    pub data_dir: PathBuf,
}

/// Flags of `status`.
#[derive(Debug, Clone, clap::Args)]
pub struct StatusArgs {
    /// Where the membership is.
    #[command(flatten)]
    pub data: DataArgs,
    /// Print everything, as JSON
    #[arg(short, long, value_enum)]
    pub output: Option<Output>,
}

/// Form of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// One JSON object.
    Json,
}

/// Flags of `join`.
#[derive(Debug, Clone, clap::Args)]
pub struct JoinArgs {
    /// Token of `isthmus vm token`: a secret, and good for one machine; `-` reads it from standard input
    // Read later: a message about a bad argument would repeat it.
    pub token: String,
    /// Only join; `run` does the rest
    #[arg(long)]
    pub no_run: bool,
    /// Flags of `run`.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Flags of `run`.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// Where the membership is.
    #[command(flatten)]
    pub data: DataArgs,
    /// Labels of this machine, besides those of its WorkloadGroup
    #[arg(long, value_name = "KEY=VALUE,…", value_delimiter = ',', value_parser = label)]
    pub labels: Vec<(Arc<str>, Arc<str>)>,
    /// Name of this machine [default: the host's name]
    #[arg(long)]
    pub name: Option<String>,
    /// Flags of every agent.
    #[command(flatten)]
    pub agent: AgentArgs,
    /// Threads.
    #[command(flatten)]
    pub workers: WorkerArgs,
}

impl Args {
    /// How many threads serve.
    #[must_use]
    pub fn workers(&self) -> WorkerArgs {
        match &self.command {
            Command::Join(join) => join.run.workers,
            Command::Run(run) => run.workers,
            Command::Leave(_) | Command::Status(_) | Command::Become(_) => {
                WorkerArgs { concurrency: Some(NonZeroUsize::MIN) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_lines_of_the_demo_are_read() {
        let args = Args::try_parse_from(["isthmus-vm-agent", "join", "TOKEN", "--no-run", "--data-dir", "d"])
            .unwrap();
        assert!(matches!(args.command, Command::Join(join) if join.no_run && join.token == "TOKEN"));
        let args = Args::try_parse_from(["isthmus-vm-agent", "run", "--concurrency", "1"]).unwrap();
        assert_eq!(args.workers().concurrency, Some(NonZeroUsize::MIN));
        assert!(matches!(args.command, Command::Run(_)));
    }
}
