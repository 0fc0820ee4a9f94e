//! The agent beside a workload.

fn main() {}
