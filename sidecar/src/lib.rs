//! The agent beside a workload.
