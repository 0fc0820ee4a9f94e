//! Control plane that owns configuration, signs certificates, serves xDS and federation.

fn main() {}
