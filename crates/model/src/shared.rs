//! Equal texts and label sets stored once: of ten thousand pods, most say the same of themselves.
//!
//! What is shared lives as long as somebody holds it, until the next sweep: a table is swept whenever it has doubled, so that it never
//! holds much more than what is alive.

use std::collections::{BTreeMap, HashSet};
use std::hash::Hash;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

/// Entries below which a table is not swept.
const SMALL: usize = 1024;

type Pairs = BTreeMap<Arc<str>, Arc<str>>;

static TEXTS: LazyLock<Mutex<Table<str>>> = LazyLock::new(Mutex::default);
static SETS: LazyLock<Mutex<Table<Pairs>>> = LazyLock::new(Mutex::default);

struct Table<T: ?Sized> {
    known: HashSet<Arc<T>>,
    sweep_at: usize,
}

impl<T: ?Sized + Hash + Eq> Default for Table<T> {
    fn default() -> Self {
        Self { known: HashSet::new(), sweep_at: SMALL }
    }
}

impl<T: ?Sized + Hash + Eq> Table<T> {
    fn put(&mut self, value: Arc<T>) {
        if self.known.len() >= self.sweep_at {
            self.known.retain(|known| Arc::strong_count(known) > 1);
            self.sweep_at = (self.known.len() * 2).max(SMALL);
        }
        self.known.insert(value);
    }
}

/// The one copy of this text. For names that many objects repeat: each call takes a lock for as long as hashing the text takes.
#[must_use]
pub fn shared(text: impl AsRef<str> + Into<Arc<str>>) -> Arc<str> {
    if text.as_ref().is_empty() {
        return Arc::default();
    }
    let mut table = lock(&TEXTS);
    if let Some(known) = table.known.get(text.as_ref()) {
        return Arc::clone(known);
    }
    let text: Arc<str> = text.into();
    table.put(Arc::clone(&text));
    text
}

/// The one copy of this set.
pub(crate) fn shared_set(set: Pairs) -> Arc<Pairs> {
    let mut table = lock(&SETS);
    if let Some(known) = table.known.get(&set) {
        return Arc::clone(known);
    }
    let set = Arc::new(set);
    table.put(Arc::clone(&set));
    set
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A table is whole whatever happened elsewhere.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_one_and_the_dead_are_forgotten() {
        let first = shared("shared-test-a");
        assert!(Arc::ptr_eq(&first, &shared(String::from("shared-test-a"))));
        let mut table = Table::<str>::default();
        for n in 0..10 * SMALL {
            table.put(n.to_string().into());
        }
        assert!(table.known.len() <= SMALL, "{} of the dead are kept", table.known.len());
    }
}
