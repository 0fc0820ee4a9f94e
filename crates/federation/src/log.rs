//! What we export: the newest state of every record, in the order of its last change.
//!
//! Each key stands once, at the cursor of its last change, be it live or withdrawn. Whoever has applied everything up to a cursor
//! needs what stands behind it, nothing else: a slow or absent peer costs nothing.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use isthmus_model::export::{NetworkGateway, ServiceExport};
use isthmus_proto::federation::{Change, Digest, Owner, Record, Tombstone, change};
use prost::Message;

use crate::record::{self, Key, digest_of};

/// A frame is at most 4 MiB, gRPC's usual limit; a record must fit with its envelope.
const MAX_RECORD: usize = 4 * 1024 * 1024 - 64 * 1024;
/// Withdrawn keys that are remembered. Beyond it a new epoch begins, whose receivers ask for what they miss.
const MAX_TOMBSTONES: usize = 100_000;

#[derive(Debug)]
struct Entry {
    cursor: u64,
    /// None: withdrawn.
    record: Option<Arc<Record>>,
}

/// Our exports. One log serves all peers.
#[derive(Debug)]
pub struct Log {
    owner: Owner,
    epoch: u64,
    cursor: u64,
    /// Whether the exports were ever stated in full: before that, absence means nothing.
    complete: bool,
    entries: BTreeMap<Key, Entry>,
    order: BTreeMap<u64, Key>,
    tombstones: usize,
    digests: Vec<Digest>,
}

/// What a new statement of our exports changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stated {
    /// New and changed records.
    pub upserted: usize,
    /// Withdrawn records.
    pub withdrawn: usize,
    /// Records that are too large to be told, with their size in bytes. What was told of them before stays.
    pub too_large: Vec<(Key, usize)>,
}

impl Log {
    /// An empty log. `epoch` is not zero and differs from that of any earlier process.
    #[must_use]
    pub fn new(owner: Owner, epoch: u64) -> Self {
        Self {
            owner,
            epoch,
            cursor: 0,
            complete: false,
            entries: BTreeMap::new(),
            order: BTreeMap::new(),
            tombstones: 0,
            digests: Vec::new(),
        }
    }

