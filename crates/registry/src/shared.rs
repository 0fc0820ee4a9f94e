//! A sorted map that snapshots share: cloning it is one counter, changing it copies one chunk and the list of chunks.
//!
//! The persistent maps on the registries are all MPL licensed, and their trees buy little here: with chunks of at most
//! [`CHUNK`] entries, a change among 10,000 services copies about 200 pointers and 64 entries.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

/// Most entries of one chunk.
const CHUNK: usize = 64;

/// One run of neighbours; never empty.
type Chunk<K, V> = Arc<Vec<(K, V)>>;

/// A sorted map whose clones share all that is unchanged.
pub struct Map<K, V> {
    chunks: Arc<Vec<Chunk<K, V>>>,
    len: usize,
}

impl<K, V> Clone for Map<K, V> {
    fn clone(&self) -> Self {
        Self { chunks: Arc::clone(&self.chunks), len: self.len }
    }
}

impl<K, V> Default for Map<K, V> {
    fn default() -> Self {
        Self { chunks: Arc::new(Vec::new()), len: 0 }
    }
}

impl<K: Ord + Clone, V: Clone> Map<K, V> {
    /// An empty map.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether both are one and the same state; false says nothing.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.chunks, &other.chunks)
    }

    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.get_key_value(key).map(|(_, value)| value)
    }

    /// The key that is there, and its value.
    pub fn get_key_value<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        let chunk = &self.chunks[self.chunk_of(key)?];
        let at = chunk.binary_search_by(|(k, _)| k.borrow().cmp(key)).ok()?;
        let (key, value) = &chunk[at];
        Some((key, value))
    }

    /// Whether the key is there.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// Entries in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.chunks.iter().flat_map(|chunk| chunk.iter().map(|(k, v)| (k, v)))
    }

    /// Entries from the first key that is not less than `start`, in key order.
    pub fn iter_from<Q: Ord + ?Sized>(&self, start: &Q) -> impl Iterator<Item = (&K, &V)> + use<'_, Q, K, V>
    where
        K: Borrow<Q>,
    {
        let first = self.chunk_of(start).unwrap_or(0);
        let before =
            self.chunks.get(first).map_or(0, |chunk| chunk.partition_point(|(k, _)| k.borrow() < start));
        self.chunks[first.min(self.chunks.len())..]
            .iter()
            .flat_map(|chunk| chunk.iter().map(|(k, v)| (k, v)))
            .skip(before)
    }

    /// Keys in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(k, _)| k)
    }

    /// Values in key order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, v)| v)
    }

    /// Puts a value, and returns the one that was there.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let chunks = Arc::make_mut(&mut self.chunks);
        if chunks.is_empty() {
            chunks.push(Arc::new(vec![(key, value)]));
            self.len = 1;
            return None;
        }
        let at = index(chunks, &key);
        let chunk = Arc::make_mut(&mut chunks[at]);
        match chunk.binary_search_by(|(k, _)| k.cmp(&key)) {
            Ok(found) => Some(std::mem::replace(&mut chunk[found].1, value)),
            Err(gap) if chunk.len() < CHUNK => {
                chunk.insert(gap, (key, value));
                self.len += 1;
                None
            }
            Err(CHUNK) => {
                // Keys that come in order fill their chunks.
                chunks.insert(at + 1, Arc::new(vec![(key, value)]));
                self.len += 1;
                None
            }
            Err(gap) => {
                let mut upper = chunk.split_off(CHUNK / 2);
                chunk.shrink_to_fit();
                if gap <= chunk.len() {
                    chunk.insert(gap, (key, value));
                } else {
                    upper.insert(gap - chunk.len(), (key, value));
                }
                chunks.insert(at + 1, Arc::new(upper));
                self.len += 1;
                None
            }
        }
    }

    /// Takes a value out. A chunk that gets small stays until it is empty: services leave rarely.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let at = self.chunk_of(key)?;
        let found = self.chunks[at].binary_search_by(|(k, _)| k.borrow().cmp(key)).ok()?;
        let chunks = Arc::make_mut(&mut self.chunks);
        let chunk = Arc::make_mut(&mut chunks[at]);
        let (_, value) = chunk.remove(found);
        if chunk.is_empty() {
            chunks.remove(at);
        }
        self.len -= 1;
        Some(value)
    }

    /// Keys whose values are not the same as in `old`, and keys that only one of the two has. Chunks that both share are not looked
    /// at.
    pub fn changed(&self, old: &Self, same: impl Fn(&V, &V) -> bool) -> Vec<K> {
        let addresses = |map: &Self| map.chunks.iter().map(Arc::as_ptr).collect::<HashSet<_>>();
        let (ours, theirs) = (addresses(self), addresses(old));
        let mut changed = Vec::new();
        for (key, value) in
            self.chunks.iter().filter(|c| !theirs.contains(&Arc::as_ptr(c))).flat_map(|c| c.iter())
        {
            if old.get(key).is_none_or(|before| !same(before, value)) {
                changed.push(key.clone());
            }
        }
        for (key, _) in old.chunks.iter().filter(|c| !ours.contains(&Arc::as_ptr(c))).flat_map(|c| c.iter()) {
            if !self.contains_key(key) {
                changed.push(key.clone());
            }
        }
        changed
    }

    fn chunk_of<Q: Ord + ?Sized>(&self, key: &Q) -> Option<usize>
    where
        K: Borrow<Q>,
    {
        if self.chunks.is_empty() { None } else { Some(index(&self.chunks, key)) }
    }
}

