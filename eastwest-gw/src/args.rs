//! The command line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use ipnet::IpNet;
use isthmus_agent::args::{duration, label};
use isthmus_model::{NamespacedName, NetworkId};
use isthmus_process::WorkerArgs;
use isthmus_process::telemetry::LogArgs;

/// Passes mesh TLS between networks by server name, without terminating it.
#[derive(Debug, Clone, Parser)]
#[command(name = "isthmus-eastwest-gw", version)]
pub struct Args {
    /// File with a token of `isthmus host token`; needed until the gateway has joined
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Where key, certificate and last-good configuration are kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/isthmus/eastwest-gw")]
    pub data_dir: PathBuf,
    /// Network whose workloads are reached through this gateway [default: the token's]
    #[arg(long, value_name = "NETWORK")]
    pub network: Option<NetworkId>,
    /// Name of the gateway, unique in its namespace [default: with the host's name]
    #[arg(long)]
    pub name: Option<String>,
    /// ServiceAccount to run as, NAMESPACE/NAME
    #[arg(long, value_name = "NAMESPACE/NAME", default_value = "istio-system/istio-eastwestgateway")]
    pub service_account: NamespacedName,
    /// Labels by which Gateway objects select it
    #[arg(long, value_name = "KEY=VALUE,…", value_delimiter = ',', value_parser = label,
          default_value = "istio=eastwestgateway")]
    pub labels: Vec<(Arc<str>, Arc<str>)>,
    /// Address of this gateway in its network [default: this host's first]
    #[arg(long, value_name = "IP")]
    pub address: Option<IpAddr>,
    /// Where this gateway runs, as REGION/ZONE/SUBZONE
    #[arg(long, value_name = "LOCALITY")]
    pub locality: Option<String>,
    /// Addresses that connections from a network come from, for metrics and `isthmus gw top`
    #[arg(long, value_name = "NETWORK=CIDR,…", value_delimiter = ',', value_parser = source_network)]
    pub source_network: Vec<(IpNet, NetworkId)>,
    /// Lifetime of certificates to ask for, such as 24h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub leaf_ttl: Option<Duration>,
    /// Where metrics are served
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:15020")]
    pub metrics_address: SocketAddr,
    /// Where readiness is served
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:15021")]
    pub readiness_address: SocketAddr,
    /// Where the admin pages are served; they answer to localhost only
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:15000")]
    pub admin_address: SocketAddr,
    /// Ask for every exported service at once, instead of for those that connections name
    #[arg(long)]
    pub full_view: bool,
    /// Give a service back when it has had no connection for so long
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "15m", conflicts_with = "full_view")]
    pub unused_after: Duration,
    /// Ports before which a balancer announces its clients by the PROXY protocol (1 or 2). Nobody gets in there without; who can
    /// reach such a port can name any client, so it must be open to the balancer alone
    #[arg(long, value_name = "PORT,…", value_delimiter = ',')]
    pub proxy_protocol_in: Vec<u16>,
    /// Bounds on what clients can make it spend.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Time for open connections to end when stopping
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10s")]
    pub drain: Duration,
    /// Take over from the gateway that runs with the same data directory: its listening sockets come here, no connection is
    /// lost, and it ends when what is open there has. Where none runs this is an ordinary start
    #[arg(long)]
    pub takeover: bool,
    /// Time for open connections to end after a new process has taken over from this one
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "15m")]
    pub takeover_drain: Duration,
    /// Threads.
    #[command(flatten)]
    pub workers: WorkerArgs,
    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Bounds on what clients can make the gateway spend.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Open connections in all
    #[arg(long, value_name = "COUNT", default_value_t = 50_000)]
    pub max_connections: usize,
    /// Open connections from one address
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    pub max_connections_per_source: usize,
    /// Time for a client's hello
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "5s")]
    pub hello_timeout: Duration,
    /// A connection without a byte for so long is closed; 0s: never
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1h")]
    pub idle_timeout: Duration,
    /// A connection older than this is closed, give or take a tenth; what is inside is opaque, so it is cut; 0s: never
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "0s")]
    pub max_connection_age: Duration,
    /// Silence until TCP keepalive asks whether a peer is there; below the idle limits of cloud balancers (240 s and more).
    /// For clients, unless a listener says otherwise; to endpoints, where their cluster says nothing
    #[arg(long, value_name = "DURATION", value_parser = seconds, default_value = "60s")]
    pub keepalive_time: Duration,
    /// From one such question to the next
    #[arg(long, value_name = "DURATION", value_parser = seconds, default_value = "15s")]
    pub keepalive_interval: Duration,
    /// Questions without an answer until the connection is given up
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=127))]
    pub keepalive_probes: u32,
}

impl Args {
    /// Own name.
    #[must_use]
    pub fn own_name(&self, hostname: &str) -> String {
        self.name.clone().unwrap_or_else(|| format!("{}-{hostname}", self.service_account.name))
    }
}

/// Whole seconds, at least one, at most what the kernel takes.
fn seconds(text: &str) -> Result<Duration, String> {
    let given = duration(text)?;
    let whole = given.subsec_nanos() == 0 && (1..=32767).contains(&given.as_secs());
    whole.then_some(given).ok_or_else(|| format!("{text} is not 1 to 32767 whole seconds"))
}

fn source_network(text: &str) -> Result<(IpNet, NetworkId), String> {
    let (network, range) =
        text.split_once('=').ok_or_else(|| format!("{text:?} is not of the form NETWORK=CIDR"))?;
    let range = range.parse().map_err(|error| format!("{range:?}: {error}; write it like 10.1.0.0/16"))?;
    Ok((range, NetworkId::new(network).map_err(|error| error.to_string())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_command_line_of_the_demo_is_read() {
        let args = parse(
            "isthmus-eastwest-gw --token-file t --data-dir d --network east --name gw-east \
             --service-account istio-system/istio-eastwestgateway --labels istio=eastwestgateway --leaf-ttl 24h",
        )
        .unwrap();
        assert_eq!(args.network.as_ref().map(NetworkId::as_str), Some("east"));
        assert_eq!(args.own_name("host"), "gw-east");
        assert_eq!(args.labels, [("istio".into(), "eastwestgateway".into())]);
        let short = parse("isthmus-eastwest-gw --data-dir d --network east").unwrap();
        assert_eq!(short.own_name("host"), "istio-eastwestgateway-host");
        assert_eq!(short.labels, args.labels);
        assert_eq!(short.service_account, args.service_account);
    }

    #[test]
    fn mistakes_name_the_flag() {
        for (line, named) in [
            ("isthmus-eastwest-gw --labels istio", "--labels"),
            ("isthmus-eastwest-gw --service-account x", "--service-account"),
            ("isthmus-eastwest-gw --hello-timeout soon", "--hello-timeout"),
            ("isthmus-eastwest-gw --source-network west=10.2", "--source-network"),
            ("isthmus-eastwest-gw --metrics-address 15020", "--metrics-address"),
            ("isthmus-eastwest-gw --keepalive-time 500ms", "--keepalive-time"),
            ("isthmus-eastwest-gw --keepalive-probes 0", "--keepalive-probes"),
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains(named), "{line}: {error}");
        }
    }
}
