//! OpenAPI documents: what kubectl reads for explain, apply and validation.
//!
//! Version 3 in one document for each group and version; version 2 as one document. Schemas of Kubernetes' own kinds
//! are its own; those of CRDs are published as they were given.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{StatusCode, header};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::kinds::{Definition, Kind, Kinds, Table};
use crate::request::Query;

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

/// The documents, made when asked for and kept until the kinds change.
#[derive(Debug, Default)]
pub(crate) struct Documents {
    made: Mutex<Made>,
}

#[derive(Debug, Default)]
struct Made {
    /// The table that the documents were made from.
    table: Option<Arc<Table>>,
    documents: BTreeMap<String, Arc<(String, String)>>,
}

impl Documents {
    /// Answers `/openapi/…`; nothing for other paths.
    pub(crate) fn answer(
        &self,
        kinds: &Kinds,
        path: &str,
        _query: &Query,
        parts: &Parts,
    ) -> Option<Response> {
        let table = kinds.table();
        match path.trim_matches('/') {
            "openapi/v2" => {
                // The typed client of older kubectl asks for protobuf alone; newer ones take JSON.
                let made = self.made(&table, "v2", || v2(kinds, &table));
                Some(document(&made, parts))
            }
            "openapi/v3" => {
                let mut paths = Map::new();
                for group_version in group_versions(&table) {
                    let made = self.made(&table, &group_version, || v3(kinds, &table, &group_version));
                    let url = format!("/openapi/v3/{group_version}?hash={}", made.1);
                    paths.insert(group_version, json!({"serverRelativeURL": url}));
                }
                let text = json!({"paths": paths}).to_string();
                Some((StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], text).into_response())
            }
            other => {
                let group_version = other.strip_prefix("openapi/v3/")?.to_string();
                if !group_versions(&table).contains(&group_version) {
                    return None;
                }
                let made = self.made(&table, &group_version, || v3(kinds, &table, &group_version));
                Some(document(&made, parts))
            }
        }
    }

    fn made(&self, table: &Arc<Table>, name: &str, make: impl FnOnce() -> Value) -> Arc<(String, String)> {
        let mut made = self.made.lock();
        if !made.table.as_ref().is_some_and(|of| Arc::ptr_eq(of, table)) {
            *made = Made { table: Some(Arc::clone(table)), documents: BTreeMap::new() };
        }
        let fresh = || {
            let text = make().to_string();
            let hash: String = Sha256::digest(&text).iter().map(|byte| format!("{byte:02X}")).collect();
            Arc::new((text, hash))
        };
        Arc::clone(made.documents.entry(name.to_string()).or_insert_with(fresh))
    }
}

fn document(made: &(String, String), parts: &Parts) -> Response {
    let tag = format!("\"{}\"", made.1);
    if parts.headers.get(header::IF_NONE_MATCH).is_some_and(|value| value.as_bytes() == tag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response();
    }
    let headers = [(header::CONTENT_TYPE, "application/json".to_string()), (header::ETAG, tag)];
    (StatusCode::OK, headers, made.0.clone()).into_response()
}

/// `api/v1`, `apis/GROUP/VERSION`.
fn group_versions(table: &Table) -> Vec<String> {
    let mut all: Vec<String> = table.values().map(|kind| path_of(kind)).collect();
    all.dedup();
    all
}

fn path_of(kind: &Kind) -> String {
    if kind.group.is_empty() {
        format!("api/{}", kind.version)
    } else {
        format!("apis/{}/{}", kind.group, kind.version)
    }
}

/// The name of a kind's definition: reversed group, version, kind, as Kubernetes names those of CRDs.
fn definition_name(kind: &Kind) -> String {
    match kind.definition {
        Definition::Builtin(name) => name.to_string(),
        Definition::Crd(_) => {
            let mut group: Vec<&str> = kind.group.split('.').collect();
            group.reverse();
            format!("{}.{}.{}", group.join("."), kind.version, kind.kind)
        }
    }
}

fn group_version_kind(kind: &Kind, name: &str) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": name})
}

