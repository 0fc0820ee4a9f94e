//! The command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand};
use isthmus_agent::args::{AgentArgs, duration, label, pair};
use isthmus_agent::child::BecomeArgs;
use isthmus_agent::health::Schedule;
use isthmus_agent::health::spec::What;
use isthmus_model::NamespacedName;
use isthmus_process::WorkerArgs;
use isthmus_process::telemetry::LogArgs;

/// The agent beside a workload.
#[derive(Debug, Parser)]
#[command(name = "isthmus-sidecar", version)]
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
    /// Join the mesh, then run a command in it
    ///
    /// gRPC clients in it need no proxy to know the mesh: GRPC_XDS_BOOTSTRAP is set for them, and `xds:///HOST:PORT` is what they dial.
    Run(Box<RunArgs>),
    /// Become a workload, or Envoy, that ends with its agent; used by `run`
    #[command(hide = true)]
    Become(BecomeArgs),
}

/// Flags of `run`.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// File with a token of `isthmus host token`; needed until this workload has joined
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// ServiceAccount to run as, NAMESPACE/NAME
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub service_account: NamespacedName,
    /// Labels of the workload
    #[arg(long, value_name = "KEY=VALUE,…", value_delimiter = ',', value_parser = label)]
    pub labels: Vec<(Arc<str>, Arc<str>)>,
    /// Name of the workload, unique in its namespace [default: labels app and version, and the host's name]
    #[arg(long)]
    pub name: Option<String>,
    /// Where keys, certificate and last-good configuration are kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/isthmus/sidecar")]
    pub data_dir: PathBuf,
    /// A named port of the workload; repeatable
    #[arg(long = "port", value_name = "NAME=PORT", value_parser = port)]
    pub ports: Vec<(Arc<str>, u16)>,
    /// How to tell that the workload is ready: http:PORT[/PATH], https:PORT[/PATH], tcp:PORT, grpc:PORT[/SERVICE] or
    /// exec:COMMAND
    #[arg(long, value_name = "PROBE")]
    pub probe: Option<What>,
    /// Time for one probe
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1s")]
    pub probe_timeout: Duration,
    /// Time between two probes
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1s")]
    pub probe_period: Duration,
    /// Failed probes in a row until the workload is not ready
    #[arg(long, value_name = "COUNT", default_value_t = 2)]
    pub probe_failures: u32,
    /// Time for the workload to end before it is killed
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "30s")]
    pub grace: Duration,
    /// Flags of every agent.
    #[command(flatten)]
    pub agent: AgentArgs,
    /// Threads.
    #[command(flatten)]
    pub workers: WorkerArgs,
    /// The workload and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

impl Args {
    /// How many threads serve.
    #[must_use]
    pub fn workers(&self) -> WorkerArgs {
        match &self.command {
            Command::Run(run) => run.workers,
            Command::Become(_) => WorkerArgs { concurrency: Some(NonZeroUsize::MIN) },
        }
    }
}

impl RunArgs {
    pub(crate) fn schedule(&self) -> Schedule {
        Schedule {
            period: self.probe_period,
            timeout: self.probe_timeout,
            failures: self.probe_failures,
            ..Schedule::default()
        }
    }

    /// Own name, and that of what this is one instance of.
    pub(crate) fn names(&self, hostname: &str) -> (String, String) {
        let label =
            |key: &str| self.labels.iter().find(|(name, _)| &**name == key).map(|(_, value)| &**value);
        let parts: Vec<&str> = [label("app"), label("version")].into_iter().flatten().collect();
        let workload = match (&self.name, parts.as_slice()) {
            (_, [_, ..]) => parts.join("-"),
            (Some(name), []) => name.clone(),
            (None, []) => self.service_account.name.to_string(),
        };
        let name = self.name.clone().unwrap_or_else(|| format!("{workload}-{hostname}"));
        (name, workload)
    }
}

fn port(text: &str) -> Result<(Arc<str>, u16), String> {
    let (name, number) = pair(text)?;
    let number = number.parse::<u16>().ok().filter(|port| *port != 0);
    number.map(|number| (name.into(), number)).ok_or_else(|| format!("{text:?}: the port is none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<RunArgs, clap::Error> {
        match Args::try_parse_from(line.split_whitespace())?.command {
            Command::Run(args) => Ok(*args),
            Command::Become(_) => panic!("not `run`"),
        }
    }

    #[test]
    fn the_command_line_of_the_demo_is_read() {
        let args = parse(
            "isthmus-sidecar run --token-file t --service-account default/bookinfo-reviews \
             --labels app=reviews,version=v2 --data-dir d --port http=9080 --probe http:9080/health \
             --probe-timeout 1s --locality r/z/s --leaf-ttl 24h --concurrency 1 -- bookinfo reviews --port 9080",
        )
        .unwrap();
        assert_eq!(args.command, ["bookinfo", "reviews", "--port", "9080"]);
        assert_eq!(args.names("host1"), ("reviews-v2-host1".into(), "reviews-v2".into()));
        assert_eq!(args.ports, [("http".into(), 9080)]);
        assert_eq!(args.agent.leaf_ttl, Some(Duration::from_secs(86_400)));
        assert_eq!(args.workers.concurrency, Some(NonZeroUsize::MIN));
    }

    #[test]
    fn mistakes_name_the_flag() {
        let base = "isthmus-sidecar run --service-account a/b";
        for (line, named) in [
            (format!("{base} --labels app -- x"), "--labels"),
            (format!("{base} --port http=0 -- x"), "--port"),
            (format!("{base} --probe ftp:1 -- x"), "--probe"),
            (format!("{base} --leaf-ttl soon -- x"), "--leaf-ttl"),
            (base.to_string(), "COMMAND"),
            ("isthmus-sidecar run --service-account b -- x".to_string(), "--service-account"),
        ] {
            let error = parse(&line).unwrap_err().to_string();
            assert!(error.contains(named), "{line}: {error}");
        }
    }
}
