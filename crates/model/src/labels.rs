//! Labels and equality selectors.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::shared::{Pool, shared};

static SETS: LazyLock<Pool<Set>> = LazyLock::new(Pool::default);
static NONE: LazyLock<Labels> = LazyLock::new(|| Labels::of(BTreeMap::new()));

/// A label set; cloning shares it, and equal ones are stored once.
#[derive(Clone)]
pub struct Labels(Arc<Set>);

type Pair = (Arc<str>, Arc<str>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Set {
    /// Sorted by key.
    Pairs(Box<[Pair]>),
    /// The pairs of two sets of the first form that have no key in common.
    Joined(Labels, Labels),
}

impl Labels {
    fn of(pairs: BTreeMap<Arc<str>, Arc<str>>) -> Self {
        Self(SETS.one(Set::Pairs(pairs.into_iter().collect())))
    }

    /// The pairs of both sets that it may be made of.
    fn parts(&self) -> (&[Pair], &[Pair]) {
        match &*self.0 {
            Set::Pairs(pairs) => (pairs, &[]),
            Set::Joined(one, two) => (one.parts().0, two.parts().0),
        }
    }

    fn pairs(&self) -> impl Iterator<Item = &Pair> {
        let (mut one, mut two) = self.parts();
        std::iter::from_fn(move || {
            let next = match (one.first(), two.first()) {
                (Some(first), Some(second)) if second.0 < first.0 => &mut two,
                (None, _) => &mut two,
                _ => &mut one,
            };
            next.split_off_first()
        })
    }

    /// The value of a label.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let find = |pairs: &'_ [Pair]| pairs.binary_search_by(|(known, _)| (**known).cmp(key)).ok();
        let (one, two) = self.parts();
        let (_, value) = find(one).map(|at| &one[at]).or_else(|| find(two).map(|at| &two[at]))?;
        Some(value)
    }

    /// All pairs in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs().map(|(k, v)| (&**k, &**v))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        let (one, two) = self.parts();
        one.len() + two.len()
    }

    /// A set with these pairs over the present ones.
    #[must_use]
    pub fn with<K, V>(&self, pairs: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: AsRef<str> + Into<Arc<str>>,
        V: AsRef<str> + Into<Arc<str>>,
    {
        let mut map: BTreeMap<Arc<str>, Arc<str>> = self.pairs().cloned().collect();
        map.extend(pairs.into_iter().map(|(k, v)| (shared(k), shared(v))));
        Self::of(map)
    }

    /// A set with the pairs of another over the present ones, which holds no copy of either where they have no key in common: what
    /// many sets have in part, such as the node of each of a service's pods, is then stored once.
    #[must_use]
    pub fn joined(&self, other: &Self) -> Self {
        let joins = |labels: &Self| matches!(*labels.0, Set::Pairs(_));
        if other.is_empty() {
            return self.clone();
        }
        if !joins(self) || !joins(other) || other.iter().any(|(key, _)| self.get(key).is_some()) {
            return self.with(other.pairs().cloned());
        }
        Self(SETS.one(Set::Joined(self.clone(), other.clone())))
    }
}

impl Default for Labels {
    fn default() -> Self {
        NONE.clone()
    }
}

impl std::fmt::Debug for Labels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl PartialEq for Labels {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.pairs().eq(other.pairs())
    }
}

impl Eq for Labels {}

impl Hash for Labels {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_usize(self.len());
        self.pairs().for_each(|pair| pair.hash(state));
    }
}

impl PartialOrd for Labels {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Labels {
    fn cmp(&self, other: &Self) -> Ordering {
        if Arc::ptr_eq(&self.0, &other.0) { Ordering::Equal } else { self.pairs().cmp(other.pairs()) }
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(BTreeMap::<String, String>::deserialize(deserializer)?.into_iter().collect())
    }
}

impl<K, V> FromIterator<(K, V)> for Labels
where
    K: AsRef<str> + Into<Arc<str>>,
    V: AsRef<str> + Into<Arc<str>>,
{
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self::of(pairs.into_iter().map(|(k, v)| (shared(k), shared(v))).collect())
    }
}

/// Equality selector: every pair must be among the labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Selector(pub Labels);

impl Selector {
    /// Whether all pairs are among `labels`. An empty selector matches everything: where Kubernetes reads it as nothing
    /// (a Service without a selector), ask [`Selector::is_empty`] first.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// Whether it has no pair.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_its_pairs_however_it_was_made() {
        let hash = |labels: &Labels| {
            let mut hasher = std::hash::DefaultHasher::new();
            labels.hash(&mut hasher);
            hasher.finish()
        };
        let base: Labels = [("a", "1"), ("c", "3")].into_iter().collect();
        let sets: [&[(&str, &str)]; 4] =
            [&[("b", "2")], &[("d", "4")], &[("", "0")], &[("0", "0"), ("b", "2"), ("d", "4")]];
        for pairs in sets {
            let other: Labels = pairs.iter().copied().collect();
            let (whole, joined) = (base.with(pairs.iter().copied()), base.joined(&other));
            assert_eq!(whole, joined);
            assert_eq!(whole.cmp(&joined), Ordering::Equal);
            assert_eq!(hash(&whole), hash(&joined));
            assert!(whole.iter().eq(joined.iter()) && joined.len() == 2 + pairs.len());
            assert!(
                pairs.iter().all(|(key, value)| joined.get(key) == Some(*value))
                    && joined.get("c") == Some("3")
            );
            assert_ne!(joined, base);
            assert!(Arc::ptr_eq(&joined.0, &base.joined(&other).0), "stored once");
        }
        let over: Labels = [("a", "2"), ("b", "2")].into_iter().collect();
        assert_eq!(base.joined(&over), base.with([("a", "2"), ("b", "2")]), "the new value counts");
        assert_eq!(base.joined(&over).joined(&base), base.with([("b", "2")]));
        assert_eq!(base.joined(&Labels::default()), base);
        assert!(Labels::default().is_empty() && base.get("x").is_none());
    }

    #[test]
    fn a_selector_matches_when_all_its_pairs_are_there() {
        let labels: Labels = [("app", "reviews"), ("version", "v2")].into_iter().collect();
        let selector = |pairs: &[(&'static str, &'static str)]| Selector(pairs.iter().copied().collect());
        assert!(selector(&[("app", "reviews")]).matches(&labels));
        assert!(selector(&[]).matches(&labels));
        assert!(!selector(&[("app", "reviews"), ("version", "v3")]).matches(&labels));
    }
}
