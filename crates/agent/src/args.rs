//! Flags that sidecar and VM agent share, what becomes of them, and how values are read that the gateway has too.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use isthmus_capture::Resolvers;
use isthmus_lifecycle::SystemClock;
use isthmus_model::NamespacedName;
use isthmus_model::token::JoinToken;
use thiserror::Error;

use crate::app::Choice;
use crate::enroll::Enrollment;
use crate::envoy;
use crate::node::host_addresses;

/// Flags of every agent.
#[derive(Debug, Clone, Args)]
pub struct AgentArgs {
    /// Address of this workload that others reach [default: this host's first]
    #[arg(long, value_name = "IP")]
    pub address: Option<IpAddr>,
    /// Where this workload runs, as REGION/ZONE/SUBZONE
    #[arg(long, value_name = "LOCALITY")]
    pub locality: Option<String>,
    /// Lifetime of certificates to ask for, such as 24h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub leaf_ttl: Option<Duration>,
    /// Leave this host's traffic alone: applications then use the proxy only where they address it
    #[arg(long)]
    pub no_capture: bool,
    /// Inbound ports that stay direct, besides 22 and the agent's own
    #[arg(long, value_name = "PORT,…", value_delimiter = ',')]
    pub exclude_inbound_ports: Vec<u16>,
    /// Outbound ports that stay direct
    #[arg(long, value_name = "PORT,…", value_delimiter = ',')]
    pub exclude_outbound_ports: Vec<u16>,
    /// Destinations that stay direct
    #[arg(long, value_name = "CIDR,…", value_delimiter = ',')]
    pub exclude_outbound_cidrs: Vec<ipnet::IpNet>,
    /// What carries this workload's connections
    #[arg(long, value_enum, value_name = "PROXY", default_value_t = ProxyKind::Isthmus)]
    pub proxy: ProxyKind,
    /// Where Envoy is, for --proxy envoy
    #[arg(long, value_name = "PATH", default_value = "envoy")]
    pub envoy_path: PathBuf,
    /// User number that Envoy runs as, when this runs as root; its traffic is then known by it, as by Istio's 1337 [default: ours]
    #[arg(long, value_name = "UID")]
    pub proxy_uid: Option<u32>,
    /// Time for open connections to end when stopping
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "5s")]
    pub drain: Duration,
}

/// What carries a workload's connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ProxyKind {
    /// The proxy within this program
    #[default]
    Isthmus,
    /// An Envoy that this program runs, feeds and watches
    Envoy,
}

/// A duration such as `500ms`, `1s`, `24h`.
///
/// # Errors
/// When it is none, or negative.
pub fn duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration =
        text.parse().map_err(|_| format!("{text:?} is no duration such as 500ms, 1s or 24h"))?;
    Duration::try_from(parsed).map_err(|_| format!("{text:?} is negative"))
}

/// `KEY=VALUE`, in two.
///
/// # Errors
/// When there is no `=`, or nothing before it.
pub fn pair(text: &str) -> Result<(&str, &str), String> {
    text.split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .ok_or_else(|| format!("{text:?} is not of the form KEY=VALUE"))
}

/// A label, `KEY=VALUE`.
///
/// # Errors
/// As [`pair`].
pub fn label(text: &str) -> Result<(Arc<str>, Arc<str>), String> {
    pair(text).map(|(key, value)| (key.into(), value.into()))
}

/// Why this host cannot be an agent's.
#[derive(Debug, Error)]
pub enum HostError {
    /// No usable address.
    #[error("this host has no address that others reach; name one with --address")]
    NoAddress,
    /// The kernel did not tell.
    #[error("cannot list this host's addresses: {0}")]
    Addresses(std::io::Error),
    /// `resolv.conf`.
    #[error("/etc/resolv.conf: {0}")]
    Resolvers(std::io::Error),
    /// Marks are refused.
    #[error(
        "cannot mark sockets ({0}): traffic capture needs CAP_NET_ADMIN over this network namespace; run as root, or with --no-capture"
    )]
    Mark(std::io::Error),
    /// A token's file.
    #[error("--token-file {}: cannot be read; `isthmus host token --service-account NAMESPACE/NAME --out FILE` writes one", path.display())]
    TokenFile {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A token's text.
    #[error("--token-file {}", path.display())]
    Token {
        /// Which.
        path: PathBuf,
        /// Why.
        source: isthmus_model::token::InvalidToken,
    },
}

