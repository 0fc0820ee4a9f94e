//! Encode once: resources by their exact inputs.
//!
//! Inputs are shared by `Arc`, so a key holds their addresses; the entry keeps the inputs alive, so that an address cannot come
//! to mean another input. What nobody else holds and two generations did not ask for is dropped when the cache has doubled.

use std::any::Any;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use isthmus_proto::resource::Resource;

/// Entries below which a cache is not swept.
const SMALL: usize = 256;

/// Inputs that an entry keeps alive.
pub(crate) type Pins = Vec<Arc<dyn Any + Send + Sync>>;

/// Resources by key.
pub(crate) struct Cache<K> {
    entries: HashMap<K, Entry>,
    generation: u64,
    sweep_at: usize,
    /// How often something was encoded: what tests count.
    pub(crate) encoded: u64,
}

struct Entry {
    resource: Resource,
    used: u64,
    _pins: Pins,
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        Self { entries: HashMap::new(), generation: 0, sweep_at: SMALL, encoded: 0 }
    }
}

impl<K: Eq + Hash> Cache<K> {
    /// The resource of a key, encoded now if it never was.
    pub(crate) fn get(&mut self, key: K, encode: impl FnOnce() -> (Resource, Pins)) -> Resource {
        let generation = self.generation;
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.used = generation;
            return entry.resource.clone();
        }
        let (resource, pins) = encode();
        self.encoded += 1;
        self.entries.insert(key, Entry { resource: resource.clone(), used: generation, _pins: pins });
        resource
    }

    /// A new generation begins.
    pub(crate) fn advance(&mut self, generation: u64) {
        if generation <= self.generation {
            return;
        }
        self.generation = generation;
        if self.entries.len() < self.sweep_at {
            return;
        }
        // A class that is asked for later finds what others hold.
        self.entries.retain(|_, entry| entry.used + 2 >= generation || !entry.resource.body.is_unique());
        self.sweep_at = (self.entries.len() * 2).max(SMALL);
    }
}

impl<K> std::fmt::Debug for Cache<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("entries", &self.entries.len()).field("encoded", &self.encoded).finish()
    }
}
