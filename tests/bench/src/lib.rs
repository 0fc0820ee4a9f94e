//! Benchmarks of whole programs beside their peers, each contender under the same load in the same run.

pub mod proc;
