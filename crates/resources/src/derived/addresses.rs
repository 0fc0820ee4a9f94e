//! Addresses for ServiceEntries without any, by Istio's rules (its second allocator): from 240.240.0.0/16 and 2001:2::/48, one of each
//! for every host, in `status.addresses`, kept for good, conflicts settled in favour of the oldest.

mod pool;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use pool::Pools;

use super::Key;
use crate::istio::{ServiceEntry, ServiceEntryAddress, ServiceEntryResolution};
use crate::{Change, Kind, Object, Resource};

/// Label that switches allocation off.
const SWITCH: &str = "networking.istio.io/enable-autoallocate-ip";

type Entry = Arc<Resource<ServiceEntry>>;

/// All ServiceEntries, and which have to be looked at.
#[derive(Debug, Default)]
pub struct Addresses {
    entries: BTreeMap<Key, Entry>,
    pools: Pools,
    /// Entries that hold an allocated address, by address.
    holders: BTreeMap<IpAddr, BTreeSet<Key>>,
    /// How many entries give an address themselves.
    literal: BTreeMap<IpAddr, usize>,
    dirty: BTreeSet<Key>,
    listed: bool,
}

fn key_of(entry: &Resource<ServiceEntry>) -> Key {
    (entry.meta.namespace_str().to_string(), entry.meta.name.to_string())
}

impl Addresses {
    /// Takes a change over.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Listed(Kind::ServiceEntry, list) => {
                let gone: Vec<Key> = self.entries.keys().cloned().collect();
                gone.iter().for_each(|key| self.remove(key));
                for object in list {
                    if let Object::ServiceEntry(entry) = object {
                        self.insert(Arc::clone(entry));
                    }
                }
                self.listed = true;
            }
            Change::Applied(Object::ServiceEntry(entry)) => self.insert(Arc::clone(entry)),
            Change::Removed(Kind::ServiceEntry, namespace, name) => {
                let namespace = namespace.as_ref().map(ToString::to_string).unwrap_or_default();
                self.remove(&(namespace, name.to_string()));
            }
            _ => {}
        }
    }

    fn insert(&mut self, entry: Entry) {
        let key = key_of(&entry);
        self.remove(&key);
        for address in literals(&entry.spec) {
            self.pools.mark(address);
            *self.literal.entry(address).or_default() += 1;
            self.touch_holders(address);
        }
        for address in allocated(&entry.spec) {
            self.pools.mark(address);
            self.touch_holders(address);
            self.holders.entry(address).or_default().insert(key.clone());
        }
        self.dirty.insert(key.clone());
        self.entries.insert(key, entry);
    }

    /// Addresses of what is gone stay marked: a client may hold them for long.
    fn remove(&mut self, key: &Key) {
        let Some(entry) = self.entries.remove(key) else { return };
        for address in literals(&entry.spec) {
            if let Some(count) = self.literal.get_mut(&address) {
                *count -= 1;
                if *count == 0 {
                    self.literal.remove(&address);
                }
            }
        }
        for address in allocated(&entry.spec) {
            if let Some(holders) = self.holders.get_mut(&address) {
                holders.remove(key);
                if holders.is_empty() {
                    self.holders.remove(&address);
                }
            }
        }
    }

    fn touch_holders(&mut self, address: IpAddr) {
        if let Some(holders) = self.holders.get(&address) {
            self.dirty.extend(holders.iter().cloned());
        }
    }

    /// Whether this entry must give an address up: somebody wants it by name, or an older entry has it.
    fn conflicts(&self, key: &Key, entry: &Resource<ServiceEntry>, address: IpAddr) -> bool {
        if self.literal.contains_key(&address) {
            return true;
        }
        let others = self.holders.get(&address).into_iter().flatten().filter(|other| *other != key);
        let mut others = others.filter_map(|other| self.entries.get(other));
        others.any(|other| other.meta.age_key() < entry.meta.age_key())
    }

    /// The addresses that an entry should have, when they are not those it has.
    pub fn plan(&mut self, key: &Key) -> Option<Vec<ServiceEntryAddress>> {
        let entry = Arc::clone(self.entries.get(key)?);
        let mut wanted = Vec::new();
        for host in hosts(&entry) {
            for v6 in [false, true] {
                let of_host = entry.spec.status.addresses.iter().filter(|address| address.host == host);
                let known: Vec<IpAddr> = of_host.filter_map(|address| address.value.parse().ok()).collect();
                let kept = known
                    .iter()
                    .find(|address| address.is_ipv6() == v6 && !self.conflicts(key, &entry, **address));
                let address = match kept {
                    Some(kept) => Some(*kept),
                    None => self.pools.next(v6),
                };
                match address {
                    Some(address) => {
                        wanted.push(ServiceEntryAddress { value: address.to_string(), host: host.clone() });
                    }
                    None => tracing::error!(entry = %entry.meta, host, "no address is left to allocate"),
                }
            }
        }
        (wanted != entry.spec.status.addresses).then_some(wanted)
    }

    /// The entries to look at, the oldest first, so that they keep what they have; from now on they count as looked at. None before
    /// the first whole list: until then what is missing is unknown.
    pub fn take_dirty(&mut self) -> Vec<Key> {
        if !self.listed {
            return Vec::new();
        }
        let mut order: Vec<Key> = std::mem::take(&mut self.dirty).into_iter().collect();
        order.sort_by_key(|key| self.entries.get(key).map(|entry| entry.meta.created));
        order
    }

    /// Has these entries looked at again.
    pub fn mark(&mut self, entries: impl IntoIterator<Item = Key>) {
        self.dirty.extend(entries);
    }

    /// Whether no entry has to be looked at.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        !self.listed || self.dirty.is_empty()
    }

    /// An entry was given its addresses, and is this now.
    pub fn written(&mut self, entry: Arc<Resource<ServiceEntry>>) {
        let key = key_of(&entry);
        self.insert(entry);
        self.dirty.remove(&key);
    }
}

/// Hosts of an entry that get addresses; none when it is not eligible.
fn hosts(entry: &Resource<ServiceEntry>) -> Vec<String> {
    let Resource { meta, spec } = entry;
    let off = meta.labels.get(SWITCH).is_some_and(|value| value.eq_ignore_ascii_case("false"));
    if off || meta.deleting || spec.resolution == ServiceEntryResolution::None || !spec.addresses.is_empty() {
        return Vec::new();
    }
    let wildcards = spec.resolution == ServiceEntryResolution::DynamicDns;
    let mut found: Vec<String> = Vec::new();
    for host in spec.hosts.iter().filter(|host| wildcards || !host.starts_with('*')) {
        if !found.contains(host) {
            found.push(host.clone());
        }
    }
    found
}

fn literals(spec: &ServiceEntry) -> impl Iterator<Item = IpAddr> {
    spec.addresses.iter().filter_map(|text| text.parse().ok())
}

fn allocated(spec: &ServiceEntry) -> impl Iterator<Item = IpAddr> {
    spec.status.addresses.iter().filter_map(|address| address.value.parse().ok())
}

#[cfg(test)]
mod tests;
