//! Brings a virtual machine into the mesh.
