//! The protocol under simulated trouble, and hubs over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test program")]

mod hubs;
mod simulation;
mod words;
