//! Gateways of networks.

use std::collections::BTreeMap;

use isthmus_model::{ClusterId, NetworkGateway, NetworkId};

/// All gateways through which networks are entered, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gateways {
    /// Sorted and without duplicates; those known by a host name are there by its addresses, once it was looked up.
    pub all: Vec<NetworkGateway>,
    /// As they were declared: what peers are told, who look names up themselves.
    pub declared: Vec<NetworkGateway>,
}

impl Gateways {
    /// The gateways for an endpoint of a network and cluster: those of that cluster, else all of that network.
    #[must_use]
    pub fn of(&self, network: &NetworkId, cluster: &ClusterId) -> Vec<&NetworkGateway> {
        let same: Vec<_> = self.all.iter().filter(|gateway| gateway.network == *network).collect();
        let own: Vec<_> = same.iter().copied().filter(|gateway| gateway.cluster == *cluster).collect();
        if own.is_empty() { same } else { own }
    }

    /// The least common multiple over the numbers of gateways of each network and of each network and cluster: with weights
    /// scaled by it, a share for each gateway is a whole number.
    #[must_use]
    pub fn scale(&self) -> u32 {
        let mut counts: BTreeMap<(&NetworkId, Option<&ClusterId>), u64> = BTreeMap::new();
        for gateway in &self.all {
            *counts.entry((&gateway.network, None)).or_default() += 1;
            *counts.entry((&gateway.network, Some(&gateway.cluster))).or_default() += 1;
        }
        let lcm = counts.values().fold(1_u64, |lcm, count| {
            let next = lcm / gcd(lcm, *count) * count;
            next.min(u64::from(u32::MAX))
        });
        u32::try_from(lcm).unwrap_or(u32::MAX)
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway(network: &str, cluster: &str, address: &str) -> NetworkGateway {
        NetworkGateway {
            network: network.parse().unwrap(),
            cluster: cluster.parse().unwrap(),
            address: address.into(),
            port: 15443,
        }
    }

    #[test]
    fn a_clusters_own_gateways_come_before_others_of_its_network() {
        let all = vec![gateway("a", "one", "1"), gateway("a", "two", "2"), gateway("b", "two", "3")];
        let gateways = Gateways { all, declared: Vec::new() };
        let of = |network: &str, cluster: &str| -> Vec<String> {
            let found = gateways.of(&network.parse().unwrap(), &cluster.parse().unwrap());
            found.iter().map(|gateway| gateway.address.to_string()).collect()
        };
        assert_eq!(of("a", "one"), ["1"]);
        assert_eq!(of("a", "three"), ["1", "2"]);
        assert!(of("c", "one").is_empty());
    }

    #[test]
    fn weights_scale_so_that_shares_are_whole() {
        let mut all: Vec<_> = (0..3).map(|n| gateway("a", "one", &n.to_string())).collect();
        all.extend((0..2).map(|n| gateway("b", "two", &n.to_string())));
        assert_eq!(Gateways { all, declared: Vec::new() }.scale(), 6);
        assert_eq!(Gateways::default().scale(), 1);
    }
}
