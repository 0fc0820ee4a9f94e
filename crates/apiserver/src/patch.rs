//! The patch kinds: JSON patch, JSON merge patch, strategic merge patch.

mod strategic;

use serde_json::Value;

use crate::kinds::Kind;
use crate::status::ApiError;

pub(crate) use strategic::strategic;

/// Media types of patches, as errors list them.
pub(crate) const JSON_PATCH: &str = "application/json-patch+json";
pub(crate) const MERGE_PATCH: &str = "application/merge-patch+json";
pub(crate) const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";
pub(crate) const APPLY_PATCH: &str = "application/apply-patch+yaml";

/// A decoded patch.
#[derive(Debug, Clone)]
pub(crate) enum Patch {
    Json(json_patch::Patch),
    Merge(Value),
    Strategic(Value),
}

/// Operations in one JSON patch at most, as in Kubernetes.
const MAX_OPERATIONS: usize = 10_000;

impl Patch {
    pub(crate) fn parse(media: &str, body: &[u8]) -> Result<Self, ApiError> {
        let unreadable =
            |error: serde_json::Error| ApiError::bad_request(format!("error decoding patch: {error}"));
        match media {
            JSON_PATCH => {
                let patch: json_patch::Patch = serde_json::from_slice(body).map_err(unreadable)?;
                if patch.0.len() > MAX_OPERATIONS {
                    let message = format!(
                        "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
                        patch.0.len()
                    );
                    return Err(ApiError::new(
                        http::StatusCode::PAYLOAD_TOO_LARGE,
                        "RequestEntityTooLarge",
                        message,
                    ));
                }
                Ok(Self::Json(patch))
            }
            MERGE_PATCH => Ok(Self::Merge(object(serde_json::from_slice(body).map_err(unreadable)?)?)),
            _ => Ok(Self::Strategic(object(serde_json::from_slice(body).map_err(unreadable)?)?)),
        }
    }

    /// The patched object.
    pub(crate) fn apply(&self, kind: &Kind, live: &Value) -> Result<Value, ApiError> {
        let mut value = live.clone();
        match self {
            Self::Json(patch) => json_patch::patch(&mut value, patch).map_err(|error| {
                let message =
                    format!("the server rejected our request due to an error in our request: {error}");
                ApiError::new(http::StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
            })?,
            Self::Merge(patch) => json_patch::merge(&mut value, patch),
            Self::Strategic(patch) => strategic(&mut value, patch, &kind.schema)?,
        }
        if value.is_object() {
            Ok(value)
        } else {
            Err(ApiError::bad_request("the patched object is not a JSON object"))
        }
    }
}

fn object(value: Value) -> Result<Value, ApiError> {
    if value.is_object() {
        Ok(value)
    } else {
        Err(ApiError::bad_request("error decoding patch: a patch must be a JSON object"))
    }
}
