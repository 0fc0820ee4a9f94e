//! Merging per-cluster tables into numbered immutable snapshots and differences.
