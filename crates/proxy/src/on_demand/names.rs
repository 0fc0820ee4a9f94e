//! Which server names may pass: hashes of eight bytes, in shards by their first byte.

use std::collections::HashMap;

use isthmus_proto::discovery::ExportedNames;
use parking_lot::RwLock;
use tokio::sync::Notify;

use crate::resource::{Checked, Invalid, decode};

/// One table; a shard that is absent is not known yet, which is not the same as empty.
type Table = HashMap<u8, Box<[u64]>>;

/// Tables by name.
#[derive(Default)]
pub(crate) struct Names {
    tables: RwLock<HashMap<Box<str>, Table>>,
    changed: Notify,
}

impl Names {
    /// Whether a table has a hash; none while its shard is not known.
    pub(crate) fn has(&self, table: &str, hash: u64) -> Option<bool> {
        let tables = self.tables.read();
        let shard = tables.get(table)?.get(&first_byte(hash))?;
        Some(shard.binary_search(&hash).is_ok())
    }

    /// As [`Names::has`], once the shard is known.
    pub(crate) async fn known(&self, table: &str, hash: u64) -> bool {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(known) = self.has(table, hash) {
                return known;
            }
            changed.await;
        }
    }

    /// Takes a shard over.
    pub(crate) fn put(&self, name: &str, bytes: &[u8]) -> Checked<()> {
        let (table, shard) = place(name)?;
        let ExportedNames { mut hashes } = decode(bytes)?;
        if let Some(stray) = hashes.iter().find(|hash| first_byte(**hash) != shard) {
            return Err(Invalid::new(
                "hashes",
                format!("{stray:016x} does not belong into shard {shard:02x}"),
            ));
        }
        hashes.sort_unstable();
        self.tables.write().entry(table.into()).or_default().insert(shard, hashes.into());
        self.changed.notify_waiters();
        Ok(())
    }

    /// Forgets a shard: it is unknown again.
    pub(crate) fn remove(&self, name: &str) {
        let Ok((table, shard)) = place(name) else { return };
        let mut tables = self.tables.write();
        let Some(shards) = tables.get_mut(table) else { return };
        shards.remove(&shard);
        if shards.is_empty() {
            tables.remove(table);
        }
    }

    /// Names in all tables.
    pub(crate) fn count(&self) -> usize {
        self.tables.read().values().flat_map(HashMap::values).map(|shard| shard.len()).sum()
    }
}

fn first_byte(hash: u64) -> u8 {
    hash.to_be_bytes()[0]
}

fn place(name: &str) -> Checked<(&str, u8)> {
    let parsed = name.rsplit_once('/').and_then(|(table, shard)| {
        let number = (shard.len() == 2).then(|| u8::from_str_radix(shard, 16).ok()).flatten()?;
        Some((table, number))
    });
    parsed.ok_or_else(|| Invalid::new("name", format!("{name:?} is not of the form TABLE/SHARD")))
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    fn shard(hashes: &[u64]) -> Vec<u8> {
        ExportedNames { hashes: hashes.to_vec() }.encode_to_vec()
    }

    #[test]
    fn a_shard_that_has_not_come_is_unknown_and_an_empty_one_has_nothing() {
        let names = Names::default();
        let (here, there) = (0x0a00_0000_0000_0001, 0x0b00_0000_0000_0001);
        assert_eq!(names.has("all", here), None);
        names.put("all/0a", &shard(&[here + 5, here])).unwrap();
        names.put("all/0b", &shard(&[])).unwrap();
        assert_eq!(names.has("all", here), Some(true));
        assert_eq!(names.has("all", here + 1), Some(false));
        assert_eq!(names.has("all", there), Some(false));
        assert_eq!(names.has("other", here), None);
        names.remove("all/0a");
        assert_eq!(names.has("all", here), None);
        assert_eq!(names.count(), 0);
    }

    #[test]
    fn a_bad_shard_is_refused_and_the_one_in_force_stays() {
        let names = Names::default();
        names.put("all/0a", &shard(&[0x0a00_0000_0000_0001])).unwrap();
        let stray = names.put("all/0a", &shard(&[0x0b00_0000_0000_0001])).unwrap_err().to_string();
        assert_eq!(stray, "hashes: 0b00000000000001 does not belong into shard 0a");
        assert!(names.put("all/0a", &[0xff]).is_err());
        assert!(names.put("0a", &shard(&[])).is_err());
        assert!(names.put("all/a", &shard(&[])).is_err());
        assert_eq!(names.has("all", 0x0a00_0000_0000_0001), Some(true));
    }
}
