//! Brings a virtual machine into the mesh.

fn main() {}
