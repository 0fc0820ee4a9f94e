//! What one peer exports, as far as it told us: the last good state, which outlives streams and restarts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isthmus_model::export::PeerChange;
use isthmus_model::name::ClusterId;
use isthmus_proto::federation::{Digest, Owner, Record, RecordType};
use prost::Message;
use thiserror::Error;

use crate::log::digests;
use crate::record::{self, InvalidRecord, Item, Key};

/// Bounds on what one peer can make us hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Records.
    pub records: usize,
    /// Their encoded size in bytes.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { records: 50_000, bytes: 64 * 1024 * 1024 }
    }
}

#[derive(Debug)]
struct Held {
    record: Record,
    size: usize,
    item: Item,
}

/// A record that we do not take, at this version.
#[derive(Debug)]
struct Refused {
    version: u64,
    reason: InvalidRecord,
}

/// Refused records that are remembered with their reasons.
const MAX_REFUSED: usize = 10_000;

/// One peer's table.
#[derive(Debug)]
pub struct Imports {
    peer: ClusterId,
    owner: Owner,
    limits: Limits,
    held: BTreeMap<Key, Held>,
    bytes: usize,
    refused: BTreeMap<Key, Refused>,
    /// Held from an earlier epoch and not mentioned by the present one: served on, and asked about.
    unconfirmed: BTreeSet<Key>,
    /// More was refused than is remembered: digests cannot be compared.
    uncounted: bool,
    epoch: u64,
    cursor: u64,
    synced: bool,
    heard_ms: Option<u64>,
    proven: Option<Arc<str>>,
    dirty: bool,
}

/// A saved table that cannot be read.
#[derive(Debug, Error)]
pub enum LoadError {
    /// Damaged.
    #[error("saved imports of {0} are damaged: {1}")]
    Damaged(ClusterId, prost::DecodeError),
    /// Of another peer or mesh.
    #[error("saved imports of {0} belong to {1}")]
    Foreign(ClusterId, String),
}

/// On disk.
#[derive(Clone, PartialEq, Message)]
struct Saved {
    #[prost(message, optional, tag = "1")]
    owner: Option<Owner>,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(uint64, tag = "3")]
    cursor: u64,
    #[prost(bool, tag = "4")]
    synced: bool,
    #[prost(uint64, optional, tag = "5")]
    heard_ms: Option<u64>,
    #[prost(string, optional, tag = "6")]
    proven: Option<String>,
    #[prost(message, repeated, tag = "7")]
    records: Vec<Record>,
}

impl Imports {
    /// An empty table: nothing is known.
    #[must_use]
    pub fn new(peer: ClusterId, owner: Owner, limits: Limits) -> Self {
        Self {
            peer,
            owner,
            limits,
            held: BTreeMap::new(),
            bytes: 0,
            refused: BTreeMap::new(),
            unconfirmed: BTreeSet::new(),
            uncounted: false,
            epoch: 0,
            cursor: 0,
            synced: false,
            heard_ms: None,
            proven: None,
            dirty: false,
        }
    }

    /// Reads a saved table.
    ///
    /// # Errors
    /// When the bytes are damaged or someone else's; start with an empty table then.
    pub fn load(peer: ClusterId, owner: Owner, limits: Limits, bytes: &[u8]) -> Result<Self, LoadError> {
        let saved = Saved::decode(bytes).map_err(|error| LoadError::Damaged(peer.clone(), error))?;
        if saved.owner.as_ref() != Some(&owner) {
            let whose = saved.owner.as_ref().map_or_else(|| "nobody".to_string(), record::owner_text);
            return Err(LoadError::Foreign(peer, whose));
        }
        let mut imports = Self::new(peer, owner, limits);
        for record in saved.records {
            // A record that an older release took and this one does not is dropped here and sent again by its owner.
            let _ = imports.upsert(record);
        }
        let complete = imports.refused.is_empty();
        imports.refused.clear();
        (imports.epoch, imports.cursor) = if complete { (saved.epoch, saved.cursor) } else { (0, 0) };
        imports.synced = saved.synced;
        imports.heard_ms = saved.heard_ms;
        imports.proven = saved.proven.map(Into::into);
        imports.dirty = false;
        Ok(imports)
    }