/// The definitions of some kinds, references of version 3.
fn schemas(kinds: &Kinds, of: &[&Arc<Kind>]) -> Map<String, Value> {
    let raw = kinds.definitions.raw();
    let mut schemas = Map::new();
    let mut wanted = vec![OBJECT_META.to_string(), LIST_META.to_string(), DELETE_OPTIONS.to_string()];
    for kind in of {
        let name = definition_name(kind);
        match &kind.definition {
            Definition::Builtin(_) => {
                wanted.push(format!("{name}List"));
                wanted.push(name);
            }
            Definition::Crd(schema) => {
                let mut schema = if schema.is_object() { schema.clone() } else { json!({}) };
                schema["type"] = "object".into();
                let text = |what: &str| json!({"type": "string", "description": what});
                let fields = schema
                    .as_object_mut()
                    .map(|fields| fields.entry("properties").or_insert_with(|| json!({})));
                if let Some(Value::Object(properties)) = fields {
                    properties.insert("apiVersion".to_string(), text("APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources"));
                    properties.insert("kind".to_string(), text("Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds"));
                    properties.insert("metadata".to_string(), json!({"allOf": [{"$ref": format!("#/components/schemas/{OBJECT_META}")}],
                        "description": "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata"}));
                }
                schema["x-kubernetes-group-version-kind"] = json!([group_version_kind(kind, &kind.kind)]);
                let list = json!({
                    "description": format!("{} is a list of {}", kind.list_kind, kind.kind),
                    "type": "object",
                    "required": ["items"],
                    "properties": {
                        "apiVersion": text("The version."),
                        "kind": text("The kind."),
                        "metadata": {"$ref": format!("#/components/schemas/{LIST_META}")},
                        "items": {"type": "array", "items": {"$ref": format!("#/components/schemas/{name}")}},
                    },
                    "x-kubernetes-group-version-kind": [group_version_kind(kind, &kind.list_kind)],
                });
                schemas.insert(format!("{name}List"), list);
                schemas.insert(name, schema);
            }
        }
    }
    while let Some(name) = wanted.pop() {
        if schemas.contains_key(&name) {
            continue;
        }
        let Some(schema) = raw.get(&name) else { continue };
        references(schema, &mut wanted);
        schemas.insert(name, schema.clone());
    }
    schemas
}

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value.as_str().filter(|_| key == "$ref") {
                    Some(target) => found.extend(target.rsplit('/').next().map(str::to_string)),
                    None => references(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

/// The paths of one kind; `parameter` writes a query parameter in the document's version.
fn paths(kind: &Kind, parameter: &dyn Fn(&str) -> Value) -> Vec<(String, Value)> {
    let operation = |action: &str, names: &[&str]| {
        let parameters: Vec<Value> = names.iter().map(|name| parameter(name)).collect();
        json!({
            "operationId": format!("{action}{}{}", kind.version, kind.kind),
            "parameters": parameters,
            "responses": {"200": {"description": "OK"}},
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": group_version_kind(kind, &kind.kind),
        })
    };
    let write = ["dryRun", "fieldManager", "fieldValidation"];
    let patch = ["dryRun", "fieldManager", "fieldValidation", "force"];
    let base = if kind.namespaced {
        format!("/{}/namespaces/{{namespace}}/{}", path_of(kind), kind.plural)
    } else {
        format!("/{}/{}", path_of(kind), kind.plural)
    };
    if kind.is_virtual() {
        return vec![(base, json!({"post": operation("post", &write)}))];
    }
    let all = json!({
        "get": operation("list", &["continue", "fieldSelector", "labelSelector", "limit", "resourceVersion", "watch"]),
        "post": operation("post", &write),
        "delete": operation("deletecollection", &["dryRun", "fieldSelector", "labelSelector"]),
    });
    let one = json!({
        "get": operation("get", &[]),
        "put": operation("put", &write),
        "patch": operation("patch", &patch),
        "delete": operation("delete", &["dryRun", "propagationPolicy"]),
    });
    vec![(format!("{base}/{{name}}"), one), (base, all)]
}

fn v3(kinds: &Kinds, table: &Table, group_version: &str) -> Value {
    let of: Vec<&Arc<Kind>> = table.values().filter(|kind| path_of(kind) == group_version).collect();
    let parameter =
        |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
    let all: Map<String, Value> = of.iter().flat_map(|kind| paths(kind, &parameter)).collect();
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": crate::discovery::KUBERNETES},
        "paths": all,
        "components": {"schemas": schemas(kinds, &of)},
    })
}

fn v2(kinds: &Kinds, table: &Table) -> Value {
    let of: Vec<&Arc<Kind>> = table.values().collect();
    let parameter = |name: &str| json!({"name": name, "in": "query", "type": "string", "uniqueItems": true});
    let all: Map<String, Value> = of.iter().flat_map(|kind| paths(kind, &parameter)).collect();
    let mut definitions = Value::Object(schemas(kinds, &of));
    downgrade(&mut definitions);
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": crate::discovery::KUBERNETES},
        "paths": all,
        "definitions": definitions,
    })
}

/// What version 2 cannot say is left out or said as it could be then.
fn downgrade(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::Array(all)) = fields.get("allOf")
                && let [one] = all.as_slice()
                && let Some(target) = one.get("$ref").cloned()
            {
                fields.remove("allOf");
                fields.insert("$ref".to_string(), target);
            }
            if let Some(Value::String(target)) = fields.get_mut("$ref") {
                *target = target.replace("#/components/schemas/", "#/definitions/");
            }
            for key in ["oneOf", "anyOf", "allOf", "not", "nullable"] {
                // A field may have such a name: only what has the keyword's form is one.
                let keyword = fields.get(key).is_some_and(|value| {
                    if key == "nullable" {
                        value.is_boolean()
                    } else {
                        value.is_array() || (key == "not" && value.get("type").is_none())
                    }
                });
                if keyword {
                    fields.remove(key);
                }
            }
            fields.values_mut().for_each(downgrade);
        }
        Value::Array(items) => items.iter_mut().for_each(downgrade),
        _ => {}
    }
}
