//! The gateway as a program: it restarts from disk, is taken over, and is not to be flooded.
#![expect(clippy::unwrap_used, reason = "what helps tests is a test")]

#[path = "main/alone.rs"]
mod alone;
#[path = "main/flood.rs"]
mod flood;
#[path = "main/left.rs"]
mod left;
#[path = "../../crates/agent/tests/whole/plane.rs"]
mod plane;
#[path = "main/refused.rs"]
mod refused;
#[path = "main/running.rs"]
mod running;
#[path = "main/takeover.rs"]
mod takeover;
