//! The data path on loopback, with real mutual TLS. Only the original destination is told, since loopback captures nothing.
#![expect(clippy::unwrap_used, reason = "what helps tests is a test")]

#[path = "main/announced.rs"]
mod announced;
#[path = "main/balancing.rs"]
mod balancing;
#[path = "main/contract.rs"]
mod contract;
#[path = "main/failover.rs"]
mod failover;
#[path = "main/families.rs"]
mod families;
#[path = "main/flood.rs"]
mod flood;
#[path = "main/garbage.rs"]
mod garbage;
#[path = "main/gateway.rs"]
mod gateway;
#[path = "main/handover.rs"]
mod handover;
#[path = "main/inbound.rs"]
mod inbound;
#[path = "main/many.rs"]
mod many;
#[path = "main/on_demand.rs"]
mod on_demand;
#[path = "main/outbound.rs"]
mod outbound;
#[path = "main/resources.rs"]
mod resources;
#[path = "main/support.rs"]
mod support;
