//! What is served on port 15012 beside xDS.

pub mod certificates;
pub mod join;

use isthmus_kube::ApiError;
use tonic::{Request, Status};

/// The bearer token of a request.
#[must_use]
pub fn bearer<T>(request: &Request<T>) -> Option<&str> {
    let value = request.metadata().get("authorization")?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token.trim())
}

/// What a client is told when the API server cannot be asked: try again later, not "no".
#[must_use]
pub fn api_status(error: &ApiError) -> Status {
    tracing::warn!(%error, "API server not asked");
    if error.is_transient() {
        Status::unavailable(error.to_string())
    } else {
        Status::internal(error.to_string())
    }
}
