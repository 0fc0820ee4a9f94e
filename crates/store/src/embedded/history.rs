//! The bounded memory of past events: watches read it, and old revisions are rebuilt from it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use futures::Stream;
use parking_lot::RwLock;
use tokio::sync::watch;

use super::State;
use crate::error::{StoreError, WatchError};
use crate::types::{Event, KeyValue, WatchBatch};

/// Events kept unless told otherwise.
pub(super) const DEFAULT_EVENTS: usize = 65_536;
/// Bytes of values that the history may hold alive.
const MAX_BYTES: usize = 64 << 20;
/// Events in one batch of a watch, about: a revision is not split.
const BATCH: usize = 512;

/// Events by revision, the newest last.
#[derive(Debug, Default)]
pub(super) struct History {
    events: VecDeque<Event>,
    bytes: usize,
    capacity: usize,
    /// Every event after this revision is here.
    complete_after: u64,
}

impl History {
    pub(super) fn new(capacity: usize, revision: u64) -> Self {
        Self { events: VecDeque::new(), bytes: 0, capacity: capacity.max(1), complete_after: revision }
    }

    /// Adds the newest event and forgets the oldest revisions beyond the bounds.
    pub(super) fn push(&mut self, event: Event) {
        self.bytes += weight(&event);
        self.events.push_back(event);
        while self.events.len() > self.capacity || self.bytes > MAX_BYTES {
            let Some(forgotten) = self.events.front().map(|event| event.revision) else { return };
            while let Some(event) = self.events.front() {
                if event.revision != forgotten {
                    break;
                }
                self.bytes -= weight(event);
                self.events.pop_front();
            }
            self.complete_after = forgotten;
        }
    }

    /// The events of these revisions and later.
    fn since(&self, from: u64) -> Result<impl Iterator<Item = &Event>, WatchError> {
        if from <= self.complete_after {
            return Err(WatchError::Compacted { oldest: self.complete_after + 1 });
        }
        let start = self.events.partition_point(|event| event.revision < from);
        Ok(self.events.range(start..))
    }

    /// What keys under a prefix were at a revision, for those that changed after it.
    pub(super) fn undo_to(
        &self,
        revision: u64,
        prefix: &str,
    ) -> Result<BTreeMap<&str, Option<KeyValue>>, StoreError> {
        let newer = self
            .since(revision + 1)
            .map_err(|_| StoreError::Compacted { asked: revision, oldest: self.complete_after })?;
        let mut old = BTreeMap::new();
        for event in newer.filter(|event| event.key.starts_with(prefix)) {
            // The first change after the revision knows the value of that time.
            old.entry(event.key.as_str()).or_insert_with(|| event.previous.clone());
        }
        Ok(old)
    }
}

fn weight(event: &Event) -> usize {
    let value = |kv: &Option<KeyValue>| kv.as_ref().map_or(0, |kv| kv.value.len());
    128 + 3 * event.key.len() + value(&event.current) + value(&event.previous)
}

/// One running watch. It holds no events: it reads the shared history, so a slow one costs nothing.
pub(super) struct Watcher {
    state: Arc<RwLock<State>>,
    published: watch::Receiver<u64>,
    prefix: String,
    next: u64,
}

impl Watcher {
    pub(super) fn new(
        state: Arc<RwLock<State>>,
        published: watch::Receiver<u64>,
        prefix: String,
        next: u64,
    ) -> Self {
        Self { state, published, prefix, next }
    }

    pub(super) fn into_stream(self) -> impl Stream<Item = Result<WatchBatch, WatchError>> {
        futures::stream::unfold(Some(self), |watcher| async move {
            let mut watcher = watcher?;
            match watcher.next_batch().await {
                Ok(batch) => Some((Ok(batch), Some(watcher))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    async fn next_batch(&mut self) -> Result<WatchBatch, WatchError> {
        let next = self.next;
        if self.published.wait_for(|revision| *revision >= next).await.is_err() {
            return Err(WatchError::Cut("the store is closed".to_string()));
        }
        let state = self.state.read();
        let mut events: Vec<Event> = Vec::new();
        let mut reached = state.revision;
        let mut last = 0;
        for (seen, event) in state.history.since(self.next)?.enumerate() {
            if seen >= BATCH && event.revision != last {
                reached = last;
                break;
            }
            last = event.revision;
            if event.key.starts_with(&self.prefix) {
                events.push(event.clone());
            }
        }
        self.next = reached + 1;
        Ok(WatchBatch { events, revision: reached })
    }
}
