//! Whole agents against a control plane that the test plays: real TLS, real gRPC, real sockets.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod agent;
mod join;
mod plane;
mod renewal;
mod resources;
mod sockets;
