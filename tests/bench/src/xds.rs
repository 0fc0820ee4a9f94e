//! A control plane under many proxies: real gRPC over mutual TLS, real objects, simulated proxies.

pub mod api;
pub mod clock;
pub mod etcd;
pub mod kubernetes;
pub mod late;
pub mod options;
pub mod processes;
pub mod report;
pub mod run;
pub mod simulated;
pub mod simulator;
pub mod stored;
pub mod wire;
pub mod world;
