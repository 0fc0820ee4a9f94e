//! What can be typed of `isthmus gw`.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};

use super::{OutputArgs, duration};

#[derive(Debug, Subcommand)]
pub(crate) enum GwCommand {
    /// Show the connections that a gateway on this host relays, live
    #[command(after_help = "\
Run it on the gateway's host: a gateway tells nobody else.

Examples:
  isthmus gw top                                # until Ctrl-C, the busiest first
  isthmus gw top --by service --sort bytes      # one row for each service
  isthmus gw top --once -o json | jq '.flows[] | select(.sourceNetwork == \"west\")'")]
    Top(TopArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct TopArgs {
    /// Where the gateway's admin pages are
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:15000")]
    pub(crate) admin: SocketAddr,
    /// Time between two looks
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1s")]
    pub(crate) interval: Duration,
    /// Look once and end
    #[arg(long)]
    pub(crate) once: bool,
    /// What a row is
    #[arg(long, value_enum, default_value_t = By::Connection)]
    pub(crate) by: By,
    /// Which rows come first
    #[arg(long, value_enum, default_value_t = Order::Rate)]
    pub(crate) sort: Order,
    /// Most rows to show [default: as many as the terminal has]
    #[arg(long, value_name = "COUNT")]
    pub(crate) rows: Option<usize>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// What a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    /// One connection.
    Connection,
    /// One service and the cluster that it is reached in.
    Service,
    /// One address that connections come from.
    Source,
}

/// Which rows come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Order {
    /// Most bytes a second, both ways.
    Rate,
    /// Most bytes in all.
    Bytes,
    /// Oldest.
    Age,
}
