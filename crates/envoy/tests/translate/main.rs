//! Translation as facts: objects in, decoded resources out.

#![expect(clippy::unwrap_used, reason = "a test's helpers")]

mod balance;
mod bookinfo;
mod cost;
mod gateways;
mod grpc;
mod inbound;
mod kept;
mod open;
mod real;
mod scope;
mod world;
