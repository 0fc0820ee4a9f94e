//! Equal texts, label sets and the like stored once: of ten thousand pods, most say the same of themselves.
//!
//! What is shared lives as long as somebody holds it, until the next sweep: a pool is swept whenever it has doubled, so that it never
//! holds much more than what is alive.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

/// Entries below which a pool is not swept.
const SMALL: usize = 1024;

static TEXTS: LazyLock<Pool<str>> = LazyLock::new(Pool::default);

/// Values of which equal ones are one.
#[derive(Debug)]
pub struct Pool<T: ?Sized>(Mutex<Table<T>>);

#[derive(Debug)]
struct Table<T: ?Sized> {
    known: HashSet<Arc<T>>,
    sweep_at: usize,
}

impl<T: ?Sized> Default for Pool<T> {
    fn default() -> Self {
        Self(Mutex::new(Table { known: HashSet::new(), sweep_at: SMALL }))
    }
}

impl<T: ?Sized + Hash + Eq> Pool<T> {
    /// The one copy of this value. Takes a lock for as long as hashing the value takes.
    #[must_use]
    pub fn one(&self, value: impl Borrow<T> + Into<Arc<T>>) -> Arc<T> {
        self.known(value.borrow()).unwrap_or_else(|| self.put(value.into()))
    }

    fn known(&self, value: &T) -> Option<Arc<T>> {
        self.table().known.get(value).cloned()
    }

    fn put(&self, value: Arc<T>) -> Arc<T> {
        let mut table = self.table();
        if let Some(known) = table.known.get(&value) {
            return Arc::clone(known);
        }
        if table.known.len() >= table.sweep_at {
            table.known.retain(|known| Arc::strong_count(known) > 1);
            table.sweep_at = (table.known.len() * 2).max(SMALL);
        }
        table.known.insert(Arc::clone(&value));
        value
    }

    fn table(&self) -> MutexGuard<'_, Table<T>> {
        // A table is whole whatever happened elsewhere.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one copy of this text. For names that many objects repeat.
#[must_use]
pub fn shared(text: impl AsRef<str> + Into<Arc<str>>) -> Arc<str> {
    if text.as_ref().is_empty() {
        return Arc::default();
    }
    TEXTS.known(text.as_ref()).unwrap_or_else(|| TEXTS.put(text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_one_and_the_dead_are_forgotten() {
        let first = shared("shared-test-a");
        assert!(Arc::ptr_eq(&first, &shared(String::from("shared-test-a"))));
        let pool = Pool::<str>::default();
        for n in 0..10 * SMALL {
            let _ = pool.one(n.to_string());
        }
        let known = pool.0.lock().unwrap().known.len();
        assert!(known <= SMALL, "{known} of the dead are kept");
    }
}
