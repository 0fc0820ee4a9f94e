//! What streams share: differences between sets, encoded runs of resources, lists of names.
//!
//! Everything here is held weakly: bytes live while a stream is sending them, differences while both of their sets live.
//! Losing an entry costs a recomputation, never correctness.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Weak};

use bytes::{Bytes, BytesMut};
use isthmus_proto::resource::{Resource, ResourceSet, fnv1a};
use parking_lot::Mutex;

use crate::flavour::Flavour;
use crate::names::Names;
use crate::payload::{Part, Payload, put_removed, put_resource, removed_len, resource_len};

/// Differences kept.
const DIFFS: usize = 128;
/// A run ends at a name whose hash is divisible by this, so that sets which differ in a few names share the other runs.
const RUN: u64 = 32;
/// A run ends at this size.
const RUN_BYTES: usize = 128 * 1024;
/// Delta responses are split below the usual 4 MiB limit of gRPC clients.
const PART_BYTES: usize = 3 * 1024 * 1024 + 512 * 1024;

/// What changed from one set to another.
#[derive(Debug, Default)]
pub struct Diff {
    /// New and changed resources in name order, and whether each is new.
    pub upserts: Vec<(Resource, bool)>,
    /// Names that are gone.
    pub removed: Vec<Arc<str>>,
    encoded: Mutex<Weak<Payload>>,
    /// The new set with what is gone, for streams that take leave of it later.
    with_removed: Mutex<Weak<ResourceSet>>,
}

impl Diff {
    /// Compares two sets.
    #[must_use]
    pub fn between(old: &ResourceSet, new: &ResourceSet) -> Self {
        let mut diff = Self::default();
        let (mut olds, mut news) = (old.iter().peekable(), new.iter().peekable());
        loop {
            let order = match (olds.peek(), news.peek()) {
                (None, None) => return diff,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(old), Some(new)) if Arc::ptr_eq(&old.name, &new.name) => std::cmp::Ordering::Equal,
                (Some(old), Some(new)) => old.name.cmp(&new.name),
            };
            match order {
                std::cmp::Ordering::Less => {
                    diff.removed.extend(olds.next().map(|gone| Arc::clone(&gone.name)))
                }
                std::cmp::Ordering::Greater => {
                    diff.upserts.extend(news.next().map(|new| (new.clone(), true)))
                }
                std::cmp::Ordering::Equal => {
                    if let (Some(old), Some(new)) = (olds.next(), news.next())
                        && old.version != new.version
                    {
                        diff.upserts.push((new.clone(), false));
                    }
                }
            }
        }
    }

    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.upserts.is_empty() && self.removed.is_empty()
    }

    /// The new set with what is gone since the old one, made once for all streams that go this way.
    #[must_use]
    pub fn with_removed(&self, old: &ResourceSet, new: &ResourceSet) -> Arc<ResourceSet> {
        let mut made = self.with_removed.lock();
        if let Some(set) = made.upgrade() {
            return set;
        }
        let gone = self.removed.iter().filter_map(|name| old.get(name));
        let set = Arc::new(ResourceSet::new(new.iter().chain(gone).cloned().collect()));
        *made = Arc::downgrade(&set);
        set
    }
}

#[derive(Debug)]
struct KnownDiff {
    old: Weak<ResourceSet>,
    new: Weak<ResourceSet>,
    diff: Arc<Diff>,
}

/// An encoded run of resources, with what it was made of.
#[derive(Debug)]
struct Run {
    of: Vec<(Arc<str>, u64)>,
    bytes: Bytes,
}

/// Bytes that keep their run alive, so that the weak entry finds it while anyone is sending it.
struct Held(Arc<Run>);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.0.bytes
    }
}

/// Weak entries with a sweep whenever they have doubled.
#[derive(Debug)]
struct WeakMap<T: ?Sized> {
    entries: HashMap<u64, Weak<T>>,
    sweep_at: usize,
}

impl<T: ?Sized> Default for WeakMap<T> {
    fn default() -> Self {
        Self { entries: HashMap::new(), sweep_at: 64 }
    }
}

impl<T: ?Sized> WeakMap<T> {
    fn get(&self, key: u64) -> Option<Arc<T>> {
        self.entries.get(&key).and_then(Weak::upgrade)
    }

    fn put(&mut self, key: u64, value: &Arc<T>) {
        if self.entries.len() >= self.sweep_at {
            self.entries.retain(|_, entry| entry.strong_count() > 0);
            self.sweep_at = (self.entries.len() * 2).max(64);
        }
        self.entries.insert(key, Arc::downgrade(value));
    }
}

