//! Everything that this crate does, over our own API server.

#![expect(clippy::unwrap_used, reason = "helpers of tests, which may panic as tests do")]

mod administration;
mod controllers;
mod registration;
mod watching;
mod world;
