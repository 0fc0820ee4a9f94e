//! Strategic merge patch: lists of objects are merged by their merge key, and directives say what else to do.

use serde_json::{Map, Value};

use crate::schema::Node;
use crate::status::ApiError;

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

/// Patches a value by its schema.
pub(crate) fn strategic(value: &mut Value, patch: &Value, node: &Node) -> Result<(), ApiError> {
    let Some(patch) = patch.as_object() else {
        *value = patch.clone();
        return Ok(());
    };
    match patch.get(DIRECTIVE).and_then(Value::as_str) {
        None | Some("merge") => {}
        Some("replace") => {
            let mut fresh = patch.clone();
            fresh.remove(DIRECTIVE);
            *value = Value::Object(fresh);
            return Ok(());
        }
        Some("delete") => {
            *value = Value::Object(Map::new());
            return Ok(());
        }
        Some(other) => {
            return Err(ApiError::bad_request(format!(
                "unknown patch directive {other:?}; use merge, replace or delete"
            )));
        }
    }
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let Value::Object(fields) = value else { return Ok(()) };
    if let Some(kept) = patch.get(RETAIN).and_then(Value::as_array) {
        fields.retain(|key, _| kept.iter().any(|one| one == key.as_str()));
    }
    for (key, change) in patch {
        if key == DIRECTIVE || key == RETAIN || key.starts_with(ORDER) {
            continue;
        }
        if let Some(list) = key.strip_prefix(DELETE_PRIMITIVES) {
            let gone = change.as_array().cloned().unwrap_or_default();
            if let Some(items) = fields.get_mut(list).and_then(Value::as_array_mut) {
                items.retain(|item| !gone.contains(item));
            }
            continue;
        }
        let child = node.field(key);
        match change {
            Value::Null => {
                fields.remove(key);
            }
            Value::Object(_) => {
                let any = Node::any();
                let deleted = change[DIRECTIVE] == "delete";
                let target = fields.entry(key.clone()).or_insert_with(|| Value::Object(Map::new()));
                strategic(target, change, child.unwrap_or(&any))?;
                if deleted {
                    fields.remove(key);
                }
            }
            Value::Array(items) => {
                let target = fields.entry(key.clone()).or_insert_with(|| Value::Array(Vec::new()));
                merge_list(target, items, child)?;
            }
            other => {
                fields.insert(key.clone(), other.clone());
            }
        }
    }
    reorder(fields, patch, node);
    Ok(())
}

fn merge_list(target: &mut Value, patch: &[Value], node: Option<&Node>) -> Result<(), ApiError> {
    let key = node.and_then(|node| node.merge_key.as_deref());
    let replaced = patch
        .iter()
        .any(|item| item[DIRECTIVE] == "replace" && item.as_object().is_some_and(|o| o.len() == 1));
    let plain = |items: &[Value]| {
        Value::Array(items.iter().filter(|item| item.get(DIRECTIVE).is_none()).cloned().collect())
    };
    let (Some(key), false) = (key, replaced) else {
        *target = plain(patch);
        return Ok(());
    };
    if !target.is_array() {
        *target = Value::Array(Vec::new());
    }
    let Value::Array(items) = target else { return Ok(()) };
    if key.is_empty() {
        for item in patch {
            if !items.contains(item) {
                items.push(item.clone());
            }
        }
        return Ok(());
    }
    let any = Node::any();
    let child = node.and_then(|node| node.items.as_deref()).unwrap_or(&any);
    for item in patch {
        let identity = item.get(key).ok_or_else(|| {
            ApiError::bad_request(format!("map: {item} does not contain declared merge key: {key}"))
        })?;
        let matches = |other: &Value| other.get(key) == Some(identity);
        match item[DIRECTIVE].as_str() {
            Some("delete") => items.retain(|other| !matches(other)),
            _ => match items.iter_mut().find(|other| matches(other)) {
                Some(found) => strategic(found, item, child)?,
                None => {
                    let mut fresh = Value::Object(Map::new());
                    strategic(&mut fresh, item, child)?;
                    items.push(fresh);
                }
            },
        }
    }
    Ok(())
}

/// Puts merged lists in the order that the patch gives; items that it does not name keep their place at the end.
fn reorder(fields: &mut Map<String, Value>, patch: &Map<String, Value>, node: &Node) {
    for (name, order) in patch {
        let Some(list) = name.strip_prefix(ORDER) else { continue };
        let (Some(order), Some(items)) =
            (order.as_array(), fields.get_mut(list).and_then(Value::as_array_mut))
        else {
            continue;
        };
        let key = node.field(list).and_then(|node| node.merge_key.as_deref()).unwrap_or_default();
        let rank = |item: &Value| {
            let same = |other: &&Value| {
                if key.is_empty() { **other == *item } else { other.get(key) == item.get(key) }
            };
            order.iter().position(|other| same(&other)).unwrap_or(order.len())
        };
        items.sort_by_key(rank);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::Definitions;

    fn patched(kind: &str, value: Value, patch: Value) -> Value {
        let node = Definitions::load().node(&format!("io.k8s.api.core.v1.{kind}"));
        let mut value = value;
        strategic(&mut value, &patch, &node).expect("it patches");
        value
    }

    #[test]
    fn lists_merge_by_their_key_and_items_are_deleted_by_directive() {
        let live = json!({"spec": {"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "b"}]}});
        let patch = json!({"spec": {"ports": [{"port": 80, "name": "c"}, {"port": 81, "$patch": "delete"}, {"port": 82}]}});
        let expected = json!({"spec": {"ports": [{"port": 80, "name": "c"}, {"port": 82}]}});
        assert_eq!(patched("Service", live, patch), expected);
    }

    #[test]
    fn directives_replace_retain_order_and_delete_plain_values() {
        let live = json!({"metadata": {"finalizers": ["a/a", "b/b"], "labels": {"a": "1", "b": "2"}}});
        let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a/a"], "finalizers": ["c/c"],
            "$setElementOrder/finalizers": ["c/c", "b/b"], "labels": {"$patch": "replace", "c": "3"}}});
        let expected = json!({"metadata": {"finalizers": ["c/c", "b/b"], "labels": {"c": "3"}}});
        assert_eq!(patched("Pod", live, patch), expected);
    }

    #[test]
    fn null_deletes_and_lists_without_a_key_are_replaced() {
        let live = json!({"spec": {"selector": {"a": "1"}, "externalIPs": ["1.1.1.1"]}});
        let patch = json!({"spec": {"selector": null, "externalIPs": ["2.2.2.2"]}});
        assert_eq!(patched("Service", live, patch), json!({"spec": {"externalIPs": ["2.2.2.2"]}}));
    }
}
