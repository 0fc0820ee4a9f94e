//! Filling in the defaults of a CRD's schema.

use serde_json::Value;

use super::Node;

/// Sets absent fields to their defaults, and replaces a null that is not allowed by the default, as Kubernetes does.
pub(crate) fn apply_defaults(value: &mut Value, node: &Node) {
    match value {
        Value::Object(fields) => {
            for (key, child) in &node.properties {
                let Some(default) = &child.default else { continue };
                match fields.get(key) {
                    None => {
                        fields.insert(key.clone(), default.clone());
                    }
                    Some(Value::Null) if !child.nullable => {
                        fields.insert(key.clone(), default.clone());
                    }
                    Some(_) => {}
                }
            }
            // A null without a default is dropped where null is not allowed.
            fields.retain(|key, field| {
                !(field.is_null()
                    && node.properties.get(key).is_some_and(|child| {
                        !child.nullable && child.kind.is_some() && child.default.is_none()
                    }))
            });
            for (key, field) in fields.iter_mut() {
                if let Some(child) = node.field(key) {
                    apply_defaults(field, child);
                }
            }
        }
        Value::Array(items) => {
            if let Some(child) = &node.items {
                for item in items {
                    apply_defaults(item, child);
                }
            }
        }
        _ => {}
    }
}
