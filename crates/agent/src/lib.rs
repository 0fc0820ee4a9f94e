//! One workload's agent: identity, discovery, DNS, capture, proxy and health, joined.
//!
//! [`enroll`], [`identity`], [`connect`], [`state`], [`cache`] and [`discovery`] need neither capture nor DNS: the gateway uses them
//! alone.

pub mod admin;
pub mod ads;
pub mod app;
pub mod args;
pub mod cache;
pub mod child;
pub mod connect;
pub mod data;
pub mod data_path;
pub mod discovery;
pub mod enroll;
pub mod envoy;
mod explain;
pub mod grpc;
pub mod health;
pub mod identity;
pub mod join;
pub mod limits;
pub mod mirror;
pub mod node;
pub mod resolver;
pub mod secrets;
pub mod sockets;
pub mod state;

pub use app::{Agent, Choice, Config, Ports, StartError};
pub use cache::ResourceCache;
pub use connect::Connector;
pub use data::DataDir;
pub use data_path::DataPath;
pub use enroll::{Enrolled, Enrollment, enroll, enroll_in};
pub use join::{JoinError, join};
pub use node::{Registration, Workload};
pub use state::Membership;
