//! `managedFields`: reading, writing, and the two ways of changing them.

use serde_json::{Value, json};

use super::fields::{FieldSet, fields_of};
use super::merge::{compare, merge, prune};
use crate::schema::Node;
use crate::status::{ApiError, Cause};

/// Metadata that belongs to the server, never to a manager.
const SERVER_METADATA: [&str; 9] = [
    "name",
    "namespace",
    "creationTimestamp",
    "selfLink",
    "uid",
    "clusterName",
    "generation",
    "managedFields",
    "resourceVersion",
];

/// How fields came to be owned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Apply,
    Update,
}

/// Who writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manager {
    pub(crate) name: String,
    pub(crate) operation: Operation,
    pub(crate) api_version: String,
    pub(crate) subresource: String,
}

#[derive(Debug, Clone)]
struct Entry {
    manager: Manager,
    time: String,
    set: FieldSet,
}

impl Entry {
    fn parse(value: &Value) -> Self {
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_string();
        let operation = if value["operation"] == "Apply" { Operation::Apply } else { Operation::Update };
        let manager = Manager {
            name: text("manager"),
            operation,
            api_version: text("apiVersion"),
            subresource: text("subresource"),
        };
        Self { manager, time: text("time"), set: FieldSet::parse(&value["fieldsV1"]) }
    }

    fn to_value(&self) -> Value {
        let operation = match self.manager.operation {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        };
        let mut value = json!({
            "manager": self.manager.name,
            "operation": operation,
            "apiVersion": self.manager.api_version,
            "time": self.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.set.to_value(),
        });
        if !self.manager.subresource.is_empty() {
            value["subresource"] = self.manager.subresource.clone().into();
        }
        value
    }

    fn printed(&self) -> String {
        let mut text = format!("{:?}", self.manager.name);
        if !self.manager.subresource.is_empty() {
            text = format!("{text} with subresource {:?}", self.manager.subresource);
        }
        if self.manager.operation == Operation::Update {
            text = format!("{text} using {}", self.manager.api_version);
        }
        text
    }
}

fn entries(object: &Value) -> Vec<Entry> {
    object["metadata"]["managedFields"].as_array().into_iter().flatten().map(Entry::parse).collect()
}

/// The object without what no manager owns.
fn ownable(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("apiVersion");
        fields.remove("kind");
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for key in SERVER_METADATA {
            metadata.remove(key);
        }
    }
    object
}

fn without_metadata_itself(mut set: FieldSet) -> FieldSet {
    set.member = false;
    if let Some(metadata) = set.children.get_mut("f:metadata") {
        metadata.member = false;
        if metadata.is_empty() {
            set.children.remove("f:metadata");
        }
    }
    set
}

fn store(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.set.is_empty());
    let rank = |entry: &Entry| (entry.manager.operation == Operation::Update, entry.time.clone());
    entries.sort_by_key(rank);
    if let Some(metadata) = object["metadata"].as_object_mut() {
        if entries.is_empty() {
            metadata.remove("managedFields");
        } else {
            let list = entries.iter().map(Entry::to_value).collect();
            metadata.insert("managedFields".to_string(), Value::Array(list));
        }
    }
}

/// Notes that a manager has changed an object by other means than apply: it owns what it changed.
///
/// `old` is nothing for a creation. A client may empty the list to start over; otherwise what it sends is ignored.
pub(crate) fn track_update(old: Option<&Value>, new: &mut Value, node: &Node, manager: &Manager, now: &str) {
    let reset = old.is_some()
        && new["metadata"]["managedFields"].as_array().is_some_and(|list| {
            list.is_empty()
                || list.iter().all(|entry| entry.as_object().is_some_and(serde_json::Map::is_empty))
        });
    let mut list = old.filter(|_| !reset).map(entries).unwrap_or_default();
    let before = old.map_or_else(|| json!({"metadata": {}}), ownable);
    let mut difference = compare(&before, &ownable(new), Some(node));
    difference.changed = without_metadata_itself(difference.changed);
    if reset {
        difference.changed = FieldSet::default();
    }
    for entry in &mut list {
        if entry.manager != *manager {
            entry.set = entry.set.difference(&difference.changed);
        }
        entry.set = entry.set.difference(&difference.removed);
    }
    if !difference.changed.is_empty() {
        match list.iter_mut().find(|entry| entry.manager == *manager) {
            Some(entry) => {
                entry.set.union(&difference.changed);
                entry.time = now.to_string();
            }
            None => {
                list.push(Entry { manager: manager.clone(), time: now.to_string(), set: difference.changed })
            }
        }
    }
    store(new, list);
}

/// The live object with a configuration applied to it, its managed fields included.
pub(crate) fn apply(
    live: Option<&Value>,
    applied: &Value,
    node: &Node,
    manager: &Manager,
    force: bool,
    now: &str,
) -> Result<Value, ApiError> {
    let mut list = live.map(entries).unwrap_or_default();
    if let (Some(live), true) = (live, list.is_empty()) {
        let first = Manager {
            name: "before-first-apply".to_string(),
            operation: Operation::Update,
            api_version: manager.api_version.clone(),
            subresource: String::new(),
        };
        let set = without_metadata_itself(fields_of(&ownable(live), Some(node)));
        list.push(Entry { manager: first, time: String::new(), set });
    }
    let mut applied = applied.clone();
    drop_nulls(&mut applied);
    if let Some(metadata) = applied["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    let set = without_metadata_itself(fields_of(&ownable(&applied), Some(node)));
    let last = list.iter().position(|entry| entry.manager == *manager).map(|at| list.remove(at));
    let mut merged = match live {
        Some(live) => merge(live, &applied, Some(node)),
        None => applied,
    };
    if let Some(last) = &last {
        let mut owned = set.clone();
        for entry in &list {
            owned.union(&entry.set);
        }
        prune(&mut merged, &last.set, &owned, Some(node));
    }
    let before = live.map_or_else(|| json!({"metadata": {}}), ownable);
    let difference = compare(&before, &ownable(&merged), Some(node));
    let conflicts: Vec<(String, FieldSet)> = list
        .iter()
        .map(|entry| (entry.printed(), entry.set.intersection(&difference.changed)))
        .filter(|(_, fields)| !fields.is_empty())
        .collect();
    if !conflicts.is_empty() && !force {
        return Err(conflict(&conflicts));
    }
    for entry in &mut list {
        entry.set = entry.set.difference(&difference.changed).difference(&difference.removed);
    }
    let same = last.as_ref().is_some_and(|last| last.set == set);
    let time = last.filter(|_| same).map_or_else(|| now.to_string(), |last| last.time);
    list.push(Entry { manager: manager.clone(), time, set });
    store(&mut merged, list);
    Ok(merged)
}

/// An applied null is an absent field.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn conflict(conflicts: &[(String, FieldSet)]) -> ApiError {
    let mut causes = Vec::new();
    let mut text = String::new();
    for (manager, fields) in conflicts {
        let paths = fields.paths();
        text.push_str(&format!("\nconflicts with {manager}:"));
        for path in paths {
            text.push_str(&format!("\n- {path}"));
            causes.push(Cause {
                reason: "FieldManagerConflict",
                message: format!("conflict with {manager}"),
                field: path,
            });
        }
    }
    let text = match causes.as_slice() {
        [only] => format!("{}: {}", only.message, only.field),
        _ => text.trim_start().to_string(),
    };
    let plural = if causes.len() == 1 { "" } else { "s" };
    let message = format!("Apply failed with {} conflict{plural}: {text}", causes.len());
    ApiError::new(http::StatusCode::CONFLICT, "Conflict", message).with_causes(&causes)
}
