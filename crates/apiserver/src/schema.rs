//! What a kind's fields are: one tree for Kubernetes' own definitions and for the structural schemas of CRDs.
//!
//! Everything that must know fields reads it: validation, pruning, defaults, strategic merge, server-side apply.

mod build;
mod defaults;
mod prune;
mod rules;
mod validate;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

pub(crate) use build::{Definitions, from_crd};
pub(crate) use defaults::apply_defaults;
pub(crate) use prune::{prune, unknown_fields};
pub(crate) use rules::Rules;
pub(crate) use validate::{go_type_error, validate};

/// A JSON type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

/// How list items are told apart when lists are merged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum ListType {
    /// They are not: the list is one value.
    #[default]
    Atomic,
    /// By their value.
    Set,
    /// By these fields.
    Map(Vec<String>),
}

/// One field, and what is below it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Node {
    /// Any type when absent.
    pub(crate) kind: Option<Type>,
    pub(crate) properties: BTreeMap<String, Arc<Node>>,
    /// What other keys of an object hold.
    pub(crate) additional: Option<Arc<Node>>,
    pub(crate) items: Option<Arc<Node>>,
    pub(crate) list_type: ListType,
    /// An object that is one value when merged.
    pub(crate) map_atomic: bool,
    /// Strategic merge: items are merged by this field; empty for plain values.
    pub(crate) merge_key: Option<String>,
    pub(crate) nullable: bool,
    pub(crate) preserve_unknown: bool,
    pub(crate) int_or_string: bool,
    pub(crate) embedded_resource: bool,
    /// Text that must be base64.
    pub(crate) bytes: bool,
    /// The Go type of a definition, for the words of Kubernetes' decoder.
    pub(crate) go_type: Option<String>,
    pub(crate) default: Option<Value>,
    pub(crate) rules: Option<Box<Rules>>,
}

impl Node {
    /// A field of which nothing is known.
    pub(crate) fn any() -> Self {
        Self { preserve_unknown: true, ..Self::default() }
    }

    /// The node of an object's key.
    pub(crate) fn field(&self, name: &str) -> Option<&Node> {
        self.properties.get(name).or(self.additional.as_ref()).map(Arc::as_ref)
    }

    /// Whether a key is declared, not merely allowed.
    pub(crate) fn declares(&self, name: &str) -> bool {
        self.properties.contains_key(name)
    }

    /// Whether nothing is known of the type, so that it must be guessed from the value.
    pub(crate) fn is_unknown(&self) -> bool {
        self.kind.is_none() && self.properties.is_empty() && self.additional.is_none() && self.items.is_none()
    }
}

/// A field path as Kubernetes prints it: `spec.ports[0].name`.
pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_string() } else { format!("{path}.{key}") }
}
