//! What can go wrong.

use std::path::PathBuf;

/// A store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be opened: its folder is absent, it is held by another process, or it is damaged.
    #[error("store file {path} cannot be opened: {reason}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The file opened, but a record in it does not decode.
    #[error("store file {path} has a record {key} that does not decode; restore it from a copy")]
    Record {
        /// Which file.
        path: PathBuf,
        /// Which record.
        key: String,
    },
    /// The etcd endpoints are not usable.
    #[error("etcd at {endpoints} is not usable: {reason}")]
    Etcd {
        /// The endpoints, joined by commas.
        endpoints: String,
        /// Why.
        reason: String,
    },
}

/// A call to the store failed. Nothing is known to be written, unless it says so.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The revision asked for is no longer kept.
    #[error("revision {asked} is no longer kept, the oldest is {oldest}")]
    Compacted {
        /// What was asked for.
        asked: u64,
        /// What is there.
        oldest: u64,
    },
    /// The revision asked for is in the future.
    #[error("revision {asked} is in the future, the latest is {latest}")]
    Future {
        /// What was asked for.
        asked: u64,
        /// What is there.
        latest: u64,
    },
    /// No such lease.
    #[error("lease {0} does not exist or has ended")]
    NoLease(i64),
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// The disk refused the write; nothing of it was applied.
    #[error("writing to the store failed: {0}")]
    Disk(String),
    /// The store is away. A write may or may not have happened.
    #[error("the store did not answer: {0}")]
    Unavailable(String),
}

/// A watch ended.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WatchError {
    /// The watch asked for, or fell behind to, a revision that is no longer kept: list again.
    #[error("events before revision {oldest} are no longer kept; list again")]
    Compacted {
        /// The oldest revision that can be watched from.
        oldest: u64,
    },
    /// The store is away: watch again from the last revision seen.
    #[error("the watch was cut: {0}")]
    Cut(String),
}