    /// Writes the table; it counts as saved.
    pub fn save(&mut self) -> Vec<u8> {
        self.dirty = false;
        // What is refused or unconfirmed is not saved, so that the next process hears of it again (and may take it).
        let settled = self.refused.is_empty() && self.unconfirmed.is_empty();
        let saved = Saved {
            owner: Some(self.owner.clone()),
            epoch: if settled { self.epoch } else { 0 },
            cursor: if settled { self.cursor } else { 0 },
            synced: self.synced,
            heard_ms: self.heard_ms,
            proven: self.proven.as_ref().map(ToString::to_string),
            records: self.held.values().map(|held| held.record.clone()).collect(),
        };
        saved.encode_to_vec()
    }

    /// Whether something changed since it was saved.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Everything that is held, as changes from nothing.
    #[must_use]
    pub fn replay(&self) -> Vec<PeerChange> {
        let held = self.held.values().map(|held| upserted(&held.item));
        held.chain(self.synced.then_some(PeerChange::Synced)).collect()
    }

    /// Epoch and cursor up to which the peer's log is applied; zeros ask for everything.
    #[must_use]
    pub fn position(&self) -> (u64, u64) {
        (self.epoch, self.cursor)
    }

    /// Whether everything that the peer had to say has been said once, ever.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// When the peer was last heard, by our clock, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn heard_ms(&self) -> Option<u64> {
        self.heard_ms
    }

    /// Services that are held.
    #[must_use]
    pub fn services(&self) -> usize {
        self.held.range(Key::new(RecordType::ServiceExport, "")..Key::new(RecordType::Gateway, "")).count()
    }

    /// Records that are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Records that we refuse, with reasons.
    pub fn refusals(&self) -> impl Iterator<Item = (&Key, &InvalidRecord)> {
        self.refused.iter().map(|(key, refused)| (key, &refused.reason))
    }

    /// The link's owner of records.
    #[must_use]
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Hash of the secret that was shown at first contact.
    #[must_use]
    pub fn proven(&self) -> Option<&str> {
        self.proven.as_deref()
    }

    /// Held from an earlier epoch and not mentioned by the present one.
    #[must_use]
    pub fn unconfirmed(&self) -> &BTreeSet<Key> {
        &self.unconfirmed
    }

    pub(crate) fn prove(&mut self, secret_sha256: &Arc<str>) {
        if self.proven.as_ref() != Some(secret_sha256) {
            self.proven = Some(Arc::clone(secret_sha256));
            self.dirty = true;
        }
    }

    pub(crate) fn heard(&mut self, now_ms: u64) {
        self.heard_ms = Some(now_ms);
    }

    /// Moves on within the epoch. Never back: a replaced stream may repeat what a newer one has said.
    pub(crate) fn reach(&mut self, cursor: u64) {
        if cursor > self.cursor {
            self.cursor = cursor;
            self.dirty = true;
        }
    }

    /// Forgets the position, not the records: the next stream sends everything.
    pub(crate) fn ask_for_everything(&mut self) {
        (self.epoch, self.cursor) = (0, 0);
        self.dirty = true;
    }

    /// Takes a record.
    ///
    /// # Errors
    /// When it is refused; what was held under its key stays.
    pub(crate) fn upsert(&mut self, record: Record) -> Result<Option<PeerChange>, InvalidRecord> {
        let key = Key { kind: record.r#type, key: record.key.as_str().into() };
        let size = record.encoded_len();
        let item = record::read(&record, &self.owner, &self.peer);
        let item = item.and_then(|item| self.room(&key, size).map(|()| item)).inspect_err(|reason| {
            if !matches!(reason, InvalidRecord::Owner { .. }) {
                self.unconfirmed.remove(&key);
            }
            if self.refused.len() >= MAX_REFUSED && !self.refused.contains_key(&key) {
                self.uncounted = true;
                return;
            }
            let refused = Refused { version: record.version, reason: reason.clone() };
            self.refused.insert(key.clone(), refused);
        })?;
        self.refused.remove(&key);
        self.unconfirmed.remove(&key);
        let before = self.held.get(&key);
        if before.is_some_and(|held| held.record.version == record.version && held.item == item) {
            return Ok(None);
        }
        self.bytes = self.bytes + size - before.map_or(0, |held| held.size);
        let change = upserted(&item);
        self.held.insert(key, Held { record, size, item });
        self.dirty = true;
        Ok(Some(change))
    }

    /// Takes the owner's word that a record is gone.
    pub(crate) fn remove(&mut self, key: &Key) -> Option<PeerChange> {
        self.refused.remove(key);
        self.unconfirmed.remove(key);
        let gone = self.held.remove(key)?;
        self.bytes -= gone.size;
        self.dirty = true;
        Some(match gone.item {
            Item::Service(service) => PeerChange::ServiceRemoved(service.host),
            Item::Gateway(gateway) => PeerChange::GatewayRemoved(gateway),
        })
    }

    /// A new epoch has been said in full, and its records follow. `mentioned` are its keys: what is held besides is kept, and to
    /// be asked about.
    pub(crate) fn begin(&mut self, epoch: u64, cursor: u64, mentioned: &BTreeSet<Key>) {
        (self.epoch, self.cursor) = (epoch, cursor);
        // Lies are remembered: they are not the owner's word, whatever epoch it is in.
        let lie = |refused: &Refused| matches!(refused.reason, InvalidRecord::Owner { .. });
        self.refused.retain(|key, refused| mentioned.contains(key) || lie(refused));
        self.uncounted = false;
        self.unconfirmed = self.held.keys().filter(|key| !mentioned.contains(key)).cloned().collect();
        self.dirty = true;
    }

    pub(crate) fn synced(&mut self) {
        self.dirty |= !self.synced;
        self.synced = true;
    }

    /// Count and hash of the owner's records at the versions that it sent, whether we take them or not. None when they are not
    /// comparable to the owner's at the moment.
    pub(crate) fn digests(&self) -> Option<Vec<Digest>> {
        if self.uncounted || !self.unconfirmed.is_empty() {
            return None;
        }
        // A record in another's name is not the owner's, so it is not part of the owner's digest either.
        let own = |refused: &&Refused| !matches!(refused.reason, InvalidRecord::Owner { .. });
        let refused = self.refused.iter().filter(|(_, refused)| own(refused));
        let held = self.held.iter().filter(|(key, _)| self.refused.get(key).filter(own).is_none());
        let versions = held.map(|(key, held)| (key, held.record.version));
        Some(digests(versions.chain(refused.map(|(key, refused)| (key, refused.version)))))
    }

    fn room(&self, key: &Key, size: usize) -> Result<(), InvalidRecord> {
        let before = self.held.get(key);
        // Records that are about to be withdrawn take no room from those that replace them.
        if before.is_none() && self.held.len() - self.unconfirmed.len() >= self.limits.records {
            return Err(InvalidRecord::TooMany(self.limits.records));
        }
        if self.bytes + size - before.map_or(0, |held| held.size) > self.limits.bytes {
            return Err(InvalidRecord::TooLarge(self.limits.bytes));
        }
        Ok(())
    }
}

fn upserted(item: &Item) -> PeerChange {
    match item {
        Item::Service(service) => PeerChange::Service(service.clone()),
        Item::Gateway(gateway) => PeerChange::Gateway(gateway.clone()),
    }
}

#[cfg(test)]
mod tests;
