//! Comparing, merging and pruning values by their schema.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

use super::fields::{FieldSet, Shape, field_element, item_element, shape};
use crate::schema::Node;

/// What differs between two values.
#[derive(Debug, Default)]
pub(super) struct Difference {
    /// Added or changed.
    pub(super) changed: FieldSet,
    pub(super) removed: FieldSet,
}

/// What differs between two objects.
pub(super) fn compare(old: &Value, new: &Value, node: Option<&Node>) -> Difference {
    let mut difference = Difference::default();
    step(Some(old), Some(new), node, &mut Vec::new(), &mut difference);
    difference
}

fn step(
    old: Option<&Value>,
    new: Option<&Value>,
    node: Option<&Node>,
    path: &mut Vec<String>,
    out: &mut Difference,
) {
    let shapes: BTreeSet<u8> =
        [old, new].into_iter().flatten().map(|value| shape(value, node) as u8).collect();
    let empty = |value: Option<&Value>| match value {
        None => true,
        Some(Value::Object(fields)) => fields.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(_) => false,
    };
    let leaf = shapes.len() != 1 || shapes.contains(&(Shape::Leaf as u8)) || (empty(old) && empty(new));
    if leaf {
        match (old, new) {
            (_, None) => out.removed.insert(path),
            (Some(old), Some(new)) if old == new => {}
            (_, Some(_)) => out.changed.insert(path),
        }
        return;
    }
    if old.or(new).is_some_and(Value::is_object) {
        let keys: BTreeSet<&String> = [old, new]
            .into_iter()
            .flatten()
            .filter_map(Value::as_object)
            .flat_map(|map| map.keys())
            .collect();
        for key in keys {
            path.push(field_element(key));
            let child = node.and_then(|node| node.field(key));
            step(old.and_then(|v| v.get(key)), new.and_then(|v| v.get(key)), child, path, out);
            path.pop();
        }
    } else {
        let (old_items, new_items) = (items_by_identity(old, node), items_by_identity(new, node));
        let identities: BTreeSet<&String> = old_items.keys().chain(new_items.keys()).collect();
        let child = node.and_then(|node| node.items.as_deref());
        for identity in identities {
            path.push(identity.clone());
            let (old, new) = (old_items.get(identity).copied(), new_items.get(identity).copied());
            step(old, new, child, path, out);
            path.pop();
        }
    }
    if path.is_empty() {
        return;
    }
    match (old, new) {
        (None, _) => out.changed.insert(path),
        (_, None) => out.removed.insert(path),
        _ => {}
    }
}

fn items_by_identity<'a>(list: Option<&'a Value>, node: Option<&Node>) -> HashMap<String, &'a Value> {
    let items = list.and_then(Value::as_array).into_iter().flatten();
    items.map(|item| (item_element(item, node), item)).collect()
}

/// Lays an applied value over a live one.
pub(super) fn merge(live: &Value, applied: &Value, node: Option<&Node>) -> Value {
    if shape(live, node) != shape(applied, node) {
        return applied.clone();
    }
    match (shape(applied, node), live, applied) {
        (Shape::Map, Value::Object(live), Value::Object(applied)) => {
            let mut merged = live.clone();
            for (key, value) in applied {
                let child = node.and_then(|node| node.field(key));
                let value = match live.get(key) {
                    Some(live) => merge(live, value, child),
                    None => value.clone(),
                };
                merged.insert(key.clone(), value);
            }
            Value::Object(merged)
        }
        (Shape::List, Value::Array(live), Value::Array(applied)) => merge_lists(live, applied, node),
        _ => applied.clone(),
    }
}

/// The applied order counts; items that only live has keep their place before the next common one.
fn merge_lists(live: &[Value], applied: &[Value], node: Option<&Node>) -> Value {
    let child = node.and_then(|node| node.items.as_deref());
    let live: Vec<(String, &Value)> = live.iter().map(|item| (item_element(item, node), item)).collect();
    let applied: Vec<(String, &Value)> =
        applied.iter().map(|item| (item_element(item, node), item)).collect();
    let by_identity: HashMap<&str, &Value> =
        live.iter().map(|(identity, item)| (identity.as_str(), *item)).collect();
    let common: BTreeSet<&str> = applied.iter().map(|(identity, _)| identity.as_str()).collect();
    let mut done: BTreeSet<&str> = BTreeSet::new();
    let mut merged = Vec::with_capacity(live.len() + applied.len());
    let (mut l, mut a) = (0, 0);
    while l < live.len() || a < applied.len() {
        if let Some((identity, item)) = live.get(l) {
            if !common.contains(identity.as_str()) {
                merged.push((*item).clone());
                l += 1;
                continue;
            }
            if done.contains(identity.as_str()) {
                l += 1;
                continue;
            }
        }
        let Some((identity, item)) = applied.get(a) else { break };
        if done.insert(identity) {
            merged.push(match by_identity.get(identity.as_str()) {
                Some(live) => merge(live, item, child),
                None => (*item).clone(),
            });
        }
        a += 1;
    }
    Value::Array(merged)
}

/// Removes what was applied before and is owned by nobody any more.
pub(super) fn prune(value: &mut Value, last: &FieldSet, owned: &FieldSet, node: Option<&Node>) {
    match value {
        Value::Object(fields) => {
            fields.retain(|key, field| {
                let element = field_element(key);
                let Some(before) = last.children.get(&element) else { return true };
                match owned.children.get(&element) {
                    // An object's metadata holds what belongs to nobody.
                    None if key == "metadata" => true,
                    None => false,
                    Some(owned) => {
                        let child = node.and_then(|node| node.field(key));
                        prune(field, before, owned, child);
                        true
                    }
                }
            });
        }
        Value::Array(items) => {
            let child = node.and_then(|node| node.items.as_deref());
            items.retain_mut(|item| {
                let element = item_element(item, node);
                let Some(before) = last.children.get(&element) else { return true };
                match owned.children.get(&element) {
                    None => false,
                    Some(owned) => {
                        prune(item, before, owned, child);
                        true
                    }
                }
            });
        }
        _ => {}
    }
}
