//! Who is where: networks, hosts, addresses.

use std::net::Ipv4Addr;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

/// The network between the gateways.
pub const BORDER: &str = "border";
/// Addresses that clusters give to services: each host sends them to its gateway, which knows none of them.
/// Without capture they are unreachable at once instead of after a time-out.
pub const SERVICE_RANGES: [&str; 2] = ["10.96.0.0/16", "240.0.0.0/4"];
/// Border addresses of all gateways.
pub const BORDER_RANGE: &str = "10.255.0.0/24";

/// One of the three networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// A cluster.
    East,
    /// A cluster.
    West,
    /// Where the virtual machine is.
    Site,
}

impl Network {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::East, Self::West, Self::Site];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::East => "east",
            Self::West => "west",
            Self::Site => "site",
        }
    }

    /// By name.
    ///
    /// # Errors
    /// When there is no such network.
    pub fn parse(name: &str) -> anyhow::Result<Self> {
        match Self::ALL.into_iter().find(|network| network.name() == name) {
            Some(network) => Ok(network),
            None => bail!("there is no network {name:?}; networks are east, west and site"),
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::East => 1,
            Self::West => 2,
            Self::Site => 3,
        }
    }

    /// An address in it.
    #[must_use]
    pub fn address(self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.number(), 0, last)
    }

    /// Its gateway host's address.
    #[must_use]
    pub fn gateway(self) -> Ipv4Addr {
        self.address(2)
    }

    /// Its gateway host's address on the border.
    #[must_use]
    pub fn border(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 255, 0, self.number())
    }
}

/// What a host is to its networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// One leg, in its network.
    Member,
    /// A second leg on the border.
    Gateway,
    /// A leg on the border without an address.
    Tap,
    /// No leg at all.
    Offline,
}

/// One host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Host name.
    pub name: String,
    /// Its network; a host without one has only loopback.
    pub network: Option<Network>,
    /// Its address there.
    pub address: Ipv4Addr,
    /// What it is to its networks.
    pub role: Role,
    /// Search list of its resolver.
    pub search: String,
}

impl Plan {
    /// A host of a network.
    #[must_use]
    pub fn new(name: &str, network: Network, last: u8, search: &str) -> Self {
        Self {
            name: name.into(),
            network: Some(network),
            address: network.address(last),
            role: Role::Member,
            search: search.into(),
        }
    }

    /// The gateway host of a network.
    #[must_use]
    pub fn gateway(name: &str, network: Network) -> Self {
        Self { role: Role::Gateway, ..Self::new(name, network, 2, "") }
    }

    /// A host without any network.
    #[must_use]
    pub fn offline(name: &str) -> Self {
        Self {
            name: name.into(),
            network: None,
            address: Ipv4Addr::LOCALHOST,
            role: Role::Offline,
            search: String::new(),
        }
    }

    /// A host without an address that hears everything on the border.
    #[must_use]
    pub fn tap(name: &str) -> Self {
        Self { role: Role::Tap, ..Self::offline(name) }
    }

    /// A host that a person adds to a running demo.
    ///
    /// # Errors
    /// When the name is not a host name.
    pub fn guest(name: &str, network: Network, last: u8) -> anyhow::Result<Self> {
        let is_name = !name.is_empty()
            && name.len() <= 32
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !name.starts_with('-')
            && !name.ends_with('-');
        if !is_name {
            bail!("{name:?} is no host name: use up to 32 lower-case letters, digits and inner hyphens");
        }
        let search = if network == Network::Site { "" } else { KUBERNETES_SEARCH };
        Ok(Self::new(name, network, last, search))
    }
}

/// What Kubernetes gives to a Pod of the namespace `bookinfo`.
pub const KUBERNETES_SEARCH: &str = "bookinfo.svc.cluster.local svc.cluster.local cluster.local";

/// The hosts of the demo.
#[must_use]
pub fn demo() -> Vec<Plan> {
    use Network::{East, Site, West};
    vec![
        Plan::offline("offline"),
        Plan::tap("border-tap"),
        Plan::new("east-cp", East, 10, ""),
        Plan::gateway("east-gw", East),
        Plan::new("productpage", East, 11, KUBERNETES_SEARCH),
        Plan::new("details", East, 12, KUBERNETES_SEARCH),
        Plan::new("reviews-v2", East, 13, KUBERNETES_SEARCH),
        Plan::new("west-cp", West, 10, ""),
        Plan::gateway("west-gw", West),
        Plan::new("reviews-v3", West, 13, KUBERNETES_SEARCH),
        Plan::new("ratings", West, 14, KUBERNETES_SEARCH),
        Plan::gateway("site-gw", Site),
        Plan::new("vm", Site, 20, ""),
        Plan::new("site-client", Site, 21, ""),
    ]
}

/// The last octet of an address that a guest may have: 100 and up, not taken.
///
/// # Errors
/// When the network is full.
pub fn free_octet(network: Network, taken: &[Ipv4Addr]) -> anyhow::Result<u8> {
    (100..=250)
        .find(|last| !taken.contains(&network.address(*last)))
        .with_context(|| format!("network {} is full", network.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_are_unique() {
        let hosts = demo();
        for (index, host) in hosts.iter().enumerate() {
            for other in &hosts[index + 1..] {
                assert_ne!(host.name, other.name);
                assert!(host.address != other.address || host.network.is_none());
            }
        }
    }

    #[test]
    fn a_guest_has_a_host_name() {
        assert!(Plan::guest("mine", Network::East, 100).is_ok());
        for bad in ["", "Mine", "a b", "-a", "a/b", "ä"] {
            assert!(Plan::guest(bad, Network::East, 100).is_err(), "{bad:?}");
        }
    }
}
