//! The agent's DNS proxy: the mesh's names answered from a table, everything else forwarded as it came.
//!
//! The only crate that knows hickory. [`table`] and [`answer`] are pure; [`forward`] and [`server`] move packets.

pub mod answer;
pub mod forward;
pub mod metrics;
mod resolve;
pub mod server;
pub mod table;

pub use metrics::Metrics;
pub use server::{BindError, Config, Handle, Server};
pub use table::{Host, Origin, Perspective, Table};
