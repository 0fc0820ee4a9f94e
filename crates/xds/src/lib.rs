//! xDS subscriptions: state of the world, delta and on-demand; server with shared response bytes, reconnecting client.
//!
//! [`server::AdsService`] serves the aggregated discovery service in both flavours. What a proxy may see is a
//! [`isthmus_proto::resource::View`] behind a watch; a stream remembers the last set that it sent of each type (a cursor,
//! never a queue) and compares it with the newest view whenever the client is ready to read. [`client::Client`] is the other
//! end: delta, reconnecting, resuming from what it has. Neither knows what a resource means.

pub mod cache;
pub mod client;
pub mod flavour;
mod frame;
mod names;
pub mod payload;
pub mod server;
pub mod subscription;
mod wire;

pub use client::{Client, Handle, Handler, Rejection, Update, Upsert};
pub use flavour::Flavour;
pub use server::{AdsService, Arrival, Closed, HealthReport, Limits, Nodes, Session, StreamEvents, Streams};
