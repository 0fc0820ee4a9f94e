//! Flags of `bench-xds`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};

use super::simulator::Settings;
use super::stored::MOST_SERVICES;

const EXAMPLES: &str = "\
Examples:
  bench-xds                                        1,000 services with 1,000 proxies, in three minutes
  bench-xds --services 10000 --proxies 500         the large shape, in about four minutes
  bench-xds --sotw 20                              a fifth of the proxies speaks state of the world
  bench-xds --services 200 --proxies 50 --seconds 5 --settle 1
                                                   whether all of it works, in half a minute
  bench-xds --seconds 0 --after 'perf record -g -p'
                                                   profile what settled is; end that to go on

Each line is a phase: wall time, CPU and memory of isthmus-primary alone, then what the proxies saw.
A first change is left out of the mean of those that follow. \"behind\" counts services of proxies
that never got the last state: it must be 0. SIGTERM or Ctrl-C ends everything that was started.";

/// Measures isthmus-primary under many xDS streams over mutual TLS
///
/// Starts etcd, which is filled with Services, Pods and EndpointSlices, a kube-apiserver over it, isthmus-primary, and a process of simulated
/// proxies, each with a certificate and a stream of its own. Measured are CPU and memory from nothing to complete, settled, for one
/// endpoint's change, for hundreds of changes a second, and when all proxies reconnect at once. tests/bench/XDS.md says what was found.
#[derive(Debug, Parser)]
#[command(name = "bench-xds", version, about, long_about, subcommand_negates_reqs = true, after_long_help = EXAMPLES)]
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
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_SERVICES)))]
    pub services: u32,
    /// Pods behind each service
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub endpoints: u32,
    /// Proxies, each with a certificate and a stream of its own
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub proxies: usize,
    /// Namespaces that services and proxies are spread over
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub namespaces: u32,
    /// How many proxies in a hundred speak state of the world instead of delta
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub sotw: u8,
    /// Where the objects are
    #[arg(long, value_enum, default_value_t = ApiKind::Kubernetes)]
    pub api: ApiKind,
    /// Single changes that are measured
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub changes: u32,
    /// Changes a second that are offered under load
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub rate: u32,
    /// Services that those are spread over
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub among: u32,
    /// How long they are offered; 0 leaves this phase out
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub seconds: u64,
    /// Seconds of quiet before settled memory is read
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub settle: u64,
    /// Folder of isthmus-primary [default: this program's]
    #[arg(long, value_name = "DIR")]
    pub programs: Option<PathBuf>,
    /// Folder of etcd and kube-apiserver [default: tests/kube/bin, where `make kube-assets` puts them]
    #[arg(long, value_name = "DIR")]
    pub kube: Option<PathBuf>,
    /// A shell's command that is run, each time that all is settled, with the control plane's process id behind it; the run goes on when
    /// it ends
    #[arg(long, value_name = "COMMAND")]
    pub after: Option<String>,
    /// Keep the run's folder, bench-xds-… in the temporary folder, with the logs of all processes
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
    /// That the numbers fit together.
    ///
    /// # Errors
    /// When they do not.
    pub fn check(&self) -> anyhow::Result<()> {
        let pods = u64::from(self.services) * u64::from(self.endpoints);
        anyhow::ensure!(
            (1..=pods).contains(&(self.proxies as u64)),
            "--proxies {} must be between 1 and the number of pods, which is {pods} (--services {} times --endpoints {})",
            self.proxies,
            self.services,
            self.endpoints
        );
        // Addresses of pods are those before the services'.
        anyhow::ensure!(pods <= 6_000_000, "{pods} pods have no addresses; at most 6000000 do");
        Ok(())
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    fn of(arguments: &[&str]) -> Options {
        Cli::try_parse_from(std::iter::once(&"bench-xds").chain(arguments)).unwrap().options
    }

    #[test]
    fn there_is_a_pod_for_each_proxy() {
        of(&[]).check().unwrap();
        of(&["--services", "10000", "--proxies", "500"]).check().unwrap();
        let problem = of(&["--services", "20", "--endpoints", "2"]).check().unwrap_err().to_string();
        assert!(
            problem.starts_with("--proxies 1000 must be between 1 and the number of pods, which is 40"),
            "{problem}"
        );
        for arguments in [["--sotw", "101"], ["--services", "0"], ["--services", "70000"], ["--among", "0"]] {
            let refused = Cli::try_parse_from(std::iter::once("bench-xds").chain(arguments));
            assert_eq!(refused.unwrap_err().kind(), clap::error::ErrorKind::ValueValidation, "{arguments:?}");
        }
    }
}
