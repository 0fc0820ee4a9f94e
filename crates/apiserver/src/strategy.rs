//! What each of Kubernetes' own kinds adds to the common rules: defaults, checks, what may not change.

mod endpoints;
mod pod;
mod service;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};

use crate::kinds::{Builtin, Kind, crd};
use crate::status::Cause;

pub(crate) use service::{needs_address, wanted_addresses};

/// Fills in defaults. Runs on every write, before ownership is noted.
pub(crate) fn apply_defaults(kind: Builtin, object: &mut Value) {
    match kind {
        Builtin::Service => service::apply_defaults(object),
        Builtin::Pod => pod::apply_defaults(object),
        Builtin::EndpointSlice => endpoints::apply_defaults(object),
        Builtin::CustomResourceDefinition => crd::apply_defaults(object),
        Builtin::Secret => {
            if object["type"].as_str().unwrap_or_default().is_empty() {
                object["type"] = "Opaque".into();
            }
            move_string_data(object);
        }
        Builtin::Namespace => {
            let name = object["metadata"]["name"].clone();
            if name.is_string() && object["metadata"].is_object() {
                if !object["metadata"]["labels"].is_object() {
                    object["metadata"]["labels"] = json!({});
                }
                object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
            }
        }
        _ => {}
    }
}

/// A list inside a value, if it is there; indexing would create it.
fn list_mut<'a>(value: &'a mut Value, key: &str) -> Option<&'a mut Vec<Value>> {
    value.get_mut(key)?.as_array_mut()
}

/// `stringData` is for writing only: it ends up in `data`.
fn move_string_data(object: &mut Value) {
    let Some(fields) = object.as_object_mut() else { return };
    let Some(Value::Object(plain)) = fields.remove("stringData") else { return };
    let data = fields.entry("data").or_insert_with(|| Value::Object(Map::new()));
    if let Some(data) = data.as_object_mut() {
        for (key, value) in plain {
            let text = value.as_str().unwrap_or_default();
            data.insert(key, BASE64.encode(text).into());
        }
    }
}

/// Before a creation: the status that a new object begins with.
pub(crate) fn prepare_create(kind: &Kind, object: &mut Value, now: &str) {
    if let Some(fields) = object.as_object_mut().filter(|_| kind.status) {
        fields.remove("status");
    }
    match kind.builtin {
        Some(Builtin::Namespace) => {
            object["spec"] = json!({"finalizers": ["kubernetes"]});
            object["status"] = json!({"phase": "Active"});
        }
        Some(Builtin::Pod) => pod::first_status(object),
        Some(Builtin::Service) => object["status"] = json!({"loadBalancer": {}}),
        Some(Builtin::CustomResourceDefinition) => crd::established(object, now),
        _ => {}
    }
}

/// Before an update: what the server keeps.
pub(crate) fn prepare_update(kind: &Kind, object: &mut Value, old: &Value, now: &str) {
    match kind.builtin {
        Some(Builtin::Service) => service::keep_allocated(object, old),
        Some(Builtin::CustomResourceDefinition) => crd::established(object, now),
        Some(Builtin::Namespace) => object["spec"] = old["spec"].clone(),
        _ => {}
    }
}

/// Everything that is wrong with an object, against what it was before.
pub(crate) fn validate(kind: Builtin, object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = match kind {
        Builtin::Service => service::validate(object, old),
        Builtin::Pod => pod::validate(object, old),
        Builtin::EndpointSlice => endpoints::validate(object, old),
        Builtin::CustomResourceDefinition => crd::validate(object),
        Builtin::Secret => validate_data(object, true),
        Builtin::ConfigMap => validate_data(object, false),
        _ => Vec::new(),
    };
    if let Some(old) = old {
        match kind {
            Builtin::Secret if object["type"] != old["type"] => {
                causes.push(Cause::invalid("type", &object["type"], "field is immutable"));
            }
            Builtin::Secret | Builtin::ConfigMap if old["immutable"] == true => {
                let changed = |field: &str| object[field] != old[field];
                if object["immutable"] != true {
                    causes.push(Cause::forbidden("immutable", "field is immutable when `immutable` is set"));
                }
                for field in ["data", "binaryData"].into_iter().filter(|field| changed(field)) {
                    causes.push(Cause::forbidden(field, "field is immutable when `immutable` is set"));
                }
            }
            _ => {}
        }
    }
    causes
}

fn validate_data(object: &Value, encoded: bool) -> Vec<Cause> {
    let mut causes = Vec::new();
    let mut size = 0;
    for (field, encoded) in [("data", encoded), ("binaryData", true)] {
        for (key, value) in object[field].as_object().into_iter().flatten() {
            let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if key.is_empty() || key.len() > 253 || !key.chars().all(good) {
                let detail = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. \
                              'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is \
                              '[-._a-zA-Z0-9]+')";
                causes.push(Cause::invalid(format!("{field}[{key}]"), &key.clone().into(), detail));
            }
            let text = value.as_str().unwrap_or_default();
            size += text.len();
            if encoded && BASE64.decode(text).is_err() {
                causes.push(Cause::invalid(format!("{field}[{key}]"), &"".into(), "must be base64"));
            }
        }
    }
    if size > 1 << 20 {
        causes.push(Cause {
            reason: "FieldValueTooLong",
            message: "Too long: may not be more than 1048576 bytes".to_string(),
            field: "data".to_string(),
        });
    }
    causes
}
