//! The words of the store.

use bytes::Bytes;
use futures::stream::BoxStream;

use crate::error::WatchError;

/// A lease's number; never 0.
pub type LeaseId = i64;

/// One key with its value and revisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Bytes,
    /// The revision that created the key.
    pub create_revision: u64,
    /// The revision that changed it last.
    pub mod_revision: u64,
    /// The lease it is attached to.
    pub lease: Option<LeaseId>,
}

/// What a write demands of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Any,
    /// That it does not exist.
    Absent,
    /// That its last change was this revision.
    Revision(u64),
}

/// How a conditional write ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Done, at this revision; the value before, if there was one.
    Done {
        /// The revision of the write.
        revision: u64,
        /// What it replaced or deleted.
        previous: Option<KeyValue>,
    },
    /// Not done: the key was not as expected. What it is instead.
    Conflict(Option<KeyValue>),
}

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct Range {
    /// Only keys with this prefix.
    pub prefix: String,
    /// Only keys after this one: the last key of the page before.
    pub after: Option<String>,
    /// At most so many; 0 is all.
    pub limit: usize,
    /// As of this revision; the latest when absent.
    pub revision: Option<u64>,
}

/// One page of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The keys, in order.
    pub items: Vec<KeyValue>,
    /// The revision that the page shows.
    pub revision: u64,
    /// Whether keys follow.
    pub more: bool,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The revision of the change.
    pub revision: u64,
    /// The key.
    pub key: String,
    /// The value after; nothing when it was deleted.
    pub current: Option<KeyValue>,
    /// The value before; nothing when it was created.
    pub previous: Option<KeyValue>,
}

/// Changes, and how far the watch has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchBatch {
    /// Changes in order; a revision is never split over batches. May be empty: then only `revision` is news.
    pub events: Vec<Event>,
    /// Everything up to this revision has been delivered.
    pub revision: u64,
}

/// A running watch. Dropping it ends it. It ends by itself only with an error.
pub type WatchStream = BoxStream<'static, Result<WatchBatch, WatchError>>;
