//! All objects in memory, decoded once, with the recent changes of each collection for watches.

mod collection;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use isthmus_lifecycle::{Backoff, Signal};
use isthmus_store::{KeyValue, Range, Store, StoreError, WatchBatch, WatchError};
use parking_lot::RwLock;
use serde_json::Value;
use tokio::sync::watch;

use crate::kinds::{self, Kinds};
use crate::status::ApiError;

pub(crate) use collection::{Change, Collection, Cursor};

/// Every object's key in the store begins with this.
const ROOT: &str = "registry/";
/// How long a read waits for the cache to reach the store.
const CATCH_UP: Duration = Duration::from_secs(10);

/// One object as stored, with its resource version in its metadata.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) value: Value,
    /// The revision of its last change; of its deletion in a deletion's event.
    pub(crate) revision: u64,
    json: OnceLock<Bytes>,
}

impl Object {
    pub(crate) fn new(mut value: Value, revision: u64) -> Self {
        if let Some(metadata) = value["metadata"].as_object_mut() {
            metadata.insert("resourceVersion".to_string(), revision.to_string().into());
        }
        Self { value, revision, json: OnceLock::new() }
    }

    fn decode(kv: &KeyValue) -> Option<Self> {
        match serde_json::from_slice::<Value>(&kv.value) {
            Ok(value) if value["metadata"].is_object() => Some(Self::new(value, kv.mod_revision)),
            _ => {
                tracing::error!(key = kv.key, "an object in the store is not readable and is left out");
                None
            }
        }
    }

    /// The object's JSON, written once.
    pub(crate) fn json(&self) -> &Bytes {
        self.json.get_or_init(|| Bytes::from(self.value.to_string()))
    }

    pub(crate) fn name(&self) -> &str {
        self.value["metadata"]["name"].as_str().unwrap_or_default()
    }

    pub(crate) fn namespace(&self) -> &str {
        self.value["metadata"]["namespace"].as_str().unwrap_or_default()
    }

    pub(crate) fn uid(&self) -> &str {
        self.value["metadata"]["uid"].as_str().unwrap_or_default()
    }
}

/// The store's key of an object.
pub(crate) fn store_key(collection: &str, key: &str) -> String {
    format!("{ROOT}{collection}/{key}")
}

/// `registry/GROUP/PLURAL/KEY` → (`GROUP/PLURAL`, `KEY`).
fn split(key: &str) -> Option<(&str, &str)> {
    let path = key.strip_prefix(ROOT)?;
    let group = path.find('/')?;
    let plural = group + 1 + path[group + 1..].find('/')?;
    Some((&path[..plural], &path[plural + 1..]))
}

/// All collections.
#[derive(Debug)]
pub(crate) struct Cache {
    store: Arc<dyn Store>,
    kinds: Arc<Kinds>,
    collections: RwLock<HashMap<String, Arc<Collection>>>,
    /// Everything up to this revision is in the collections.
    revision: watch::Sender<u64>,
    /// The revision that everything was read at: a collection met later has had no change since.
    loaded: AtomicU64,
}

impl Cache {
    /// Reads everything.
    pub(crate) async fn load(store: Arc<dyn Store>, kinds: Arc<Kinds>) -> Result<Arc<Self>, StoreError> {
        let (revision, _) = watch::channel(0);
        let loaded = AtomicU64::new(0);
        let cache = Self { store, kinds, collections: RwLock::default(), revision, loaded };
        cache.reload().await?;
        Ok(Arc::new(cache))
    }

    async fn reload(&self) -> Result<(), StoreError> {
        let page = self.store.range(Range { prefix: ROOT.to_string(), ..Range::default() }).await?;
        let mut found: HashMap<String, Vec<(String, Object)>> = HashMap::new();
        for kv in &page.items {
            let Some((collection, key)) = split(&kv.key) else { continue };
            let Some(object) = Object::decode(kv) else { continue };
            found.entry(collection.to_string()).or_default().push((key.to_string(), object));
        }
        for name in self.collections.read().keys() {
            found.entry(name.clone()).or_default();
        }
        for (name, objects) in found {
            self.collection(&name).replace(objects, page.revision);
        }
        self.loaded.store(page.revision, Ordering::Release);
        self.rebuild_kinds();
        self.revision.send_replace(page.revision);
        Ok(())
    }

    fn rebuild_kinds(&self) {
        let crds = self.collection(&kinds::collection("apiextensions.k8s.io", "customresourcedefinitions"));
        self.kinds.rebuild(&crds.list(""));
    }

    /// Follows the store until told to stop.
    pub(crate) async fn follow(self: Arc<Self>, stop: Signal) {
        tokio::select! {
            biased;
            () = stop.stopping() => {}
            () = self.follow_forever() => {}
        }
    }

    async fn follow_forever(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        loop {
            let from = *self.revision.borrow() + 1;
            let ended = match self.store.watch(ROOT, from).await {
                Ok(mut events) => loop {
                    match events.next().await {
                        Some(Ok(batch)) => {
                            backoff.reset();
                            self.apply(batch);
                        }
                        Some(Err(error)) => break error,
                        None => break WatchError::Cut("it ended".to_string()),
                    }
                },
                Err(error) => WatchError::Cut(error.to_string()),
            };
            match ended {
                WatchError::Compacted { .. } => {
                    tracing::warn!(from, "the store no longer has the changes since, reading all again");
                    if let Err(error) = self.reload().await {
                        tracing::warn!(%error, "reading the store failed, serving what was read before");
                    }
                }
                WatchError::Cut(error) => {
                    tracing::warn!(error, "the store's watch was cut, serving what was read before");
                }
            }
            backoff.wait().await;
        }
    }

    fn apply(&self, batch: WatchBatch) {
        let mut crds = false;
        for event in batch.events {
            let Some((name, key)) = split(&event.key) else { continue };
            crds |= name == "apiextensions.k8s.io/customresourcedefinitions";
            let current = event.current.as_ref().and_then(Object::decode).map(Arc::new);
            self.collection(name).apply(key, current, event.revision);
        }
        if crds {
            self.rebuild_kinds();
        }
        self.revision.send_replace(batch.revision);
    }

    /// One collection, empty if nothing was ever in it.
    pub(crate) fn collection(&self, name: &str) -> Arc<Collection> {
        if let Some(collection) = self.collections.read().get(name) {
            return Arc::clone(collection);
        }
        let mut collections = self.collections.write();
        let fresh = || Arc::new(Collection::new(self.loaded.load(Ordering::Acquire)));
        Arc::clone(collections.entry(name.to_string()).or_insert_with(fresh))
    }

    /// The names of all collections.
    pub(crate) fn names(&self) -> Vec<String> {
        self.collections.read().keys().cloned().collect()
    }

    /// How far the cache is.
    pub(crate) fn revision(&self) -> u64 {
        *self.revision.borrow()
    }

    /// Hears of every step of the cache.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Waits until the cache shows every write acknowledged before the call.
    pub(crate) async fn catch_up(&self) -> Result<u64, ApiError> {
        let latest = self.store.revision().await?;
        self.reach(latest).await?;
        Ok(self.revision())
    }

    /// Waits until the cache shows a revision.
    pub(crate) async fn reach(&self, revision: u64) -> Result<(), ApiError> {
        let mut at = self.revision.subscribe();
        match tokio::time::timeout(CATCH_UP, at.wait_for(|at| *at >= revision)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ApiError::internal("the cache is stopped")),
            Err(_) => Err(ApiError::timeout(format!(
                "Too large resource version: {revision}, current: {}",
                self.revision()
            ))),
        }
    }
}