/// A payload of all of a set, or of all that it has of some names. Weak references keep their addresses from being used again.
#[derive(Debug)]
struct Full {
    set: Weak<ResourceSet>,
    flavour: Flavour,
    names: Option<Weak<[Arc<str>]>>,
    payload: Weak<Payload>,
}

/// Shared by all streams of one server.
#[derive(Debug, Default)]
pub struct Cache {
    diffs: Mutex<VecDeque<KnownDiff>>,
    fulls: Mutex<VecDeque<Full>>,
    runs: Mutex<WeakMap<Run>>,
    names: Mutex<WeakMap<[Arc<str>]>>,
    /// The same lists by what clients said, in any order.
    said: Mutex<WeakMap<[Arc<str>]>>,
    keys: RandomState,
}

impl Cache {
    /// An empty cache.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The difference between two sets, computed once for all streams that stand at `old`.
    #[must_use]
    pub fn diff(&self, old: &Arc<ResourceSet>, new: &Arc<ResourceSet>) -> Arc<Diff> {
        let same = |known: &KnownDiff| {
            std::ptr::eq(known.old.as_ptr(), Arc::as_ptr(old))
                && std::ptr::eq(known.new.as_ptr(), Arc::as_ptr(new))
        };
        if let Some(known) = self.diffs.lock().iter().find(|known| same(known)) {
            return Arc::clone(&known.diff);
        }
        let diff = Arc::new(Diff::between(old, new));
        let mut diffs = self.diffs.lock();
        diffs.retain(|known| known.old.strong_count() > 0 && known.new.strong_count() > 0);
        if diffs.len() >= DIFFS {
            diffs.pop_back();
        }
        let known = KnownDiff { old: Arc::downgrade(old), new: Arc::downgrade(new), diff: Arc::clone(&diff) };
        diffs.push_front(known);
        diff
    }

    /// All of a set.
    #[must_use]
    pub fn full(&self, flavour: Flavour, type_url: &str, set: &Arc<ResourceSet>) -> Arc<Payload> {
        let all = || self.encode(flavour, type_url, &set.iter().collect::<Vec<_>>(), &[]);
        self.once(flavour, set, None, all)
    }

    /// All that a set has of these names; in delta with those that it has not. Encoded once for all streams that ask for the same.
    pub(crate) fn subscribed(
        &self,
        flavour: Flavour,
        type_url: &str,
        set: &Arc<ResourceSet>,
        names: &Names,
    ) -> Arc<Payload> {
        let some = || {
            let (mut there, mut absent) = (Vec::with_capacity(names.len()), Vec::new());
            for name in names.iter() {
                match set.get(name) {
                    Some(resource) => there.push(resource),
                    None if flavour == Flavour::Delta => absent.push(Arc::clone(name)),
                    None => {}
                }
            }
            self.encode(flavour, type_url, &there, &absent)
        };
        match names.list() {
            Some(list) => self.once(flavour, set, Some(list), some),
            None => some(),
        }
    }

    fn once(
        &self,
        flavour: Flavour,
        set: &Arc<ResourceSet>,
        names: Option<&Arc<[Arc<str>]>>,
        encode: impl FnOnce() -> Arc<Payload>,
    ) -> Arc<Payload> {
        let same = |full: &&Full| {
            full.flavour == flavour
                && std::ptr::eq(full.set.as_ptr(), Arc::as_ptr(set))
                && full.names.as_ref().map(|list| list.as_ptr().cast::<()>())
                    == names.map(|list| Arc::as_ptr(list).cast::<()>())
        };
        if let Some(payload) = self.fulls.lock().iter().find(same).and_then(|full| full.payload.upgrade()) {
            return payload;
        }
        let payload = encode();
        let mut fulls = self.fulls.lock();
        fulls.retain(|full| full.payload.strong_count() > 0);
        if fulls.len() >= DIFFS {
            fulls.pop_back();
        }
        fulls.push_front(Full {
            set: Arc::downgrade(set),
            flavour,
            names: names.map(Arc::downgrade),
            payload: Arc::downgrade(&payload),
        });
        payload
    }

    /// A whole difference, in delta.
    #[must_use]
    pub fn change(&self, type_url: &str, diff: &Diff) -> Arc<Payload> {
        if let Some(payload) = diff.encoded.lock().upgrade() {
            return payload;
        }
        let upserts: Vec<&Resource> = diff.upserts.iter().map(|(resource, _)| resource).collect();
        let payload = self.encode(Flavour::Delta, type_url, &upserts, &diff.removed);
        *diff.encoded.lock() = Arc::downgrade(&payload);
        payload
    }

