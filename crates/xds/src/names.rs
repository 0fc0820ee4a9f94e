//! Names that a stream asked for: sorted and shared between streams that ask for the same.

use std::sync::Arc;

/// Sorted names without duplicates. Cloning shares them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names(Option<Arc<[Arc<str>]>>);

impl Names {
    /// Wraps names that are sorted and distinct already.
    pub(crate) fn sorted(names: Arc<[Arc<str>]>) -> Self {
        Self((!names.is_empty()).then_some(names))
    }

    /// The list itself; none of no names.
    pub(crate) fn list(&self) -> Option<&Arc<[Arc<str>]>> {
        self.0.as_ref()
    }

    pub(crate) fn as_slice(&self) -> &[Arc<str>] {
        self.0.as_deref().unwrap_or_default()
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.as_slice().binary_search_by(|known| (**known).cmp(name)).is_ok()
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Arc<str>> {
        self.as_slice().iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.as_slice().len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// These names and some more, sorted.
    pub(crate) fn with(&self, more: Vec<Arc<str>>) -> Vec<Arc<str>> {
        let mut all = self.as_slice().to_vec();
        all.extend(more);
        all.sort_unstable();
        all.dedup();
        all
    }

    /// These names without some.
    pub(crate) fn without(&self, gone: &[String]) -> Vec<Arc<str>> {
        let gone: std::collections::HashSet<&str> = gone.iter().map(String::as_str).collect();
        self.iter().filter(|name| !gone.contains(&***name)).cloned().collect()
    }
}
