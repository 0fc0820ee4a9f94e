//! The store in one file: redb on disk, all keys in memory, one writer thread.
//!
//! Writers queue; the thread takes all that wait, checks them in order against memory, commits them in one redb
//! transaction with one fsync, and only then shows and acknowledges them. So a hundred writers at once cost one sync,
//! and a reader never sees what a crash could take back.

mod disk;
mod history;
mod writer;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, oneshot, watch};

use crate::Store;
use crate::error::{OpenError, StoreError};
use crate::types::{Expect, KeyValue, LeaseId, Page, Range, WatchStream, Write};
use history::History;
use writer::{Answer, Job, Request};

/// Writers that may wait at a time; more wait to be queued.
const QUEUE: usize = 1024;

/// A durable store in one file, for one process at a time.
pub struct EmbeddedStore {
    state: Arc<RwLock<State>>,
    revision: watch::Receiver<u64>,
    jobs: Option<mpsc::Sender<Job>>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// What readers see: only what is on disk.
#[derive(Debug, Default)]
struct State {
    revision: u64,
    keys: BTreeMap<String, KeyValue>,
    leases: BTreeMap<LeaseId, Duration>,
    history: History,
}

impl std::fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedStore").field("revision", &*self.revision.borrow()).finish_non_exhaustive()
    }
}

impl EmbeddedStore {
    /// Opens or creates the file (mode 0600) and reads it into memory. Leases start anew.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_with_history(path, history::DEFAULT_EVENTS)
    }

    /// As [`EmbeddedStore::open`], keeping at most so many past events for watches and old revisions.
    pub fn open_with_history(path: &Path, events: usize) -> Result<Self, OpenError> {
        let (disk, mut state) = disk::Disk::open(path)?;
        state.history = History::new(events, state.revision);
        let (published, revision) = watch::channel(state.revision);
        let state = Arc::new(RwLock::new(state));
        let (jobs, queue) = mpsc::channel(QUEUE);
        let writer = writer::Writer::new(disk, Arc::clone(&state), published);
        let thread = std::thread::Builder::new()
            .name("store-writer".to_string())
            .spawn(move || writer.run(queue))
            .map_err(|error| OpenError::File { path: path.to_path_buf(), reason: error.to_string() })?;
        Ok(Self { state, revision, jobs: Some(jobs), thread: Mutex::new(Some(thread)) })
    }

    async fn ask(&self, request: Request) -> Result<Answer, StoreError> {
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or(StoreError::Closed)?;
        jobs.send(Job { request, reply }).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        // The thread ends with the last sender; waiting frees the file's lock for whoever opens it next.
        self.jobs = None;
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        Ok(self.state.read().keys.get(key).cloned())
    }

    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        self.state.read().range(&range)
    }

    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expect: Expect,
        lease: Option<LeaseId>,
    ) -> Result<Write, StoreError> {
        match self.ask(Request::Put { key: key.to_string(), value, expect, lease }).await? {
            Answer::Write(write) => Ok(write),
            Answer::Lease(_) | Answer::Lives(_) => Err(StoreError::Closed),
        }
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<Write, StoreError> {
        match self.ask(Request::Delete { key: key.to_string(), expect }).await? {
            Answer::Write(write) => Ok(write),
            Answer::Lease(_) | Answer::Lives(_) => Err(StoreError::Closed),
        }
    }

    async fn watch(&self, prefix: &str, from: u64) -> Result<WatchStream, StoreError> {
        let watcher =
            history::Watcher::new(Arc::clone(&self.state), self.revision.clone(), prefix.to_string(), from);
        Ok(watcher.into_stream().boxed())
    }

    async fn revision(&self) -> Result<u64, StoreError> {
        Ok(self.state.read().revision)
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        match self.ask(Request::Grant { ttl }).await? {
            Answer::Lease(lease) => Ok(lease),
            Answer::Write(_) | Answer::Lives(_) => Err(StoreError::Closed),
        }
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<bool, StoreError> {
        match self.ask(Request::KeepAlive { lease }).await? {
            Answer::Lives(lives) => Ok(lives),
            Answer::Write(_) | Answer::Lease(_) => Err(StoreError::Closed),
        }
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<bool, StoreError> {
        match self.ask(Request::Revoke { lease }).await? {
            Answer::Lives(lives) => Ok(lives),
            Answer::Write(_) | Answer::Lease(_) => Err(StoreError::Closed),
        }
    }
}

impl State {
    fn range(&self, range: &Range) -> Result<Page, StoreError> {
        let revision = range.revision.unwrap_or(self.revision);
        if revision > self.revision {
            return Err(StoreError::Future { asked: revision, latest: self.revision });
        }
        let undone = self.history.undo_to(revision, &range.prefix)?;
        let start = match &range.after {
            Some(after) if *after >= range.prefix => std::ops::Bound::Excluded(after.as_str()),
            _ => std::ops::Bound::Included(range.prefix.as_str()),
        };
        let limit = if range.limit == 0 { usize::MAX } else { range.limit };
        let mut items = Vec::new();
        let mut more = false;
        let live = self
            .keys
            .range::<str, _>((start, std::ops::Bound::Unbounded))
            .map(|(key, value)| (key.as_str(), value))
            .take_while(|(key, _)| key.starts_with(&range.prefix));
        // Keys changed since then show their value of that time; keys deleted since then come back in order.
        let old = undone
            .range::<str, _>((start, std::ops::Bound::Unbounded))
            .map(|(key, value)| (*key, value.as_ref()));
        for value in merge(live, old) {
            if items.len() == limit {
                more = true;
                break;
            }
            items.push(value.clone());
        }
        Ok(Page { items, revision, more })
    }
}

/// Joins live keys with their values of an earlier revision; the latter win, and may be absence.
fn merge<'a>(
    live: impl Iterator<Item = (&'a str, &'a KeyValue)>,
    old: impl Iterator<Item = (&'a str, Option<&'a KeyValue>)>,
) -> impl Iterator<Item = &'a KeyValue> {
    let (mut live, mut old) = (live.peekable(), old.peekable());
    std::iter::from_fn(move || {
        loop {
            let take_old = match (live.peek(), old.peek()) {
                (None, None) => return None,
                (Some(_), None) => false,
                (None, Some(_)) => true,
                (Some((key, _)), Some((old_key, _))) => old_key <= key,
            };
            if !take_old {
                return live.next().map(|(_, value)| value);
            }
            let (key, value) = old.next()?;
            if live.peek().is_some_and(|(live_key, _)| *live_key == key) {
                live.next();
            }
            if value.is_some() {
                return value;
            }
        }
    })
}
