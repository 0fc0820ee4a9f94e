//! Object metadata, trimmed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use isthmus_model::shared::shared;
use isthmus_model::{Labels, Namespace, NamespacedName};
use serde::Deserialize;

/// Metadata that is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Namespace; none for cluster-scoped kinds.
    pub namespace: Option<Namespace>,
    /// Name.
    pub name: Arc<str>,
    /// Unique for all time; empty for objects that were never stored.
    pub uid: Uid,
    /// Labels.
    pub labels: Labels,
    /// Annotations, less `kubectl.kubernetes.io/last-applied-configuration`.
    pub annotations: Labels,
    /// Creation, seconds since the Unix epoch; 0 when unknown.
    pub created: i64,
    /// Whether deletion was asked for and finalizers are still at work.
    pub deleting: bool,
}

/// An object's unique identifier.
#[derive(Clone, PartialEq, Eq)]
pub struct Uid(Id);

#[derive(Clone, PartialEq, Eq)]
enum Id {
    /// As API servers make them.
    Uuid(uuid::Uuid),
    /// As people do.
    Text(Arc<str>),
}

impl Uid {
    /// An identifier by its text.
    #[must_use]
    pub fn new(text: impl AsRef<str> + Into<Arc<str>>) -> Self {
        let uuid = uuid::Uuid::try_parse(text.as_ref()).ok();
        Self(match uuid.filter(|uuid| uuid.to_string() == text.as_ref()) {
            Some(uuid) => Id::Uuid(uuid),
            None => Id::Text(shared(text)),
        })
    }
}

impl Default for Uid {
    fn default() -> Self {
        Self(Id::Text(Arc::default()))
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Id::Uuid(uuid) => write!(f, "{uuid}"),
            Id::Text(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// One object: its metadata and its content.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resource<S> {
    /// Metadata.
    pub meta: Meta,
    /// Content: the specification, with the few status fields that the mesh reads.
    pub spec: S,
}

impl Meta {
    /// `NAMESPACE/NAME`, for namespaced objects.
    #[must_use]
    pub fn namespaced_name(&self) -> Option<NamespacedName> {
        Some(NamespacedName { namespace: self.namespace.clone()?, name: Arc::clone(&self.name) })
    }

    /// The namespace's text; empty for cluster-scoped objects.
    #[must_use]
    pub fn namespace_str(&self) -> &str {
        self.namespace.as_ref().map_or("", Namespace::as_str)
    }

    /// Whether nothing but the versions differs.
    #[must_use]
    pub fn same_content(&self, other: &Self) -> bool {
        self.uid == other.uid
            && self.labels == other.labels
            && self.annotations == other.annotations
            && self.deleting == other.deleting
            && self.created == other.created
            && self.name == other.name
            && self.namespace == other.namespace
    }

    /// Istio's order of age: creation, then name, then namespace. The first wins conflicts.
    #[must_use]
    pub fn age_key(&self) -> (i64, &str, &str) {
        (self.created, &self.name, self.namespace_str())
    }
}

impl fmt::Display for Meta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// Metadata as the API writes it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct WireMeta {
    pub(crate) namespace: String,
    pub(crate) name: String,
    uid: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    creation_timestamp: Option<jiff::Timestamp>,
    deletion_timestamp: Option<jiff::Timestamp>,
}

impl WireMeta {
    /// Keeps what [`Meta`] keeps.
    pub(crate) fn trimmed(mut self, namespace: Option<Namespace>) -> Meta {
        self.annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        Meta {
            namespace,
            name: shared(self.name),
            uid: Uid::new(self.uid),
            labels: self.labels.into_iter().collect(),
            annotations: self.annotations.into_iter().collect(),
            created: self.creation_timestamp.map_or(0, jiff::Timestamp::as_second),
            deleting: self.deletion_timestamp.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_is_its_text_whatever_its_form() {
        for text in
            ["0fbb21f4-6bd5-4a0e-8c9d-3e1a2b3c4d5e", "0FBB21F4-6bd5-4a0e-8c9d-3e1a2b3c4d5e", "", "by hand"]
        {
            assert_eq!(Uid::new(text).to_string(), text);
        }
        assert_ne!(Uid::new("a"), Uid::new("b"));
        assert!(std::mem::size_of::<Uid>() <= 24);
    }
}
