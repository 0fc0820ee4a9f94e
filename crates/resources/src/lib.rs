//! The Istio and Kubernetes kinds we read: types, CRD schemas, validation, conversion to the model.
//!
//! Objects enter through [`parse`], which takes the JSON of any served version and keeps only what the mesh needs: ten
//! thousand Pods must fit in memory. One bad object is one error that names it; its neighbours are not touched.

pub mod convert;
pub mod crds;
pub mod derived;
pub mod index;
pub mod istio;
pub mod kind;
pub mod kubernetes;
pub mod mesh;
pub mod meta;
pub mod object;
pub mod parse;
pub mod peer;
pub mod validate;
pub mod warnings;

pub use crds::crds;
pub use index::Index;
pub use kind::Kind;
pub use meta::{Meta, Resource, Uid};
pub use object::{Change, Event, Object};
pub use parse::{ParseError, parse, parse_yaml};
pub use validate::{Problem, validate};
pub use warnings::{notices, warnings};