    /// These resources, in runs that other payloads share, and these removals. State of the world is never split.
    #[must_use]
    pub fn encode(
        &self,
        flavour: Flavour,
        type_url: &str,
        upserts: &[&Resource],
        removed: &[Arc<str>],
    ) -> Arc<Payload> {
        let limit = if flavour == Flavour::Delta { PART_BYTES } else { usize::MAX };
        let mut parts = vec![Part::default()];
        let mut add = |segment: Bytes, resources: usize| {
            if parts.last().is_some_and(|part| part.length > 0 && part.length + segment.len() > limit) {
                parts.push(Part::default());
            }
            if let Some(part) = parts.last_mut() {
                part.length += segment.len();
                part.resources += resources;
                part.segments.push(segment);
            }
        };
        let (mut start, mut size) = (0, 0);
        for (at, resource) in upserts.iter().enumerate() {
            size += resource_len(flavour, type_url, resource);
            let boundary = fnv1a(resource.name.as_bytes()).is_multiple_of(RUN) || size >= RUN_BYTES;
            if boundary || at + 1 == upserts.len() {
                add(self.run(flavour, type_url, &upserts[start..=at], size), at + 1 - start);
                (start, size) = (at + 1, 0);
            }
        }
        for names in removed.chunks(1024) {
            let mut out = BytesMut::with_capacity(names.iter().map(|name| removed_len(name)).sum());
            names.iter().for_each(|name| put_removed(&mut out, name));
            add(out.freeze(), 0);
        }
        Arc::new(Payload { parts })
    }

    fn run(&self, flavour: Flavour, type_url: &str, resources: &[&Resource], size: usize) -> Bytes {
        let seed = fnv1a(type_url.as_bytes()) ^ u64::from(flavour == Flavour::Delta);
        let key = resources.iter().fold(seed, |key, resource| {
            (key.rotate_left(5) ^ resource.version).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        });
        let made_of = |run: &Run| {
            run.bytes.len() == size
                && run.of.len() == resources.len()
                && run.of.iter().zip(resources).all(|((name, version), resource)| {
                    *version == resource.version
                        && (Arc::ptr_eq(name, &resource.name) || *name == resource.name)
                })
        };
        if let Some(run) = self.runs.lock().get(key).filter(|run| made_of(run)) {
            return Bytes::from_owner(Held(run));
        }
        let mut out = BytesMut::with_capacity(size);
        resources.iter().for_each(|resource| put_resource(&mut out, flavour, type_url, resource));
        let of = resources.iter().map(|resource| (Arc::clone(&resource.name), resource.version)).collect();
        let run = Arc::new(Run { of, bytes: out.freeze() });
        self.runs.lock().put(key, &run);
        Bytes::from_owner(Held(run))
    }

    /// Tells lists of names from one another, whatever their order. Its keys are this process's own: nobody can make two lists that it
    /// does not tell apart.
    pub(crate) fn fingerprint(&self, names: &[impl AsRef<[u8]>]) -> u64 {
        let hashes = names.iter().map(|name| self.keys.hash_one(name.as_ref()));
        hashes.fold(names.len() as u64, u64::wrapping_add)
    }

    /// The list of what some stream has said already, by its fingerprint.
    pub(crate) fn said(&self, fingerprint: u64) -> Option<Names> {
        self.said.lock().get(fingerprint).map(Names::sorted)
    }

    /// As [`Cache::share_names`], for a list that is found by what was said again.
    pub(crate) fn share_said(&self, fingerprint: u64, sorted: Vec<Arc<str>>) -> Names {
        let names = self.share_names(sorted);
        if let Some(list) = names.list() {
            self.said.lock().put(fingerprint, list);
        }
        names
    }

    /// Shares one list among all streams that ask for the same names. `sorted` is sorted and distinct.
    pub(crate) fn share_names(&self, sorted: Vec<Arc<str>>) -> Names {
        let key = sorted.iter().fold(0u64, |key, name| {
            (key.rotate_left(5) ^ fnv1a(name.as_bytes())).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        });
        let mut known = self.names.lock();
        if let Some(list) = known.get(key).filter(|list| **list == *sorted) {
            return Names::sorted(list);
        }
        let list: Arc<[Arc<str>]> = sorted.into();
        known.put(key, &list);
        Names::sorted(list)
    }
}

#[cfg(test)]
mod tests;
