//! Last-good resources on disk: an agent restarts into the state it had, with every control plane gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isthmus_lifecycle::Signal;
use isthmus_proto::resource::fnv1a;
use parking_lot::Mutex;
use prost::{Message, encoding};
use tokio::sync::Notify;

use crate::data::{DataDir, DataError};

/// Name of its file.
pub const FILE: &str = "resources.bin";

/// Changes within this time are written together.
const SETTLE: Duration = Duration::from_millis(500);
/// A mesh this large is not kept; the agent says so.
const LARGEST: usize = 512 * 1024 * 1024;
/// What the file begins with.
const MAGIC: &[u8; 8] = b"isthmus1";

/// One remembered resource.
#[derive(Clone, PartialEq, Message)]
pub struct Entry {
    /// Name on the wire.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Version that the control plane gave it.
    #[prost(string, tag = "2")]
    pub version: String,
    /// Encoded message.
    #[prost(bytes = "bytes", tag = "3")]
    pub body: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct OneType {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(message, repeated, tag = "2")]
    entries: Vec<Entry>,
}

#[derive(Clone, PartialEq, Message)]
struct Contents {
    #[prost(string, tag = "1")]
    owner: String,
    #[prost(message, repeated, tag = "2")]
    types: Vec<OneType>,
}

type Types = BTreeMap<Arc<str>, BTreeMap<Arc<str>, Kept>>;

/// An entry as it is held, under its name: there may be tens of thousands.
#[derive(Debug)]
struct Kept {
    version: Box<str>,
    body: Bytes,
}

impl Kept {
    fn entry(&self, name: &str) -> Entry {
        Entry { name: name.to_string(), version: self.version.to_string(), body: self.body.clone() }
    }
}

impl From<Entry> for Kept {
    fn from(entry: Entry) -> Self {
        Self { version: entry.version.into(), body: entry.body }
    }
}

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
        if let Some(bytes) = data.read(FILE)? {
            match decode(&bytes) {
                Some(contents) if contents.owner == owner => types = contents.into_types(),
                Some(contents) => {
                    tracing::info!(was = %contents.owner, now = %owner, "last-good resources of another workload, not used");
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
        let types = self.types.lock();
        let entries = types.get(type_url).into_iter().flatten();
        entries.map(|(name, kept)| kept.entry(name)).collect()
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.types.lock().values().all(BTreeMap::is_empty)
    }

    /// Remembers a change. Only what was accepted belongs here.
    pub fn change(&self, type_url: &str, upserts: Vec<Entry>, removed: &[Arc<str>]) {
        let mut types = self.types.lock();
        let of_type = types.entry(type_url.into()).or_default();
        for name in removed {
            of_type.remove(name);
        }
        for entry in upserts {
            of_type.insert(entry.name.as_str().into(), entry.into());
        }
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
        let written = tokio::task::spawn_blocking(move || {
            let bytes = cache.encode();
            if bytes.len() > LARGEST {
                tracing::warn!(bytes = bytes.len(), limit = LARGEST, "too many resources to keep on disk");
                return Ok(());
            }
            cache.data.write(FILE, &bytes)
        });
        // A join error means that the runtime is going down.
        if let Ok(Err(error)) = written.await {
            tracing::warn!(%error, "last-good resources not written");
        }
    }

    /// [`Contents`] behind a checksum, written piece by piece: a copy of all of it at a time is enough.
    fn encode(&self) -> Vec<u8> {
        let types = self.types.lock();
        let mut out = Vec::with_capacity(MAGIC.len() + 8);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[0; 8]);
        let begins = out.len();
        encoding::string::encode(1, &self.owner.to_string(), &mut out);
        for (type_url, entries) in types.iter() {
            let type_url = type_url.to_string();
            let all = || entries.iter().map(|(name, kept)| kept.entry(name));
            let length: usize = all().map(|entry| encoding::message::encoded_len(2, &entry)).sum();
            encoding::encode_key(2, encoding::WireType::LengthDelimited, &mut out);
            encoding::encode_varint((encoding::string::encoded_len(1, &type_url) + length) as u64, &mut out);
            encoding::string::encode(1, &type_url, &mut out);
            out.reserve(length);
            all().for_each(|entry| encoding::message::encode(2, &entry, &mut out));
        }
        drop(types);
        let checksum = fnv1a(&out[begins..]).to_be_bytes();
        out[MAGIC.len()..begins].copy_from_slice(&checksum);
        out
    }
}

impl Contents {
    fn into_types(self) -> Types {
        let entries = |one: OneType| {
            let by_name = one.entries.into_iter().map(|entry| (Arc::from(entry.name.as_str()), entry.into()));
            (Arc::from(one.type_url.as_str()), by_name.collect())
        };
        self.types.into_iter().map(entries).collect()
    }
}

fn decode(bytes: &[u8]) -> Option<Contents> {
    let (checksum, body) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<8>()?;
    if fnv1a(body) != u64::from_be_bytes(*checksum) {
        return None;
    }
    Contents::decode(body).ok()
}

#[cfg(test)]
mod tests {
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
    fn the_file_is_the_message_that_it_is_read_as() {
        let temporary = tempfile::tempdir().unwrap();
        let data = DataDir::open(temporary.path()).unwrap();
        let cache = ResourceCache::open(&data, "reviews").unwrap();
        cache.change("cds", vec![entry("a", b"1"), entry("b", &[7; 300])], &[]);
        cache.change("lds", vec![], &[]);
        let one = |type_url: &str, entries| OneType { type_url: type_url.into(), entries };
        let types = vec![one("cds", vec![entry("a", b"1"), entry("b", &[7; 300])]), one("lds", vec![])];
        let contents = Contents { owner: "reviews".into(), types };
        assert_eq!(cache.encode()[16..], contents.encode_to_vec());
        assert_eq!(decode(&cache.encode()), Some(contents));
    }

    #[test]
    fn a_damaged_file_is_not_used() {
        let temporary = tempfile::tempdir().unwrap();
        let data = DataDir::open(temporary.path()).unwrap();
        let cache = ResourceCache::open(&data, "reviews").unwrap();
        cache.change("cds", vec![entry("a", b"1")], &[]);
        let mut bytes = cache.encode();
        assert!(decode(&bytes).is_some());
        *bytes.last_mut().unwrap() ^= 1;
        data.write(FILE, &bytes).unwrap();
        assert!(ResourceCache::open(&data, "reviews").unwrap().is_empty());
        data.write(FILE, b"").unwrap();
        assert!(ResourceCache::open(&data, "reviews").unwrap().is_empty());
    }
}
