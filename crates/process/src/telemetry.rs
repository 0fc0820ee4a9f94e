//! Logs to standard error: text for a person, JSON for collectors. Access log lines are Istio's in both; a filter `info,access=off` leaves
//! them out.

mod access;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format;
use tracing_subscriber::fmt::format::JsonFields;

use access::Lines;

/// Flags that every program has.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// What to log: a level, or a filter such as `info,isthmus_xds=debug` or `info,access=off`
    #[arg(long, env = "ISTHMUS_LOG", default_value = "info", global = true, help_heading = "Logging")]
    pub log: String,
    /// Form of log lines
    #[arg(long, value_enum, default_value_t = LogFormat::Text, global = true, help_heading = "Logging")]
    pub log_format: LogFormat,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For a person.
    Text,
    /// One JSON object a line.
    Json,
}

/// Libraries that log what they also return as errors; a filter that names them has the last word.
const LIBRARIES: &str = "kube_client=off";

/// Starts logging.
///
/// # Errors
/// When the filter does not parse, naming it.
pub fn init(args: &LogArgs) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(format!("{LIBRARIES},{}", args.log)).map_err(|error| {
        anyhow::anyhow!("--log {:?}: {error}; try `info` or `info,isthmus_xds=debug`", args.log)
    })?;
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour).with_writer(std::io::stderr);
    let form = args.log_format;
    // A second start (tests, several programs in one process) keeps the first.
    let _ = match args.log_format {
        LogFormat::Text => builder.event_format(Lines { rest: format(), form }).try_init(),
        LogFormat::Json => {
            let builder = builder.fmt_fields(JsonFields::new());
            builder.event_format(Lines { rest: format().json(), form }).try_init()
        }
    };
    Ok(())
}
