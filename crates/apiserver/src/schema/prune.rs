//! Fields that no schema knows: dropped from custom resources, reported for all.

use serde_json::Value;

use super::{Node, join};

/// Fields of any object, wherever one is embedded.
const OBJECT_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Drops what the schema does not know.
pub(crate) fn prune(value: &mut Value, node: &Node) {
    walk(value, node, "", &mut |_| true);
}

/// The paths of what the schema does not know; nothing is dropped.
pub(crate) fn unknown_fields(value: &Value, node: &Node) -> Vec<String> {
    let mut copy = value.clone();
    let mut paths = Vec::new();
    walk(&mut copy, node, "", &mut |path| {
        paths.push(path.to_string());
        false
    });
    paths
}

/// `found` hears of each unknown field and says whether it is dropped.
fn walk(value: &mut Value, node: &Node, path: &str, found: &mut dyn FnMut(&str) -> bool) {
    match value {
        Value::Object(fields) => {
            fields.retain(|key, field| {
                let below = join(path, key);
                if let Some(child) = node.field(key) {
                    walk(field, child, &below, found);
                    return true;
                }
                let kept = node.preserve_unknown
                    || (node.embedded_resource && OBJECT_FIELDS.contains(&key.as_str()));
                kept || !found(&below)
            });
        }
        Value::Array(items) => {
            let Some(child) = &node.items else { return };
            for (index, item) in items.iter_mut().enumerate() {
                walk(item, child, &format!("{path}[{index}]"), found);
            }
        }
        _ => {}
    }
}
