//! The kinds that are served: Kubernetes' own and those of CRDs, found by path.

mod builtin;
pub(crate) mod crd;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;
use serde_json::Value;

use crate::cache::Object;
use crate::schema::{Definitions, Node};

pub(crate) use builtin::Builtin;

/// One column of a table, from a CRD.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) format: String,
    pub(crate) description: String,
    pub(crate) priority: i64,
    pub(crate) path: String,
}

/// One served version of a kind.
#[derive(Debug)]
pub(crate) struct Kind {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) list_kind: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) namespaced: bool,
    pub(crate) status: bool,
    /// Whether `metadata.generation` counts changes of the spec.
    pub(crate) generation: bool,
    /// One of Kubernetes' own, with rules in code.
    pub(crate) builtin: Option<Builtin>,
    /// The version that is stored.
    pub(crate) storage_version: String,
    pub(crate) schema: Arc<Node>,
    /// The OpenAPI definition: a name among Kubernetes' own, or a CRD's schema.
    pub(crate) definition: Definition,
    pub(crate) columns: Vec<Column>,
    pub(crate) deprecation: Option<String>,
    /// uid and resource version of the CRD.
    origin: (String, u64),
}

/// Where a kind's OpenAPI comes from.
#[derive(Debug)]
pub(crate) enum Definition {
    Builtin(&'static str),
    Crd(Value),
}

impl Kind {
    /// `v1`, `networking.istio.io/v1`.
    pub(crate) fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// `services`, `leases.coordination.k8s.io`.
    pub(crate) fn group_resource(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// The collection that its objects are kept in, the same for all versions.
    pub(crate) fn collection(&self) -> String {
        collection(&self.group, &self.plural)
    }

    /// The key of one object in its collection.
    pub(crate) fn key(&self, namespace: &str, name: &str) -> String {
        if self.namespaced { format!("{namespace}/{name}") } else { name.to_string() }
    }

    /// Kinds that are asked and answered, and never kept.
    pub(crate) fn is_virtual(&self) -> bool {
        self.builtin.is_some_and(Builtin::is_virtual)
    }

    /// What may be done with it, as discovery lists it.
    pub(crate) fn verbs(&self) -> &'static [&'static str] {
        if self.is_virtual() {
            return &["create"];
        }
        &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
    }
}

pub(crate) fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_string() } else { format!("{group}/{version}") }
}

/// `core/pods`, `networking.istio.io/gateways`.
pub(crate) fn collection(group: &str, plural: &str) -> String {
    format!("{}/{plural}", if group.is_empty() { "core" } else { group })
}

/// All served kinds, by group, version and plural.
pub(crate) type Table = BTreeMap<(String, String, String), Arc<Kind>>;

/// The served kinds, replaced as a whole when a CRD changes.
pub(crate) struct Kinds {
    table: RwLock<Arc<Table>>,
    builtin: Table,
    pub(crate) definitions: Definitions,
    metadata: Arc<Node>,
}

impl std::fmt::Debug for Kinds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kinds").field("served", &self.table.read().len()).finish_non_exhaustive()
    }
}

impl Kinds {
    /// Kubernetes' own only.
    pub(crate) fn new() -> Self {
        let mut definitions = Definitions::load();
        let builtin = builtin::table(&mut definitions);
        let metadata = definitions.node("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
        Self { table: RwLock::new(Arc::new(builtin.clone())), builtin, definitions, metadata }
    }

    /// What is served now.
    pub(crate) fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read())
    }

    /// The kind at a path.
    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        self.table().get(&(group.to_string(), version.to_string(), plural.to_string())).cloned()
    }

    /// Takes over the CRDs as they are now. One whose schema cannot be read is left as it was before.
    pub(crate) fn rebuild(&self, crds: &[Arc<Object>]) {
        let before = self.table();
        let mut table = self.builtin.clone();
        for object in crds {
            let uid = object.value["metadata"]["uid"].as_str().unwrap_or_default().to_string();
            let origin = (uid, object.revision);
            let (group, plural) = crd::names(&object.value);
            let kept = before
                .iter()
                .filter(|((of, _, at), kind)| *of == group && *at == plural && kind.origin == origin);
            let kept: Vec<_> = kept.map(|(path, kind)| (path.clone(), Arc::clone(kind))).collect();
            if kept.is_empty() {
                for kind in crd::served(&object.value, origin, &self.metadata) {
                    let path = (kind.group.clone(), kind.version.clone(), kind.plural.clone());
                    // Kubernetes' own kinds cannot be taken over.
                    table.entry(path).or_insert_with(|| Arc::new(kind));
                }
            } else {
                table.extend(kept);
            }
        }
        *self.table.write() = Arc::new(table);
    }
}
