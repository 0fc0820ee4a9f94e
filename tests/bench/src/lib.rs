//! Benchmarks of whole programs beside their peers, each contender under the same load in the same run.

pub mod gateway;
pub mod proc;
pub mod xds;
