//! The file: three redb tables, and how a record is written.
//!
//! `keys`: key → create revision, mod revision, lease (each 8 bytes, big endian), then the value.
//! `leases`: number → seconds. `meta`: `revision` → the counter, `lease` → the last lease number.

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::State;
use crate::error::{OpenError, StoreError};
use crate::types::{KeyValue, LeaseId};

const KEYS: TableDefinition<&str, &[u8]> = TableDefinition::new("keys");
const LEASES: TableDefinition<i64, u64> = TableDefinition::new("leases");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const HEADER: usize = 24;

/// The open file.
pub(super) struct Disk {
    database: Database,
}

/// What one commit changes.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) keys: Vec<(String, Option<KeyValue>)>,
    pub(super) leases: Vec<(LeaseId, Option<Duration>)>,
    pub(super) revision: u64,
}

impl Disk {
    pub(super) fn open(path: &Path) -> Result<(Self, State), OpenError> {
        let at = |reason: String| OpenError::File { path: path.to_path_buf(), reason };
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|error| at(error.to_string()))?;
        let backend = FileBackend::new(file).map_err(|error| at(error.to_string()))?;
        let database =
            Database::builder().create_with_backend(backend).map_err(|error| at(error.to_string()))?;
        let disk = Self { database };
        disk.commit(&Changes::default()).map_err(|error| at(error.to_string()))?;
        let state = disk.load(path)?;
        Ok((disk, state))
    }

    fn load(&self, path: &Path) -> Result<State, OpenError> {
        self.read().map_err(|error| match error {
            LoadError::Record(key) => OpenError::Record { path: path.to_path_buf(), key },
            LoadError::Redb(error) => OpenError::File { path: path.to_path_buf(), reason: error.to_string() },
        })
    }

    fn read(&self) -> Result<State, LoadError> {
        let mut state = State::default();
        let read = self.database.begin_read().map_err(redb::Error::from)?;
        let meta = read.open_table(META).map_err(redb::Error::from)?;
        state.revision = meta.get("revision").map_err(redb::Error::from)?.map_or(1, |value| value.value());
        for entry in read.open_table(KEYS).map_err(redb::Error::from)?.iter().map_err(redb::Error::from)? {
            let (key, record) = entry.map_err(redb::Error::from)?;
            let key = key.value().to_string();
            let kv = decode(&key, record.value()).ok_or_else(|| LoadError::Record(key.clone()))?;
            state.keys.insert(key, kv);
        }
        for entry in read.open_table(LEASES).map_err(redb::Error::from)?.iter().map_err(redb::Error::from)? {
            let (lease, seconds) = entry.map_err(redb::Error::from)?;
            state.leases.insert(lease.value(), Duration::from_secs(seconds.value()));
        }
        Ok(state)
    }

    /// Writes and syncs; all of it or nothing.
    pub(super) fn commit(&self, changes: &Changes) -> Result<(), StoreError> {
        self.write(changes).map_err(|error| StoreError::Disk(error.to_string()))
    }

    fn write(&self, changes: &Changes) -> Result<(), redb::Error> {
        let write = self.database.begin_write()?;
        {
            let mut keys = write.open_table(KEYS)?;
            for (key, value) in &changes.keys {
                match value {
                    Some(kv) => keys.insert(key.as_str(), encode(kv).as_slice())?,
                    None => keys.remove(key.as_str())?,
                };
            }
            let mut leases = write.open_table(LEASES)?;
            for (lease, ttl) in &changes.leases {
                match ttl {
                    Some(ttl) => leases.insert(lease, ttl.as_secs())?,
                    None => leases.remove(lease)?,
                };
            }
            let mut meta = write.open_table(META)?;
            if changes.revision > 0 {
                meta.insert("revision", changes.revision)?;
            }
        }
        write.commit()?;
        Ok(())
    }
}

enum LoadError {
    Record(String),
    Redb(redb::Error),
}

impl From<redb::Error> for LoadError {
    fn from(error: redb::Error) -> Self {
        Self::Redb(error)
    }
}

fn encode(kv: &KeyValue) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEADER + kv.value.len());
    record.extend_from_slice(&kv.create_revision.to_be_bytes());
    record.extend_from_slice(&kv.mod_revision.to_be_bytes());
    record.extend_from_slice(&kv.lease.unwrap_or(0).to_be_bytes());
    record.extend_from_slice(&kv.value);
    record
}

fn decode(key: &str, record: &[u8]) -> Option<KeyValue> {
    let number = |at: usize| record.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes);
    let lease = i64::from_be_bytes(record.get(16..24)?.try_into().ok()?);
    Some(KeyValue {
        key: key.to_string(),
        create_revision: number(0)?,
        mod_revision: number(8)?,
        lease: (lease != 0).then_some(lease),
        value: Bytes::copy_from_slice(record.get(HEADER..)?),
    })
}
