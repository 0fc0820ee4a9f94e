//! The two pools.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// Which addresses were ever used, and where the search goes on.
#[derive(Debug)]
pub(super) struct Pools {
    v4: Ipv4Net,
    v6: Ipv6Net,
    next_v4: u32,
    next_v6: u128,
    used: BTreeSet<IpAddr>,
}

impl Default for Pools {
    fn default() -> Self {
        let v4 = Ipv4Net::new_assert(Ipv4Addr::new(240, 240, 0, 0), 16);
        let v6 = Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0), 48);
        let (next_v4, next_v6) = (u32::from(v4.network()) + 1, u128::from(v6.network()) + 1);
        Self { v4, v6, next_v4, next_v6, used: BTreeSet::new() }
    }
}

impl Pools {
    pub(super) fn mark(&mut self, address: IpAddr) {
        self.used.insert(address);
    }

    /// The next free address of a family; none when all are used.
    pub(super) fn next(&mut self, v6: bool) -> Option<IpAddr> {
        let address = if v6 { self.search_v6()? } else { self.search_v4()? };
        self.used.insert(address);
        Some(address)
    }

    fn search_v4(&mut self) -> Option<IpAddr> {
        let (first, last) = (u32::from(self.v4.network()) + 1, u32::from(self.v4.broadcast()));
        let from = self.next_v4;
        let mut candidates = (from..=last).chain(first..from);
        let free = candidates.find(|bits| !self.used.contains(&IpAddr::V4((*bits).into())))?;
        self.next_v4 = if free == last { first } else { free + 1 };
        Some(IpAddr::V4(free.into()))
    }

    fn search_v6(&mut self) -> Option<IpAddr> {
        let (first, last) = (u128::from(self.v6.network()) + 1, u128::from(self.v6.broadcast()));
        let from = self.next_v6;
        let mut candidates = (from..=last).chain(first..from);
        let free = candidates.find(|bits| !self.used.contains(&IpAddr::V6((*bits).into())))?;
        self.next_v6 = if free == last { first } else { free + 1 };
        Some(IpAddr::V6(free.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_skips_what_is_used_wraps_once_and_ends() {
        let mut pools = Pools::default();
        assert_eq!(pools.next(false), "240.240.0.1".parse().ok());
        assert_eq!(pools.next(true), "2001:2::1".parse().ok());
        pools.mark("240.240.0.2".parse().unwrap());
        assert_eq!(pools.next(false), "240.240.0.3".parse().ok());
        pools.next_v4 = u32::from(Ipv4Addr::new(240, 240, 255, 255));
        assert_eq!(pools.next(false), "240.240.255.255".parse().ok());
        assert_eq!(pools.next(false), "240.240.0.4".parse().ok());
        for bits in u32::from(pools.v4.network())..=u32::from(pools.v4.broadcast()) {
            pools.mark(IpAddr::V4(bits.into()));
        }
        assert_eq!(pools.next(false), None);
    }
}
