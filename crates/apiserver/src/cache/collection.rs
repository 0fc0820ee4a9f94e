//! The objects of one kind and their recent changes.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::watch;

use super::Object;

/// Changes kept for watches; a watcher that is further behind must list again.
const HISTORY: usize = 16_384;
/// Changes handed to a watcher at a time, about.
const BATCH: usize = 256;

/// One change of one object.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) revision: u64,
    pub(crate) old: Option<Arc<Object>>,
    /// The object after; after a deletion its last state, with the deletion's revision.
    pub(crate) object: Arc<Object>,
    pub(crate) deleted: bool,
}

/// The objects of one kind.
#[derive(Debug)]
pub(crate) struct Collection {
    inner: RwLock<Inner>,
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    objects: BTreeMap<String, Arc<Object>>,
    history: VecDeque<Arc<Change>>,
    /// Every change after this revision is in the history.
    complete_after: u64,
}

/// The changes asked for are forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expired {
    pub(crate) oldest: u64,
}

impl Collection {
    pub(super) fn new(revision: u64) -> Self {
        let inner = Inner { objects: BTreeMap::new(), history: VecDeque::new(), complete_after: revision };
        Self { inner: RwLock::new(inner), changed: watch::channel(revision).0 }
    }

    /// Takes over a whole new state; what happened in between is unknown, so watchers must list again.
    pub(super) fn replace(&self, objects: Vec<(String, Object)>, revision: u64) {
        let mut inner = self.inner.write();
        inner.objects = objects.into_iter().map(|(key, object)| (key, Arc::new(object))).collect();
        inner.history.clear();
        inner.complete_after = revision;
        drop(inner);
        self.changed.send_replace(revision);
    }

    pub(super) fn apply(&self, key: &str, current: Option<Arc<Object>>, revision: u64) {
        let mut inner = self.inner.write();
        let change = match current {
            Some(object) => {
                let old = inner.objects.insert(key.to_string(), Arc::clone(&object));
                Change { revision, old, object, deleted: false }
            }
            None => {
                let Some(old) = inner.objects.remove(key) else { return };
                let last = Arc::new(Object::new(old.value.clone(), revision));
                Change { revision, old: Some(old), object: last, deleted: true }
            }
        };
        inner.history.push_back(Arc::new(change));
        while inner.history.len() > HISTORY {
            let Some(forgotten) = inner.history.pop_front().map(|change| change.revision) else { break };
            inner.complete_after = forgotten;
        }
        drop(inner);
        self.changed.send_replace(revision);
    }

    /// One object.
    pub(crate) fn get(&self, key: &str) -> Option<Arc<Object>> {
        self.inner.read().objects.get(key).cloned()
    }

    /// The objects whose keys begin so, in order.
    pub(crate) fn list(&self, prefix: &str) -> Vec<Arc<Object>> {
        let inner = self.inner.read();
        let from = inner.objects.range::<str, _>(starting(prefix));
        from.take_while(|(key, _)| key.starts_with(prefix)).map(|(_, object)| Arc::clone(object)).collect()
    }

    /// The objects as they were at a revision, with their keys.
    pub(crate) fn list_at(&self, prefix: &str, revision: u64) -> Result<Vec<(String, Arc<Object>)>, Expired> {
        let inner = self.inner.read();
        if revision < inner.complete_after {
            return Err(Expired { oldest: inner.complete_after });
        }
        let live =
            inner.objects.range::<str, _>(starting(prefix)).take_while(|(key, _)| key.starts_with(prefix));
        let mut objects: BTreeMap<String, Arc<Object>> =
            live.map(|(key, object)| (key.clone(), Arc::clone(object))).collect();
        for change in inner.history.iter().rev().take_while(|change| change.revision > revision) {
            let key = key_of(&change.object);
            if !key.starts_with(prefix) {
                continue;
            }
            match &change.old {
                Some(old) => objects.insert(key, Arc::clone(old)),
                None => objects.remove(&key),
            };
        }
        Ok(objects.into_iter().collect())
    }

    /// Hears of changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// From a prefix on.
fn starting(prefix: &str) -> (Bound<&str>, Bound<&str>) {
    (Bound::Included(prefix), Bound::Unbounded)
}

fn key_of(object: &Object) -> String {
    match object.namespace() {
        "" => object.name().to_string(),
        namespace => format!("{namespace}/{}", object.name()),
    }
}

/// A reader of a collection's changes.
pub(crate) struct Cursor {
    collection: Arc<Collection>,
    /// Changes up to this revision have been read.
    pub(crate) read: u64,
}

impl Cursor {
    pub(crate) fn new(collection: Arc<Collection>, read: u64) -> Self {
        Self { collection, read }
    }

    /// The next changes, some of them; none when all are read.
    pub(crate) fn next(&mut self) -> Result<Vec<Arc<Change>>, Expired> {
        let inner = self.collection.inner.read();
        if self.read < inner.complete_after {
            return Err(Expired { oldest: inner.complete_after });
        }
        let start = inner.history.partition_point(|change| change.revision <= self.read);
        let mut changes: Vec<Arc<Change>> = Vec::new();
        for change in inner.history.range(start..) {
            if changes.len() >= BATCH && change.revision != self.read {
                break;
            }
            self.read = change.revision;
            changes.push(Arc::clone(change));
        }
        Ok(changes)
    }
}
