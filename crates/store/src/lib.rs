//! Durable keys: get, put-if-unchanged, watch, lease; an embedded file store and etcd behind one suite.
//!
//! The semantics are etcd's. One counter, the revision, grows by one with every change of any key. A key remembers
//! the revision that created it and the revision that changed it last; writes may be made conditional on the latter.

pub mod embedded;
pub mod error;
pub mod etcd;
pub mod types;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

pub use embedded::EmbeddedStore;
pub use error::{OpenError, StoreError, WatchError};
pub use etcd::EtcdStore;
pub use types::{Event, Expect, KeyValue, LeaseId, Page, Range, WatchBatch, WatchStream, Write};

/// Durable, ordered keys with revisions. Called by the API server; implemented by a file and by etcd.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    /// The latest value of a key.
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError>;

    /// Keys with a prefix in key order, as of one revision.
    async fn range(&self, range: Range) -> Result<Page, StoreError>;

    /// Writes a value if the key is as expected. It is durable once this returns.
    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expect: Expect,
        lease: Option<LeaseId>,
    ) -> Result<Write, StoreError>;

    /// Deletes a key if it is as expected. Deleting an absent key is a [`Write::Conflict`] with nothing.
    async fn delete(&self, key: &str, expect: Expect) -> Result<Write, StoreError>;

    /// All changes under a prefix from this revision on (inclusive), in order, each revision whole.
    ///
    /// A watch that asks for, or falls behind to, a revision that is forgotten ends with [`WatchError::Compacted`].
    async fn watch(&self, prefix: &str, from: u64) -> Result<WatchStream, StoreError>;

    /// A revision that covers every write acknowledged before the call, here or at another replica.
    async fn revision(&self) -> Result<u64, StoreError>;

    /// Starts a lease: keys attached to it are deleted when it ends. Whole seconds, at least one.
    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Starts a lease's time anew. False when it has ended.
    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<bool, StoreError>;

    /// Ends a lease and deletes its keys. False when it had ended already.
    async fn lease_revoke(&self, lease: LeaseId) -> Result<bool, StoreError>;
}
