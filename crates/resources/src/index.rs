//! Sets of things by the texts that they hold themselves, so that no copy of a key stands beside each.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Bound;

use crate::object::Object;

/// What has a place in an index: up to three texts, compared in turn.
pub trait Keyed {
    /// The texts.
    fn key(&self) -> Place<'_>;
}

/// A place in an index; of an object its namespace, empty for cluster-scoped kinds, and its name.
pub type Place<'a> = [&'a str; 3];

/// A sorted set of which no two have one place.
#[derive(Clone, Debug)]
pub struct Index<T>(BTreeSet<Slot<T>>);

#[derive(Clone, Debug)]
struct Slot<T>(T);

impl<T> Default for Index<T> {
    fn default() -> Self {
        Self(BTreeSet::new())
    }
}

impl<T: Keyed> Index<T> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is at a place.
    #[must_use]
    pub fn get(&self, place: Place<'_>) -> Option<&T> {
        self.0.get(&place as &dyn Keyed).map(|slot| &slot.0)
    }

    /// Puts something in its place, and returns what was there.
    pub fn insert(&mut self, value: T) -> Option<T> {
        self.0.replace(Slot(value)).map(|slot| slot.0)
    }

    /// Takes out what is at a place.
    pub fn remove(&mut self, place: Place<'_>) -> Option<T> {
        self.0.take(&place as &dyn Keyed).map(|slot| slot.0)
    }

    /// All in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|slot| &slot.0)
    }

    /// All from the first that is not before `place`, in order.
    pub fn from(&self, place: Place<'_>) -> impl Iterator<Item = &T> + use<'_, T> {
        let start: &dyn Keyed = &place;
        self.0.range::<dyn Keyed, _>((Bound::Included(start), Bound::Unbounded)).map(|slot| &slot.0)
    }

    /// Gives up the room that is kept for more: what came in order, one by one, takes nearly twice what it needs.
    pub fn compact(&mut self) {
        self.0 = std::mem::take(&mut self.0).into_iter().collect();
    }
}

/// Of several with one place the last counts.
impl<T: Keyed> FromIterator<T> for Index<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        Self(values.into_iter().map(Slot).collect())
    }
}

impl Keyed for Place<'_> {
    fn key(&self) -> Place<'_> {
        *self
    }
}

impl Keyed for Object {
    fn key(&self) -> Place<'_> {
        let meta = self.meta();
        [meta.namespace_str(), &meta.name, ""]
    }
}

impl<T: Keyed> Keyed for Slot<T> {
    fn key(&self) -> Place<'_> {
        self.0.key()
    }
}

impl<'a, T: Keyed + 'a> Borrow<dyn Keyed + 'a> for Slot<T> {
    fn borrow(&self) -> &(dyn Keyed + 'a) {
        self
    }
}

impl PartialEq for dyn Keyed + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<T: Keyed> PartialEq for Slot<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for dyn Keyed + '_ {}
impl<T: Keyed> Eq for Slot<T> {}

impl PartialOrd for dyn Keyed + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Keyed> PartialOrd for Slot<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for dyn Keyed + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl<T: Keyed> Ord for Slot<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Named(&'static str, &'static str, u8);

    impl Keyed for Named {
        fn key(&self) -> Place<'_> {
            [self.0, self.1, ""]
        }
    }

    #[test]
    fn the_last_of_a_place_counts_and_prefixes_are_runs() {
        let mut index: Index<Named> =
            [Named("b", "x", 1), Named("a", "y", 2), Named("b", "x", 3)].into_iter().collect();
        assert_eq!(index.len(), 2);
        assert_eq!(index.get(["b", "x", ""]), Some(&Named("b", "x", 3)));
        assert_eq!(index.insert(Named("b", "x", 4)), Some(Named("b", "x", 3)));
        index.insert(Named("b", "a", 5));
        index.compact();
        let of_b: Vec<u8> =
            index.from(["b", "", ""]).take_while(|one| one.0 == "b").map(|one| one.2).collect();
        assert_eq!(of_b, [5, 4]);
        assert_eq!(index.remove(["a", "y", ""]), Some(Named("a", "y", 2)));
        assert_eq!(index.remove(["a", "y", ""]), None);
        assert_eq!(index.iter().count(), 2);
    }
}
