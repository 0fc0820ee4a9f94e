//! Snapshot and proxy view to Envoy resources and name tables, each encoded once.