/// The chunk in which `key` is or would be.
fn index<K: Borrow<Q>, V, Q: Ord + ?Sized>(chunks: &[Chunk<K, V>], key: &Q) -> usize {
    chunks.partition_point(|chunk| chunk[0].0.borrow() <= key).saturating_sub(1)
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for Map<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::new();
        for (key, value) in entries {
            map.insert(key, value);
        }
        map
    }
}

impl<K: Ord + Clone, V: Clone + PartialEq> PartialEq for Map<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.same(other) || (self.len == other.len && self.iter().eq(other.iter()))
    }
}

impl<K: Ord + Clone + fmt::Debug, V: Clone + fmt::Debug> fmt::Debug for Map<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_behaves_like_a_tree_map(steps in prop::collection::vec((any::<u8>(), any::<u16>(), any::<bool>()), 0..600)) {
            let mut ours = Map::new();
            let mut model = BTreeMap::new();
            for (key, value, put) in steps {
                if put {
                    prop_assert_eq!(ours.insert(key, value), model.insert(key, value));
                } else {
                    prop_assert_eq!(ours.remove(&key), model.remove(&key));
                }
            }
            prop_assert_eq!(ours.len(), model.len());
            prop_assert!(ours.iter().eq(model.iter()));
            prop_assert!(ours.iter_from(&100).eq(model.range(100..)));
            for key in 0..=u8::MAX {
                prop_assert_eq!(ours.get(&key), model.get(&key));
            }
        }
    }

    proptest! {
        #[test]
        fn changed_keys_are_those_that_differ(
            old in prop::collection::btree_map(any::<u8>(), any::<u8>(), 0..200),
            steps in prop::collection::vec((any::<u8>(), any::<Option<u8>>()), 0..20),
        ) {
            let before: Map<u8, u8> = old.iter().map(|(k, v)| (*k, *v)).collect();
            let (mut after, mut model) = (before.clone(), old.clone());
            for (key, value) in steps {
                match value {
                    Some(value) => { after.insert(key, value); model.insert(key, value); }
                    None => { after.remove(&key); model.remove(&key); }
                }
            }
            let mut found = after.changed(&before, |a, b| a == b);
            found.sort_unstable();
            let expected: Vec<u8> = (0..=u8::MAX).filter(|key| old.get(key) != model.get(key)).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn keys_that_come_in_order_waste_no_room() {
        let map: Map<u32, u32> = (0..10_000).map(|n| (n, n)).collect();
        let room: usize = map.chunks.iter().map(|chunk| chunk.capacity()).sum();
        assert!(room <= 10_000 + CHUNK, "room for {room} entries");
    }

    #[test]
    fn a_change_copies_one_chunk_and_leaves_the_old_map_alone() {
        let old: Map<u32, u32> = (0..10_000).map(|n| (n, n)).collect();
        let mut new = old.clone();
        assert!(new.same(&old));
        new.insert(5_000, 1);
        assert_eq!((old.get(&5_000), new.get(&5_000)), (Some(&5_000), Some(&1)));
        let copied = old.chunks.iter().zip(new.chunks.iter()).filter(|(a, b)| !Arc::ptr_eq(a, b)).count();
        assert_eq!(copied, 1);
    }
}
