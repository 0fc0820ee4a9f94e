//! Whole-mesh scenarios, the namespace testbed, the demo.

fn main() {}
