//! The words of the mesh: names, identities, services, endpoints, locality. No runtime, no wire format, no Kubernetes.

pub mod endpoint;
pub mod export;
pub mod identity;
pub mod labels;
pub mod locality;
pub mod name;
pub mod service;
pub mod shared;
pub mod status;
pub mod token;

pub use endpoint::{Common, Endpoint, Health, Ports, TlsMode, shared_ports};
pub use export::{Capacity, NetworkGateway, PeerChange, ServiceExport};
pub use identity::{InvalidIdentity, SpiffeId};
pub use labels::{Labels, Selector};
pub use locality::Locality;
pub use name::{ClusterId, Hostname, InvalidName, Namespace, NamespacedName, NetworkId, TrustDomain};
pub use service::{Location, Protocol, Resolution, Service, ServicePort, Source, TargetPort};
