//! One workload's agent: identity, discovery, DNS, capture, proxy and health, joined.
//!
//! [`enroll`], [`identity`], [`connect`], [`state`] and [`cache`] need neither capture nor proxy: the gateway uses them alone.

pub mod cache;
pub mod connect;
pub mod data;
pub mod enroll;
mod explain;
pub mod identity;
pub mod join;
pub mod state;

pub use cache::ResourceCache;
pub use connect::Connector;
pub use data::DataDir;
pub use enroll::{Enrolled, Enrollment, enroll};
pub use join::{JoinError, join};
pub use state::Membership;
