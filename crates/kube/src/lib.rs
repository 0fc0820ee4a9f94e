//! Watching any Kubernetes-style API into source events; registration of workloads, status writes, controllers, and the few
//! objects by which a mesh is administered.
//!
//! The only crate that names the Kubernetes client. Everything goes through a [`Cluster`]: a real cluster by kubeconfig, or
//! our own API server in process.

pub mod api;
pub mod client;
pub mod conditions;
pub mod config_maps;
pub mod controllers;
mod discovery;
pub mod mesh;
pub mod registration;
pub mod watch;

pub use api::{ApiError, ObjectType};
pub use client::{Cluster, ConnectError};
