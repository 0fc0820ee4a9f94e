//! What is captured and what is left alone.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::{DNS_PORT, INBOUND_PORT, MARK, OUTBOUND_PORT};

/// Which DNS queries are redirected to the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dns {
    /// None.
    Off,
    /// Those to these servers: what `/etc/resolv.conf` names. A local resolver's own upstream queries stay direct, so they
    /// cannot loop.
    Servers(Vec<IpAddr>),
    /// All.
    All,
}

/// What is refused while no agent guards it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Strict {
    /// These ports.
    pub ports: BTreeSet<u16>,
    /// And all others but `open` and [`Config::direct_inbound`].
    pub others: bool,
    /// Ports that take plaintext, when all others are refused.
    pub open: BTreeSet<u16>,
}

impl Strict {
    /// These ports alone.
    #[must_use]
    pub fn ports(ports: impl IntoIterator<Item = u16>) -> Self {
        Self { ports: ports.into_iter().collect(), ..Self::default() }
    }
}

/// Everything that the rules are made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Outbound TCP goes to this port.
    pub outbound_port: u16,
    /// Inbound TCP goes to this port.
    pub inbound_port: u16,
    /// DNS goes to this port.
    pub dns_port: u16,
    /// DNS queries to redirect.
    pub dns: Dns,
    /// Sockets with this mark are the agent's own.
    pub mark: u32,
    /// Sockets of this user are the agent's own too: a proxy that may not mark them runs as it.
    pub user: Option<u32>,
    /// Whether IPv6 is captured too; off leaves it direct.
    pub ipv6: bool,
    /// Inbound ports that stay direct: SSH, so that a broken agent locks nobody out, and the agent's own.
    pub direct_inbound: BTreeSet<u16>,
    /// Outbound ports that stay direct.
    pub direct_outbound: BTreeSet<u16>,
    /// Destinations that stay direct. Loopback always does.
    pub direct_networks: Vec<IpNet>,
    /// How long capture outlives its last renewal.
    pub lease: Duration,
    /// How often it is renewed.
    pub renew: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            outbound_port: OUTBOUND_PORT,
            inbound_port: INBOUND_PORT,
            dns_port: DNS_PORT,
            dns: Dns::Off,
            mark: MARK,
            user: None,
            ipv6: true,
            direct_inbound: BTreeSet::from([22, 15008, 15020, 15021, 15090]),
            direct_outbound: BTreeSet::new(),
            direct_networks: Vec::new(),
            lease: Duration::from_secs(5),
            renew: Duration::from_secs(1),
        }
    }
}
