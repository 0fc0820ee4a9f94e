//! Chains that are told by a server name alone. A gateway may have one for each service of the mesh and use few: of each stays where it
//! stands in the listener's message, which the last-good cache holds too, until a connection needs it.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::{ByTransport, Criteria, put};
use crate::resource::chain::Chain;
use crate::resource::listener;

/// Where a chain stands in the message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) at: u32,
    pub(super) length: u32,
}

/// Chains of one message by the hash of their names; no two have the same.
#[derive(Debug)]
pub(super) struct Named {
    message: Bytes,
    hasher: RandomState,
    /// In the order of their hashes.
    entries: Box<[Entry]>,
}

#[derive(Debug)]
struct Entry {
    hash: u64,
    place: Place,
    woken: OnceLock<Option<Box<Found>>>,
}

/// A compiled chain with its name.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) name: Box<str>,
    pub(super) transports: ByTransport,
}

impl Named {
    pub(super) fn new(
        message: Bytes,
        hasher: RandomState,
        places: impl Iterator<Item = (u64, Place)>,
    ) -> Self {
        let entry = |(hash, place)| Entry { hash, place, woken: OnceLock::new() };
        let mut entries: Box<[Entry]> = places.map(entry).collect();
        entries.sort_unstable_by_key(|entry| entry.hash);
        Self { message, hasher, entries }
    }

    /// The chain for this name, compiled from now on.
    pub(super) fn find(&self, name: &str) -> Option<&ByTransport> {
        let hash = self.hasher.hash_one(name);
        let at = self.entries.binary_search_by_key(&hash, |entry| entry.hash).ok()?;
        let woken = self.entries[at].woken.get_or_init(|| self.look(&self.entries[at]).map(Box::new));
        let found = woken.as_ref()?;
        (*found.name == *name).then_some(&found.transports)
    }

    /// Names and chains, to look at: they stay as they are.
    pub(super) fn iter(&self) -> impl Iterator<Item = Found> {
        self.entries.iter().filter_map(|entry| self.look(entry))
    }

    /// How many are compiled.
    #[cfg(test)]
    pub(super) fn awake(&self) -> usize {
        self.entries.iter().filter(|entry| entry.woken.get().is_some()).count()
    }

    fn look(&self, entry: &Entry) -> Option<Found> {
        compile(&self.message, entry.place, entry.hash, &self.hasher)
    }
}

/// The chain at this place, for the one of its names that has this hash. It was found to be sound when its listener came.
pub(super) fn compile(message: &Bytes, place: Place, hash: u64, hasher: &RandomState) -> Option<Found> {
    let at = usize::try_from(place.at).ok()?;
    let bytes = message.get(at..)?.get(..usize::try_from(place.length).ok()?)?;
    let (criteria, chain) = listener::passing(bytes).ok()?;
    let name = criteria.server_names.iter().find(|name| hasher.hash_one(name.as_str()) == hash)?;
    let mut transports = ByTransport::default();
    put(&mut transports, &criteria, list(&criteria).as_ref(), &Arc::new(chain)).ok()?;
    Some(Found { name: name.as_str().into(), transports })
}

/// What such chains ask for: exact server names, and nothing of the destination.
pub(super) fn by_name_alone(criteria: &Criteria, chain: &Chain) -> bool {
    let exact = |name: &String| !name.starts_with('*');
    let anywhere = criteria.port.is_none() && criteria.networks.is_empty();
    anywhere
        && chain.tls.is_none()
        && !criteria.server_names.is_empty()
        && criteria.server_names.iter().all(exact)
}

fn list(criteria: &Criteria) -> Option<Arc<[String]>> {
    (!criteria.protocols.is_empty()).then(|| criteria.protocols.clone().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_takes_thirty_two_bytes_until_it_is_used() {
        assert!(size_of::<Entry>() <= 32);
    }
}
