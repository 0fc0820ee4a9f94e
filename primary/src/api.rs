//! What is served on port 15012 beside xDS.

pub mod certificates;
pub mod join;

use isthmus_kube::ApiError;
use tonic::Status;

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
