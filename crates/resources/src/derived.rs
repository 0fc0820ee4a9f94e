//! What Kubernetes' and Istio's controllers make of other objects: EndpointSlices of Services, addresses of ServiceEntries. Plans only:
//! who runs a control plane writes them, who has files alone takes them as written.

pub mod addresses;
pub mod slices;

/// Namespace and name of an object.
pub type Key = (String, String);
