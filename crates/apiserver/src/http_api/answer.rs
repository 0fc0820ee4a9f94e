//! Answers: objects, lists, tables, metadata only, warnings.

use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use crate::api::{Api, Listed, present};
use crate::cache::Object;
use crate::kinds::Kind;
use crate::request::Form;
use crate::table;

/// A JSON answer.
pub(crate) fn json(code: StatusCode, value: Value) -> Response {
    (code, [(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

/// One object.
pub(super) fn object(api: &Api, kind: &Kind, code: StatusCode, object: &Arc<Object>, form: Form) -> Response {
    match form {
        Form::Object => {
            let bytes = bytes(kind, object);
            (code, [(header::CONTENT_TYPE, "application/json")], bytes).into_response()
        }
        Form::Table => {
            let revision = object.revision.to_string();
            json(
                code,
                table::table(
                    api,
                    kind,
                    std::slice::from_ref(object),
                    true,
                    json!({"resourceVersion": revision}),
                ),
            )
        }
        Form::Metadata => json(code, metadata_only(object)),
    }
}

/// An object's JSON; written once for the stored version.
pub(super) fn bytes(kind: &Kind, object: &Object) -> Bytes {
    if kind.version == kind.storage_version {
        object.json().clone()
    } else {
        Bytes::from(present(kind, object).to_string())
    }
}

/// `PartialObjectMetadata`.
pub(super) fn metadata_only(object: &Object) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object.value["metadata"]})
}

/// A list.
pub(super) fn list(api: &Api, kind: &Kind, listed: &Listed, form: Form) -> Response {
    let mut metadata = json!({"resourceVersion": listed.revision.to_string()});
    if let Some(next) = &listed.next {
        metadata["continue"] = next.clone().into();
    }
    if listed.next.is_none() && kind.builtin.is_none() {
        // Kubernetes writes it for these kinds, empty as it is.
        metadata["continue"] = "".into();
    }
    if let Some(remaining) = listed.remaining {
        metadata["remainingItemCount"] = remaining.into();
    }
    match form {
        Form::Table => json(StatusCode::OK, table::table(api, kind, &listed.items, true, metadata)),
        Form::Metadata => {
            let items: Vec<Value> = listed.items.iter().map(|object| metadata_only(object)).collect();
            json(
                StatusCode::OK,
                json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
                    "items": items}),
            )
        }
        Form::Object => {
            let head =
                json!({"kind": kind.list_kind, "apiVersion": kind.api_version(), "metadata": metadata});
            // The objects' JSON is put together, not written again.
            let mut text = head.to_string().into_bytes();
            text.pop();
            text.extend_from_slice(b",\"items\":[");
            for (index, object) in listed.items.iter().enumerate() {
                if index > 0 {
                    text.push(b',');
                }
                text.extend_from_slice(&bytes(kind, object));
            }
            text.extend_from_slice(b"]}");
            let content = [(header::CONTENT_TYPE, "application/json")];
            (StatusCode::OK, content, Body::from(text)).into_response()
        }
    }
}

/// Adds `Warning` headers (RFC 7234, 5.5): at most 32, each once.
pub(super) fn warn(mut response: Response, warnings: &[String]) -> Response {
    let mut seen = std::collections::HashSet::new();
    for text in warnings.iter().filter(|text| seen.insert(text.as_str())).take(32) {
        let plain: String = text.chars().filter(|c| !c.is_control()).take(500).collect();
        let quoted = plain.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}