impl AgentArgs {
    /// The workload's addresses, the one to register with first.
    ///
    /// # Errors
    /// When there is none.
    pub fn addresses(&self) -> Result<Vec<IpAddr>, HostError> {
        let mut addresses = host_addresses().map_err(HostError::Addresses)?;
        if let Some(first) = self.address {
            addresses.retain(|address| *address != first);
            addresses.insert(0, first);
        }
        if addresses.is_empty() { Err(HostError::NoAddress) } else { Ok(addresses) }
    }

    /// Mark of own sockets: none where nothing is captured.
    ///
    /// # Errors
    /// When traffic is to be captured and the kernel refuses marks.
    pub fn mark(&self) -> Result<Option<u32>, HostError> {
        if self.no_capture {
            return Ok(None);
        }
        let probe = std::net::UdpSocket::bind("127.0.0.1:0").map_err(HostError::Mark)?;
        isthmus_capture::mark(&probe, isthmus_capture::MARK).map_err(HostError::Mark)?;
        Ok(Some(isthmus_capture::MARK))
    }

    /// What is captured; none with `--no-capture`.
    #[must_use]
    pub fn capture(&self) -> Option<isthmus_capture::Config> {
        if self.no_capture {
            return None;
        }
        let mut config = isthmus_capture::Config {
            // The data path's sockets are IPv4 so far: IPv6 stays direct.
            ipv6: false,
            direct_outbound: self.exclude_outbound_ports.iter().copied().collect(),
            direct_networks: self.exclude_outbound_cidrs.clone(),
            ..isthmus_capture::Config::default()
        };
        config.direct_inbound.extend(&self.exclude_inbound_ports);
        if self.proxy == ProxyKind::Envoy {
            config.user = self.proxy_uid;
        }
        Some(config)
    }

    /// What carries connections. `concurrency` is its threads; `wrapper` becomes Envoy and ends with us.
    #[must_use]
    pub fn choice(&self, concurrency: Option<NonZeroUsize>, wrapper: Vec<String>) -> Choice {
        match self.proxy {
            ProxyKind::Isthmus => Choice::Isthmus,
            ProxyKind::Envoy => Choice::Envoy(envoy::Config {
                program: self.envoy_path.clone(),
                concurrency,
                user: self.proxy_uid,
                drain: self.drain,
                wrapper,
            }),
        }
    }

    /// How to become a member.
    #[must_use]
    pub fn enrollment(
        &self,
        data_dir: &Path,
        token: Option<JoinToken>,
        service_account: Option<NamespacedName>,
        mark: Option<u32>,
    ) -> Enrollment {
        Enrollment {
            data_dir: data_dir.to_path_buf(),
            token,
            service_account,
            hostname: hostname(),
            mark,
            leaf_ttl: self.leaf_ttl,
            patience: None,
            clock: Arc::new(SystemClock),
        }
    }
}

/// Names a host's resolvers.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What `/etc/resolv.conf` says.
///
/// # Errors
/// When it is there and cannot be read.
pub fn resolvers() -> Result<Resolvers, HostError> {
    Resolvers::read(Path::new(RESOLV_CONF)).map_err(HostError::Resolvers)
}

/// This host's name, made fit for an object's name.
#[must_use]
pub fn hostname() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let short = name.split('.').next().unwrap_or_default();
    let fit: String =
        short.chars().map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' }).collect();
    match fit.trim_matches('-') {
        "" => "host".to_string(),
        fit => fit.to_string(),
    }
}

/// Reads a token from a file.
///
/// # Errors
/// When the file cannot be read or holds no token.
pub fn token_file(path: &Path) -> Result<JoinToken, HostError> {
    let path = path.to_path_buf();
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) => return Err(HostError::TokenFile { path, source }),
    };
    text.parse().map_err(|source| HostError::Token { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert!(duration("-1s").is_err() && duration("soon").is_err() && duration("").is_err());
    }
}
