//! The command line.

use clap::{Parser, ValueEnum};

use super::suite::Measure;

/// Our gateway beside Envoy, HAProxy and nginx: one worker each, the same load for each in turn.
///
/// CPU is what a contender's own processes use, so that the noise of the machine stays out; memory is what it holds resident.
#[derive(Debug, Clone, Parser)]
#[command(name = "bench-gateway")]
pub struct Args {
    /// A short run, to see that it works
    #[arg(long)]
    pub quick: bool,
    /// Whom to measure
    #[arg(long, value_enum, value_name = "SUITE,…", value_delimiter = ',', default_value = "gateway,pair")]
    pub suite: Vec<Suite>,
    /// Measure these alone
    #[arg(long, value_enum, value_name = "PART,…", value_delimiter = ',')]
    pub only: Vec<Part>,
    /// Contenders, beside the direct run without any
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', default_value = "isthmus,envoy,haproxy,nginx",
          value_parser = ["isthmus", "envoy", "haproxy", "haproxy-splice", "nginx"])]
    pub contenders: Vec<String>,
    /// Congestion control between the pods of the pairs; BBR paces, which costs more than the proxies' own work
    #[arg(long, value_name = "NAME", default_value = "reno")]
    pub congestion_control: String,
    /// Rounds; the median is shown [default: 3, 1 with --quick]
    #[arg(long, value_name = "COUNT")]
    pub rounds: Option<usize>,
    /// Services of the memory measure [default: 20000, 2000 with --quick]
    #[arg(long, value_name = "COUNT")]
    pub services: Option<usize>,
    /// What is printed
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

/// Whom to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// Gateways, which pass TLS on by its server name
    Gateway,
    /// Pairs of sidecars, which originate and terminate mutual TLS; Envoy is the only peer
    Pair,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// CPU seconds for each gigabyte over 8 connections
    Bulk,
    /// CPU time of each new connection
    Connections,
    /// CPU time of a round trip of 64 bytes
    RoundTrips,
    /// Memory of each idle connection
    Idle,
    /// Memory of a gateway that has all services
    Services,
}

/// What is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

impl Part {
    /// The measure that contenders are compared by.
    pub(super) fn measure(self) -> Option<Measure> {
        match self {
            Self::Idle => Some(Measure::Idle),
            Self::Connections => Some(Measure::Connections),
            Self::RoundTrips => Some(Measure::RoundTrips),
            Self::Bulk => Some(Measure::Bulk),
            Self::Services => None,
        }
    }
}

impl Args {
    /// Parts in the order in which they run: memory of idle connections first, while the processes are fresh.
    pub(super) fn parts(&self) -> Vec<Part> {
        let all = [Part::Idle, Part::Connections, Part::RoundTrips, Part::Bulk, Part::Services];
        all.into_iter().filter(|part| self.only.is_empty() || self.only.contains(part)).collect()
    }

    pub(super) fn wants(&self, contender: &str) -> bool {
        self.contenders.iter().any(|name| name == contender)
    }

    /// The peers.
    pub(super) fn contenders(&self) -> impl Iterator<Item = &str> {
        self.contenders.iter().map(String::as_str).filter(|name| *name != "isthmus")
    }

    /// How often each measure is repeated.
    #[must_use]
    pub fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 }).max(1)
    }

    pub(super) fn services(&self) -> usize {
        self.services.unwrap_or(if self.quick { 2_000 } else { 20_000 })
    }
}
