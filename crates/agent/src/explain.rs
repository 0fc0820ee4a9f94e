//! One line for a person from an error and its sources.

use std::error::Error;

use tonic::{Code, Status};

/// The innermost cause: the outer ones are wrappers such as "transport error".
pub(crate) fn cause(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// A status with what lies beneath it, when it comes from our own transport.
pub(crate) fn status(status: &Status) -> String {
    match status.source() {
        Some(source) => cause(source),
        None if status.message().is_empty() => format!("{:?}", status.code()),
        None => status.message().to_string(),
    }
}

/// Whether trying again may help without anyone changing anything.
pub(crate) fn is_temporary(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::Cancelled
            | Code::ResourceExhausted
            | Code::Internal
            | Code::Unknown
    )
}
