//! What a write may change, and what the server keeps: pure rules on objects.

use serde_json::{Map, Value};

use super::Part;
use crate::cache::Object;
use crate::kinds::{Builtin, Kind};
use crate::meta;
use crate::status::ApiError;

/// Whether something still keeps a deleted object.
pub(in crate::api) fn held(kind: &Kind, object: &Value) -> bool {
    let any = |list: &Value| list.as_array().is_some_and(|list| !list.is_empty());
    any(&object["metadata"]["finalizers"])
        || (kind.builtin == Some(Builtin::Namespace) && any(&object["spec"]["finalizers"]))
}

/// The object must say what it is, and be what the path says.
pub(super) fn check_identity(kind: &Kind, object: &Value) -> Result<(), ApiError> {
    if !object.is_object() {
        return Err(ApiError::bad_request("the body of the request is not a JSON object"));
    }
    let (version, name) = (&object["apiVersion"], &object["kind"]);
    if let Some(version) =
        version.as_str().filter(|version| !version.is_empty() && *version != kind.api_version())
    {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({})",
            kind.api_version()
        )));
    }
    if let Some(name) = name.as_str().filter(|name| !name.is_empty() && *name != kind.kind) {
        return Err(ApiError::bad_request(format!(
            "{name} in version {:?} cannot be handled as a {}: the kinds differ",
            kind.version, kind.kind
        )));
    }
    if object.get("metadata").is_some_and(|metadata| !metadata.is_object() && !metadata.is_null()) {
        return Err(ApiError::undecodable(kind, "metadata is not an object"));
    }
    Ok(())
}

/// Sets what the path says and the body leaves out; refuses what contradicts it.
pub(super) fn place(kind: &Kind, namespace: &str, name: &str, object: &mut Value) -> Result<(), ApiError> {
    object["apiVersion"] = kind.api_version().into();
    object["kind"] = kind.kind.clone().into();
    let metadata = meta::metadata(object);
    for key in ["name", "namespace", "generateName", "resourceVersion", "uid"] {
        if metadata.get(key).is_some_and(|value| !value.is_string() && !value.is_null()) {
            return Err(ApiError::undecodable(kind, &format!("metadata.{key} is not a string")));
        }
        if metadata.get(key).is_some_and(|value| value.is_null() || value == "") {
            metadata.remove(key);
        }
    }
    for key in ["labels", "annotations"] {
        let wrong = metadata.get(key).filter(|value| !value.is_object() && !value.is_null());
        let wrong = wrong.is_some()
            || metadata
                .get(key)
                .and_then(Value::as_object)
                .is_some_and(|map| map.values().any(|v| !v.is_string()));
        if wrong {
            let why = format!("metadata.{key} is not a map of strings");
            return Err(ApiError::undecodable(kind, &why));
        }
    }
    if kind.namespaced {
        match metadata.get("namespace").and_then(Value::as_str) {
            Some(other) if other != namespace => {
                return Err(ApiError::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
            _ => metadata.insert("namespace".to_string(), namespace.into()),
        };
    } else {
        metadata.remove("namespace");
    }
    if !name.is_empty() {
        match metadata.get("name").and_then(Value::as_str) {
            Some(other) if other != name => {
                return Err(ApiError::bad_request(format!(
                    "the name of the object ({other}) does not match the name on the URL ({name})"
                )));
            }
            _ => metadata.insert("name".to_string(), name.into()),
        };
    }
    Ok(())
}

pub(super) fn check_versions(kind: &Kind, name: &str, new: &Value, old: &Object) -> Result<(), ApiError> {
    let metadata = &new["metadata"];
    if let Some(uid) = metadata["uid"].as_str().filter(|uid| *uid != old.uid()) {
        let why =
            format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", old.uid());
        return Err(ApiError::conflict(kind, name, &why));
    }
    match metadata["resourceVersion"].as_str() {
        Some(version) if version != "0" && version != old.revision.to_string() => {
            Err(ApiError::modified(kind, name))
        }
        _ => Ok(()),
    }
}

/// What the server keeps whatever the client sends.
pub(super) fn keep_metadata(new: &mut Value, old: &Value) {
    let old = &old["metadata"];
    let metadata = meta::metadata(new);
    for key in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "resourceVersion",
    ] {
        match old.get(key) {
            Some(value) => metadata.insert(key.to_string(), value.clone()),
            None => metadata.remove(key),
        };
    }
    for key in ["labels", "annotations", "ownerReferences", "finalizers"] {
        let empty = match metadata.get(key) {
            Some(Value::Object(map)) => map.is_empty(),
            Some(Value::Array(list)) => list.is_empty(),
            Some(Value::Null) => true,
            _ => false,
        };
        if empty {
            metadata.remove(key);
        }
    }
}

/// A write to one part leaves the others as they were.
pub(super) fn keep_part(kind: &Kind, part: Part, new: &mut Value, old: &Value) {
    match part {
        Part::Main if kind.status => match old.get("status") {
            Some(status) => new["status"] = status.clone(),
            None => drop_status(new),
        },
        Part::Main => {}
        Part::Status => {
            let status = new.get("status").cloned();
            let managed = new["metadata"].get("managedFields").cloned();
            let metadata = new["metadata"].clone();
            *new = old.clone();
            if kind.builtin.is_some() {
                // Kubernetes' own kinds take labels and annotations here too.
                new["metadata"] = metadata;
                for key in ["ownerReferences", "finalizers"] {
                    match old["metadata"].get(key) {
                        Some(value) => new["metadata"][key] = value.clone(),
                        None => drop(meta::metadata(new).remove(key)),
                    }
                }
            }
            match managed {
                Some(managed) => new["metadata"]["managedFields"] = managed,
                None => drop(meta::metadata(new).remove("managedFields")),
            }
            match status {
                Some(status) => new["status"] = status,
                None => drop_status(new),
            }
        }
        Part::Finalize => {
            let finalizers = new["spec"].get("finalizers").cloned();
            *new = old.clone();
            if let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) {
                match finalizers {
                    Some(finalizers) => drop(spec.insert("finalizers".to_string(), finalizers)),
                    None => drop(spec.remove("finalizers")),
                }
            }
        }
    }
}

pub(super) fn drop_status(object: &mut Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
}

/// Kubernetes' own kinds leave out what is null.
pub(super) fn drop_empty(object: &mut Value) {
    match object {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_empty);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_empty),
        _ => {}
    }
}

pub(super) fn generation_moves(kind: &Kind, new: &Value, old: &Value) -> bool {
    let body = |object: &Value| -> Map<String, Value> {
        let fields = object.as_object().into_iter().flatten();
        let ours = |key: &str| {
            key != "metadata"
                && key != "apiVersion"
                && (key != "status" || !(kind.status || kind.builtin.is_some()))
        };
        fields.filter(|(key, _)| ours(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    body(new) != body(old)
}

/// Whether nothing has changed, the times of ownership aside.
pub(super) fn same(new: &Value, old: &Value) -> bool {
    let plain = |object: &Value| {
        let mut object = object.clone();
        for entry in
            object["metadata"].get_mut("managedFields").and_then(Value::as_array_mut).into_iter().flatten()
        {
            if let Some(entry) = entry.as_object_mut() {
                entry.remove("time");
            }
        }
        object
    };
    new == old || plain(new) == plain(old)
}
