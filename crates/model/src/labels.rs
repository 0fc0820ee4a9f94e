//! Labels and equality selectors.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::shared::{shared, shared_set};

/// A label set; cloning shares it, and equal ones are stored once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Labels(Arc<BTreeMap<Arc<str>, Arc<str>>>);

impl Labels {
    /// The value of a label.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|v| &**v)
    }

    /// All pairs in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (&**k, &**v))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// A set with these pairs over the present ones.
    #[must_use]
    pub fn with<K, V>(&self, pairs: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: AsRef<str> + Into<Arc<str>>,
        V: AsRef<str> + Into<Arc<str>>,
    {
        let mut map = (*self.0).clone();
        map.extend(pairs.into_iter().map(|(k, v)| (shared(k), shared(v))));
        Self(shared_set(map))
    }
}

impl<K, V> FromIterator<(K, V)> for Labels
where
    K: AsRef<str> + Into<Arc<str>>,
    V: AsRef<str> + Into<Arc<str>>,
{
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(shared_set(pairs.into_iter().map(|(k, v)| (shared(k), shared(v))).collect()))
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
    fn a_selector_matches_when_all_its_pairs_are_there() {
        let labels: Labels = [("app", "reviews"), ("version", "v2")].into_iter().collect();
        let selector = |pairs: &[(&'static str, &'static str)]| Selector(pairs.iter().copied().collect());
        assert!(selector(&[("app", "reviews")]).matches(&labels));
        assert!(selector(&[]).matches(&labels));
        assert!(!selector(&[("app", "reviews"), ("version", "v3")]).matches(&labels));
    }
}
