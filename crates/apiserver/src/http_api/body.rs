//! Reading bodies: bounded, and as JSON or YAML.

use axum::body::Body;
use bytes::Bytes;
use http::header;
use http::request::Parts;
use http_body_util::{BodyExt, Limited};
use serde_json::Value;

use crate::protobuf;
use crate::status::ApiError;

/// A larger body is refused, as Kubernetes does.
pub(crate) const LIMIT: usize = 3 << 20;

/// The whole body.
pub(super) async fn read(body: Body) -> Result<Bytes, ApiError> {
    match Limited::new(body, LIMIT).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(ApiError::too_large(LIMIT)),
        Err(error) => Err(ApiError::bad_request(format!("reading the body failed: {error}"))),
    }
}

/// The media type without parameters, lower case; empty if not given.
pub(super) fn media_type(parts: &Parts) -> String {
    let value = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// An object in a body.
pub(super) fn object(parts: &Parts, body: &Bytes) -> Result<Value, ApiError> {
    match media_type(parts).as_str() {
        "" | "application/json" => serde_json::from_slice(body).map_err(|error| {
            ApiError::bad_request(format!(
                "the object provided is unrecognized: couldn't get version/kind; json parse error: {error}"
            ))
        }),
        "application/yaml" | "application/x-yaml" => yaml(body),
        protobuf::MEDIA_TYPE => protobuf::decode(body)
            .map_err(|error| ApiError::bad_request(format!("the protobuf body is not readable: {error}"))),
        _ => Err(ApiError::unsupported_media_type(
            "application/json, application/yaml, application/vnd.kubernetes.protobuf",
        )),
    }
}

/// YAML as JSON. One document; keys must be strings.
pub(super) fn yaml(body: &Bytes) -> Result<Value, ApiError> {
    serde_yaml::from_slice(body)
        .map_err(|error| ApiError::bad_request(format!("error decoding YAML: {error}")))
}
