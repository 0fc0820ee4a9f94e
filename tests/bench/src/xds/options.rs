//! Flags of `bench-xds`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};

use super::simulator::Settings;

/// Measures isthmus-primary under many xDS streams over mutual TLS: CPU and memory from nothing to complete, settled, for one endpoint's
/// change, for hundreds of changes a second, and when all proxies reconnect at once.
#[derive(Debug, Parser)]
#[command(name = "bench-xds", version, about, long_about, subcommand_negates_reqs = true)]
pub struct Cli {
    /// What to do instead
    #[command(subcommand)]
    pub command: Option<Part>,
    /// The run
    #[command(flatten)]
    pub options: Options,
}

/// Parts of a run that are processes of their own.
#[derive(Debug, Subcommand)]
pub enum Part {
    /// The simulated proxies; started by the benchmark
    #[command(hide = true)]
    Proxies(Settings),
}

/// Where objects are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ApiKind {
    /// A real kube-apiserver over etcd (`make kube-assets`)
    Kubernetes,
    /// The control plane's own API
    Standalone,
}

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Table,
    /// For programs
    Json,
}

/// A run.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Services
    #[arg(long, default_value_t = 1000)]
    pub services: u32,
    /// Pods behind each
    #[arg(long, default_value_t = 10)]
    pub endpoints: u32,
    /// Proxies, each with a certificate and a stream of its own
    #[arg(long, default_value_t = 1000)]
    pub proxies: usize,
    /// Namespaces that services and proxies are spread over: proxies of one namespace share a view
    #[arg(long, visible_alias = "classes", default_value_t = 10)]
    pub namespaces: u32,
    /// How many proxies in a hundred speak state of the world instead of delta
    #[arg(long, value_name = "PERCENT", default_value_t = 0)]
    pub sotw: usize,
    /// Where the objects are
    #[arg(long, value_enum, default_value_t = ApiKind::Kubernetes)]
    pub api: ApiKind,
    /// Single changes that are measured
    #[arg(long, default_value_t = 20)]
    pub changes: u32,
    /// Changes a second under load
    #[arg(long, default_value_t = 500)]
    pub rate: u32,
    /// Services that they are spread over
    #[arg(long, default_value_t = 50)]
    pub among: u32,
    /// For so many seconds; 0 leaves the load out
    #[arg(long, default_value_t = 60)]
    pub seconds: u64,
    /// Seconds of quiet before settled memory is read
    #[arg(long, default_value_t = 10)]
    pub settle: u64,
    /// Folder of isthmus-primary; default: this program's
    #[arg(long, value_name = "DIR")]
    pub programs: Option<PathBuf>,
    /// Folder of etcd and kube-apiserver
    #[arg(long, value_name = "DIR")]
    pub kube: Option<PathBuf>,
    /// A command that is run when all is settled, with the control plane's process id: a profiler
    #[arg(long, value_name = "COMMAND")]
    pub after: Option<String>,
    /// Keep the run's folder with its logs
    #[arg(long)]
    pub keep: bool,
    /// No progress
    #[arg(short, long)]
    pub quiet: bool,
    /// How results are written
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

impl Options {
    /// The control plane's program.
    ///
    /// # Errors
    /// When it is not there.
    pub fn primary(&self) -> anyhow::Result<PathBuf> {
        let folder = match &self.programs {
            Some(folder) => folder.clone(),
            None => std::env::current_exe()?.parent().context("this program's folder")?.to_path_buf(),
        };
        let program = folder.join("isthmus-primary");
        anyhow::ensure!(program.exists(), "{} is not there; `make bench-xds` builds it", program.display());
        Ok(program)
    }

    /// Where `make kube-assets` puts its programs.
    #[must_use]
    pub fn kube_bin(&self) -> PathBuf {
        let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../kube/bin");
        self.kube.clone().unwrap_or_else(|| PathBuf::from(built))
    }
}
