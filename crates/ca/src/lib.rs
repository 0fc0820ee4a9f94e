//! Issuing: the offline root, an intermediate for each cluster, leaves for workloads and control planes.
//!
//! A running control plane holds an [`Authority`]: an intermediate in Istio's `cacerts` layout. The root's key is made by
//! [`root::Root::create`], stays in its own directory on a machine of the operator's choice, and an authority refuses
//! a directory in which it lies.

pub mod api_pki;
pub mod authority;
pub mod cacerts;
pub mod csr;
mod files;
pub mod names;
pub mod request;
pub mod root;
pub mod sa_key;

pub use api_pki::ApiPki;
pub use authority::{Authority, IssueError, Issued, Policy};
pub use cacerts::{Cacerts, LoadError};
pub use csr::InvalidCsr;
pub use files::WriteError;
pub use names::Names;
pub use request::{KeyAndChain, KeyAndCsr};
pub use root::{Intermediate, Root, RootError};
