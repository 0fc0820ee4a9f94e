//! Bookinfo's services in one small program that knows nothing of the mesh.

fn main() {}
