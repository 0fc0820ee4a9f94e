//! The whole control plane over real sockets: who joins, what streams get, what survives.

#![expect(clippy::unwrap_used, reason = "helpers of tests, which may panic as tests do")]

mod grpc;
mod joining;
mod kubernetes;
mod mesh;
mod on_demand;
mod pilot_agent;
mod plane;
mod preview;
mod replicas;
mod restart;
mod streams;
