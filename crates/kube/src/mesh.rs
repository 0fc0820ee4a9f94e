//! The objects by which a mesh is administered: its description, join tokens, peers, gateways.

mod info;
mod peers;
mod tokens;

pub use info::{MESH_CONFIG_MAP, MeshInfo, SYSTEM_NAMESPACE};
pub use peers::PEER_SECRET_KEY;
pub use tokens::{Granted, HOST_AUDIENCE, TokenError, VM_AUDIENCE};
