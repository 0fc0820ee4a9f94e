//! Last-good resources on disk: an agent restarts into the state it had, with every control plane gone.

mod file;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use isthmus_lifecycle::Signal;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// One remembered resource.
pub use isthmus_xds::Upsert as Entry;

use crate::data::{DataDir, DataError};
use file::Contents;

/// Name of its file.
pub const FILE: &str = "resources.bin";

/// Changes within this time are written together.
const SETTLE: Duration = Duration::from_millis(500);
/// A mesh this large is not kept; the agent says so.
const LARGEST: usize = 512 * 1024 * 1024;
/// Bytes of resources whose reading or writing leaves memory to a thread that it may not soon use again: it goes back at once.
pub(crate) const MUCH: usize = 1024 * 1024;

/// By type, in the order of their names: there may be tens of thousands, and lists have no room to spare between them.
type Types = BTreeMap<Arc<str>, Vec<Entry>>;

/// Remembers resources by type and name. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ResourceCache {
    data: DataDir,
    owner: Arc<str>,
    types: Arc<Mutex<Types>>,
    changed: Arc<Notify>,
}

impl ResourceCache {
    /// Reads what an earlier run left. `owner` says whose resources they are: those of another are not used. A damaged
    /// file is reported and not used.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn open(data: &DataDir, owner: &str) -> Result<Self, DataError> {
        let mut types = Types::new();
        if let Some(file) = data.open_file(FILE)? {
            match file::read(file).map_err(|source| DataError::Io { path: data.file(FILE), source })? {
                Some((of, read)) if of == owner => types = read,
                Some((was, _)) => {
                    tracing::info!(%was, now = %owner, "last-good resources of another workload, not used");
                }
                None => {
                    tracing::warn!(file = %data.file(FILE).display(), "last-good resources are damaged, not used");
                }
            }
        }
        Ok(Self {
            data: data.clone(),
            owner: owner.into(),
            types: Arc::new(Mutex::new(types)),
            changed: Arc::default(),
        })
    }

    /// What is remembered of one type, in name order.
    #[must_use]
    pub fn entries(&self, type_url: &str) -> Vec<Entry> {
        self.types.lock().get(type_url).cloned().unwrap_or_default()
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.types.lock().values().all(Vec::is_empty)
    }

    /// Remembers a change. Only what was accepted belongs here.
    pub fn change(&self, type_url: &str, upserts: Vec<Entry>, removed: &[Arc<str>]) {
        let mut types = self.types.lock();
        let entries = types.entry(type_url.into()).or_default();
        if !removed.is_empty() {
            let removed: HashSet<&str> = removed.iter().map(|name| &**name).collect();
            entries.retain(|entry| !removed.contains(&*entry.name));
        }
        put(entries, upserts);
        drop(types);
        self.changed.notify_one();
    }

    /// Writes changes as they settle, until told to stop; then once more.
    pub async fn keep(self, stop: Signal) {
        loop {
            tokio::select! {
                biased; // the last write happens below
                () = stop.stopping() => break,
                () = self.changed.notified() => {}
            }
            tokio::select! {
                () = stop.stopping() => break,
                () = tokio::time::sleep(SETTLE) => {}
            }
            self.flush().await;
        }
        self.flush().await;
    }

    /// Writes what is remembered now.
    pub async fn flush(&self) {
        let cache = self.clone();
        // A join error means that the runtime is going down.
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || cache.write()).await {
            tracing::warn!(%error, "last-good resources not written");
        }
    }

    fn write(&self) -> Result<(), DataError> {
        // Not under the lock: a disk may be slow.
        let types =
            self.types.lock().iter().map(|(url, all)| (Arc::clone(url), all.clone())).collect::<Vec<_>>();
        let contents = Contents { owner: &self.owner, types: &types };
        let length = contents.length();
        if length > LARGEST {
            tracing::warn!(bytes = length, limit = LARGEST, "too many resources to keep on disk");
            return Ok(());
        }
        let written = self.data.write_by(FILE, |file| contents.write(file));
        drop(types);
        if length > MUCH {
            isthmus_process::memory::give_back();
        }
        written
    }
}

/// Puts entries into a list that is in order; of two with one name the last counts.
fn put(list: &mut Vec<Entry>, upserts: Vec<Entry>) {
    let mut new: BTreeMap<Arc<str>, Entry> = BTreeMap::new();
    for entry in upserts {
        match list.binary_search_by(|known| known.name.cmp(&entry.name)) {
            Ok(at) => list[at] = entry,
            Err(_) => drop(new.insert(Arc::clone(&entry.name), entry)),
        }
    }
    if !new.is_empty() {
        list.reserve_exact(new.len());
        list.extend(new.into_values());
        // Two runs, each in order.
        list.sort_by(|a, b| a.name.cmp(&b.name));
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use isthmus_lifecycle::Drain;

    use super::*;

    fn entry(name: &str, body: &'static [u8]) -> Entry {
        Entry { name: name.into(), version: "1".into(), body: Bytes::from_static(body) }
    }

    #[tokio::test]
    async fn what_was_accepted_is_there_after_a_restart() {
        let temporary = tempfile::tempdir().unwrap();
        let data = DataDir::open(temporary.path()).unwrap();
        let cache = ResourceCache::open(&data, "reviews").unwrap();
        cache.change("cds", vec![entry("a", b"1"), entry("b", b"2")], &[]);
        cache.change("cds", vec![entry("b", b"3")], &["a".into()]);
        let drain = Drain::new();
        drain.immediate();
        cache.keep(drain.signal()).await;

        let again = ResourceCache::open(&data, "reviews").unwrap();
        assert_eq!(again.entries("cds"), [entry("b", b"3")]);
        assert!(again.entries("lds").is_empty());
        assert!(ResourceCache::open(&data, "ratings").unwrap().is_empty());
    }

    #[test]
    fn what_is_remembered_is_in_order_and_the_last_word_counts() {
        let temporary = tempfile::tempdir().unwrap();
        let cache = ResourceCache::open(&DataDir::open(temporary.path()).unwrap(), "reviews").unwrap();
        cache.change("cds", vec![entry("c", b"1"), entry("a", b"1"), entry("c", b"2")], &[]);
        cache.change("cds", vec![entry("b", b"1"), entry("a", b"2"), entry("a", b"3")], &["x".into()]);
        assert_eq!(cache.entries("cds"), [entry("a", b"3"), entry("b", b"1"), entry("c", b"2")]);
        cache.change("cds", vec![entry("b", b"2")], &["a".into(), "b".into()]);
        assert_eq!(cache.entries("cds"), [entry("b", b"2"), entry("c", b"2")]);
    }

    #[test]
    fn a_damaged_file_is_not_used() {
        let temporary = tempfile::tempdir().unwrap();
        let data = DataDir::open(temporary.path()).unwrap();
        let cache = ResourceCache::open(&data, "reviews").unwrap();
        cache.change("cds", vec![entry("a", b"1")], &[]);
        cache.write().unwrap();
        let mut bytes = data.read(FILE).unwrap().unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        data.write(FILE, &bytes).unwrap();
        assert!(ResourceCache::open(&data, "reviews").unwrap().is_empty());
        data.write(FILE, &bytes[..bytes.len() - 1]).unwrap();
        assert!(ResourceCache::open(&data, "reviews").unwrap().is_empty());
        data.write(FILE, b"").unwrap();
        assert!(ResourceCache::open(&data, "reviews").unwrap().is_empty());
    }
}
