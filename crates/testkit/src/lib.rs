//! For tests only: throw-away CA, builders, log capture.
