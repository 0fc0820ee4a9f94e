//! Addresses for services that have none here: imported services without a local Service get one from our own range, never
//! their owner's ClusterIP.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::Ipv4Addr;

use isthmus_model::Hostname;
use thiserror::Error;

/// The range for imports: `240.241.0.0/16`, beside the `240.240.0.0/16` of ServiceEntries.
const BASE: u32 = u32::from_be_bytes([240, 241, 0, 0]);
/// Addresses of the range less the first and the last.
const USABLE: u32 = 65_534;

/// Why no address could be had.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no address is left in 240.241.0.0/16 for imported host {host}: {USABLE} are in use")]
pub struct Exhausted {
    /// The host that asked.
    pub host: Hostname,
}

/// Hands out addresses by host. A host keeps its address for as long as assignments are remembered, also while it is away; only
/// when the range is full are addresses of absent hosts reused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocator {
    /// How many addresses from [`BASE`] on it may give.
    size: u32,
    assigned: BTreeMap<Hostname, Ipv4Addr>,
    taken: HashSet<Ipv4Addr>,
    in_use: BTreeSet<Hostname>,
    changed: bool,
}

impl Default for Allocator {
    fn default() -> Self {
        Self {
            size: USABLE,
            assigned: BTreeMap::new(),
            taken: HashSet::new(),
            in_use: BTreeSet::new(),
            changed: false,
        }
    }
}

impl Allocator {
    /// The address of a host, which is marked as present; a new host gets the first free one after a hash of its name, so that
    /// replicas that see the same hosts mostly agree even before they share assignments.
    ///
    /// # Errors
    /// When the range is full of present hosts.
    pub fn assign(&mut self, host: &Hostname) -> Result<Ipv4Addr, Exhausted> {
        self.in_use.insert(host.clone());
        if let Some(address) = self.assigned.get(host) {
            return Ok(*address);
        }
        if self.taken.len() >= self.size as usize {
            self.reuse_absent();
        }
        if self.taken.len() >= self.size as usize {
            self.in_use.remove(host);
            return Err(Exhausted { host: host.clone() });
        }
        let mut slot = hash(host.as_str()) % self.size;
        let address = loop {
            let address = Ipv4Addr::from(BASE + 1 + slot);
            if self.taken.insert(address) {
                break address;
            }
            slot = (slot + 1) % self.size;
        };
        self.assigned.insert(host.clone(), address);
        self.changed = true;
        Ok(address)
    }

    /// The host is gone; it gets the same address when it comes back.
    pub fn release(&mut self, host: &str) {
        self.in_use.remove(host);
    }

    /// What a restart must remember, as pairs of host and address.
    #[must_use]
    pub fn assignments(&self) -> &BTreeMap<Hostname, Ipv4Addr> {
        &self.assigned
    }

    /// Whether assignments changed since this was last asked.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Takes over remembered assignments. Addresses outside the range and addresses given twice are left out.
    pub fn restore(&mut self, assignments: impl IntoIterator<Item = (Hostname, Ipv4Addr)>) {
        for (host, address) in assignments {
            let usable = (BASE + 1..=BASE + self.size).contains(&u32::from(address));
            if usable && !self.assigned.contains_key(&host) && self.taken.insert(address) {
                self.assigned.insert(host, address);
            }
        }
    }

    fn reuse_absent(&mut self) {
        let Self { assigned, taken, in_use, .. } = self;
        assigned.retain(|host, address| {
            let present = in_use.contains(host);
            if !present {
                taken.remove(address);
            }
            present
        });
    }
}

/// FNV-1a, 32 bit.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Hostname {
        Hostname::new(text).unwrap()
    }

    #[test]
    fn a_host_keeps_its_address_across_absence_and_restart() {
        let mut allocator = Allocator::default();
        let first = allocator.assign(&host("a.default.svc.cluster.local")).unwrap();
        assert!(allocator.take_changed() && !allocator.take_changed());
        allocator.release("a.default.svc.cluster.local");
        assert_eq!(allocator.assign(&host("a.default.svc.cluster.local")), Ok(first));

        let text = serde_json::to_string(allocator.assignments()).unwrap();
        let mut restarted = Allocator::default();
        restarted.restore(serde_json::from_str::<BTreeMap<Hostname, Ipv4Addr>>(&text).unwrap());
        assert_eq!(restarted.assign(&host("a.default.svc.cluster.local")), Ok(first));
    }

    #[test]
    fn no_two_hosts_share_an_address_until_the_range_is_full_and_then_absent_ones_yield() {
        let mut allocator = Allocator { size: 200, ..Allocator::default() };
        let mut seen = HashSet::new();
        for n in 0..200 {
            assert!(seen.insert(allocator.assign(&host(&format!("h{n}"))).unwrap()));
        }
        assert!(allocator.assign(&host("one-more")).is_err());
        allocator.release("h7");
        assert!(seen.contains(&allocator.assign(&host("one-more")).unwrap()));
    }

    #[test]
    fn remembered_addresses_outside_the_range_or_given_twice_are_left_out() {
        let mut allocator = Allocator::default();
        let in_range = Ipv4Addr::new(240, 241, 3, 3);
        allocator.restore([
            (host("outside"), Ipv4Addr::new(10, 0, 0, 1)),
            (host("a"), in_range),
            (host("b"), in_range),
        ]);
        assert_eq!(allocator.assignments().len(), 1);
        assert_ne!(allocator.assign(&host("b")).unwrap(), in_range);
    }
}
