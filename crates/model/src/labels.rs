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
    /// The pairs of another set, which is of the first form, and one more with a key that it has not.
    And(Labels, Pair),
}

impl Labels {
    fn of(pairs: BTreeMap<Arc<str>, Arc<str>>) -> Self {
        Self(SETS.one(Set::Pairs(pairs.into_iter().collect())))
    }

    /// The set's own pairs with the position at which the one besides belongs among them.
    fn parts(&self) -> (&[Pair], Option<(usize, &Pair)>) {
        match &*self.0 {
            Set::Pairs(pairs) => (pairs, None),
            Set::And(base, more) => {
                let (pairs, _) = base.parts();
                (pairs, Some((pairs.partition_point(|(key, _)| *key < more.0), more)))
            }
        }
    }

    fn pairs(&self) -> impl Iterator<Item = &Pair> {
        let (pairs, more) = self.parts();
        let (before, after) = pairs.split_at(more.map_or(0, |(at, _)| at));
        before.iter().chain(more.map(|(_, pair)| pair)).chain(after)
    }

    /// The value of a label.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        match &*self.0 {
            Set::Pairs(pairs) => {
                let at = pairs.binary_search_by(|(known, _)| (**known).cmp(key)).ok()?;
                Some(&pairs[at].1)
            }
            Set::And(_, (known, value)) if **known == *key => Some(value),
            Set::And(base, _) => base.get(key),
        }
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
        let (pairs, more) = self.parts();
        pairs.len() + usize::from(more.is_some())
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

    /// As [`Labels::with`] for one pair that sets alike do not share, such as the node of each of a service's pods: what they do share
    /// is stored once.
    #[must_use]
    pub fn and(&self, key: &str, value: &str) -> Self {
        if matches!(*self.0, Set::And(..)) || self.get(key).is_some() {
            return self.with([(key, value)]);
        }
        Self(SETS.one(Set::And(self.clone(), (shared(key), shared(value)))))
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
        for (key, value) in [("b", "2"), ("d", "4"), ("", "0")] {
            let (whole, apart) = (base.with([(key, value)]), base.and(key, value));
            assert_eq!(whole, apart);
            assert_eq!(whole.cmp(&apart), Ordering::Equal);
            assert_eq!(hash(&whole), hash(&apart));
            assert!(whole.iter().eq(apart.iter()) && apart.len() == 3 && apart.get(key) == Some(value));
            assert_ne!(apart, base);
            assert!(Arc::ptr_eq(&apart.0, &base.and(key, value).0), "stored once");
        }
        assert_eq!(base.and("a", "2"), base.with([("a", "2")]), "the new value counts");
        assert_eq!(base.and("b", "2").and("d", "4").len(), 4);
        assert!(Labels::default().is_empty() && base.and("b", "2").get("x").is_none());
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
