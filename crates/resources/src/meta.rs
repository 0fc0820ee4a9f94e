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
    pub uid: Arc<str>,
    /// Version of this state; opaque.
    pub resource_version: Arc<str>,
    /// Counts changes of the specification.
    pub generation: i64,
    /// Labels.
    pub labels: Labels,
    /// Annotations, less `kubectl.kubernetes.io/last-applied-configuration`.
    pub annotations: Labels,
    /// Creation, seconds since the Unix epoch; 0 when unknown.
    pub created: i64,
    /// Whether deletion was asked for and finalizers are still at work.
    pub deleting: bool,
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
    resource_version: String,
    generation: i64,
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
            uid: self.uid.into(),
            resource_version: self.resource_version.into(),
            generation: self.generation,
            labels: self.labels.into_iter().collect(),
            annotations: self.annotations.into_iter().collect(),
            created: self.creation_timestamp.map_or(0, jiff::Timestamp::as_second),
            deleting: self.deletion_timestamp.is_some(),
        }
    }
}
