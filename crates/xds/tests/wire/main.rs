//! Server and client over real sockets.

#![allow(clippy::unwrap_used, reason = "a test program")]

mod client;
mod foreign_peer;
mod support;
