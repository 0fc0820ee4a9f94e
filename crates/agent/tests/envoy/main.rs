//! A real Envoy takes all that our translation makes, as the agent gives it: both dialects, changes, secrets, refusals, restarts.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../whole/plane.rs"]
mod plane;
#[allow(dead_code, reason = "the tests of the translation use more of it")]
#[path = "../../../envoy/tests/translate/world.rs"]
mod world;

mod beside;
mod gateways;
mod views;