    /// States all exports; what is not among them is withdrawn. Call it only once the sources are complete: it is the owner's word.
    pub fn state(&mut self, services: &[ServiceExport], gateways: &[NetworkGateway]) -> Stated {
        let mut wanted: BTreeMap<Key, Record> = BTreeMap::new();
        let services = services.iter().map(|export| record::service(&self.owner, export));
        let gateways = gateways.iter().map(|gateway| record::gateway(&self.owner, gateway));
        for record in services.chain(gateways) {
            wanted.insert(Key { kind: record.r#type, key: record.key.as_str().into() }, record);
        }
        let mut stated = Stated::default();
        let gone: Vec<Key> = self
            .entries
            .iter()
            .filter(|(key, entry)| entry.record.is_some() && !wanted.contains_key(key))
            .map(|(key, _)| key.clone())
            .collect();
        stated.withdrawn = gone.len();
        gone.into_iter().for_each(|key| self.put(key, None));
        for (key, record) in wanted {
            let same =
                |known: &Entry| known.record.as_ref().is_some_and(|known| known.version == record.version);
            if self.entries.get(&key).is_some_and(same) {
                continue;
            }
            let size = record.encoded_len();
            if size > MAX_RECORD {
                stated.too_large.push((key, size));
                continue;
            }
            stated.upserted += 1;
            self.put(key, Some(Arc::new(record)));
        }
        self.complete = true;
        if self.tombstones > MAX_TOMBSTONES {
            self.forget_tombstones();
        }
        self.digests = self.compute_digests();
        stated
    }

    /// Its identity.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Position of the last change.
    #[must_use]
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// Whether the exports were stated in full.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Count and hash of the live records, by type.
    #[must_use]
    pub fn digests(&self) -> &[Digest] {
        &self.digests
    }

    /// The first change behind a cursor.
    #[must_use]
    pub fn after(&self, cursor: u64) -> Option<Change> {
        let (at, key) = self.order.range((Bound::Excluded(cursor), Bound::Unbounded)).next()?;
        Some(Change { cursor: *at, change: Some(self.answer(key)) })
    }

    /// The owner's word on a key: its record, or that it is not exported.
    #[must_use]
    pub fn answer(&self, key: &Key) -> change::Change {
        match self.entries.get(key).and_then(|entry| entry.record.as_ref()) {
            Some(record) => change::Change::Upsert((**record).clone()),
            None => change::Change::Tombstone(Tombstone {
                owner: Some(self.owner.clone()),
                r#type: key.kind,
                key: key.key.to_string(),
            }),
        }
    }

    fn put(&mut self, key: Key, record: Option<Arc<Record>>) {
        self.cursor += 1;
        if record.is_none() {
            self.tombstones += 1;
        }
        let entry = Entry { cursor: self.cursor, record };
        if let Some(before) = self.entries.insert(key.clone(), entry) {
            self.order.remove(&before.cursor);
            if before.record.is_none() {
                self.tombstones -= 1;
            }
        }
        self.order.insert(self.cursor, key);
    }

    fn forget_tombstones(&mut self) {
        self.entries.retain(|_, entry| entry.record.is_some());
        let entries = &self.entries;
        self.order.retain(|_, key| entries.contains_key(key));
        self.tombstones = 0;
        self.epoch = self.epoch.wrapping_add(1).max(1);
    }

    fn compute_digests(&self) -> Vec<Digest> {
        let live = self.entries.iter().filter_map(|(key, entry)| Some((key, entry.record.as_ref()?.version)));
        digests(live)
    }
}

/// Count and hash by type.
pub(crate) fn digests<'a>(records: impl Iterator<Item = (&'a Key, u64)>) -> Vec<Digest> {
    let mut by_type: BTreeMap<i32, Digest> = BTreeMap::new();
    for (key, version) in records {
        let digest =
            by_type.entry(key.kind).or_insert_with(|| Digest { r#type: key.kind, count: 0, hash: 0 });
        digest.count += 1;
        digest.hash = digest.hash.wrapping_add(digest_of(key, version));
    }
    by_type.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::{export, gateway, owner};

    #[test]
    fn only_what_changed_stands_behind_a_cursor() {
        let mut log = Log::new(owner("east"), 7);
        assert!(!log.is_complete());
        let stated = log.state(&[export("a", 1), export("b", 1)], &[gateway("10.0.0.1")]);
        assert_eq!((stated.upserted, stated.withdrawn, log.cursor()), (3, 0, 3));
        let again = log.state(&[export("b", 1), export("a", 1)], &[gateway("10.0.0.1")]);
        assert_eq!((again, log.cursor()), (Stated::default(), 3));
        log.state(&[export("a", 2)], &[gateway("10.0.0.1")]);
        let first = log.after(3).unwrap();
        assert!(
            matches!(first.change, Some(change::Change::Tombstone(t)) if t.key == "b.default.svc.cluster.local")
        );
        let second = log.after(first.cursor).unwrap();
        assert!(
            matches!(second.change, Some(change::Change::Upsert(r)) if r.key == "a.default.svc.cluster.local")
        );
        assert_eq!(log.after(second.cursor), None);
    }

    #[test]
    fn a_record_that_returns_stands_once() {
        let mut log = Log::new(owner("east"), 7);
        for round in 0..5 {
            log.state(&[export("a", round)], &[]);
            log.state(&[], &[]);
        }
        assert_eq!(log.order.len(), 1);
        assert_eq!(log.tombstones, 1);
        assert_eq!(log.digests(), []);
    }

    #[test]
    fn digests_do_not_depend_on_order_or_history() {
        let (mut one, mut two) = (Log::new(owner("east"), 1), Log::new(owner("east"), 2));
        one.state(&[export("a", 1), export("b", 2)], &[gateway("10.0.0.1")]);
        two.state(&[export("b", 9)], &[]);
        two.state(&[export("b", 2), export("a", 1)], &[gateway("10.0.0.1")]);
        assert_eq!(one.digests(), two.digests());
        two.state(&[export("b", 2), export("a", 3)], &[gateway("10.0.0.1")]);
        assert_ne!(one.digests(), two.digests());
    }

    #[test]
    fn a_record_that_no_frame_holds_is_named_and_left_out() {
        let mut log = Log::new(owner("east"), 1);
        let mut large = export("a", 1);
        large.name = "x".repeat(5 * 1024 * 1024).into();
        let stated = log.state(&[large, export("b", 1)], &[]);
        assert_eq!((stated.upserted, stated.too_large.len()), (1, 1));
    }
}
