//! Encoded Envoy resources as JSON, by their descriptors.
//!
//! Field names are those of the definitions (`load_assignment`, not `loadAssignment`), as in Envoy's own dumps; messages inside
//! `Any` are written out with their `@type`. The descriptors are a part of this crate (`envoy.binpb`): what Envoy's definitions
//! say of the messages that a mesh uses, without comments. They are kept apart from translation so that only programs that show
//! resources to people carry them.

mod descriptors;
mod json;

pub use json::{Undecodable, to_json};
