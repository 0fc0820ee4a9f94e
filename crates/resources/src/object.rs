//! One object of any kind, and changes to them as sources report them.

use std::sync::Arc;

use isthmus_model::{ClusterId, Namespace};

use crate::istio;
use crate::kind::Kind;
use crate::kubernetes;
use crate::meta::{Meta, Resource};
use crate::peer::Peer;

macro_rules! objects {
    ($($kind:ident($content:ty)),* $(,)?) => {
        /// One object. Cloning shares it.
        #[derive(Clone, Debug, PartialEq)]
        #[expect(missing_docs, reason = "the names are the API's own")]
        pub enum Object {
            $($kind(Arc<Resource<$content>>)),*
        }

        impl Object {
            /// Its kind.
            #[must_use]
            pub fn kind(&self) -> Kind {
                match self {
                    $(Self::$kind(_) => Kind::$kind),*
                }
            }

            /// Its metadata.
            #[must_use]
            pub fn meta(&self) -> &Meta {
                match self {
                    $(Self::$kind(object) => &object.meta),*
                }
            }
        }

        impl Object {
            /// Whether nothing but the version differs: what a reader of the content need not hear of.
            #[must_use]
            pub fn same_content(&self, other: &Self) -> bool {
                match (self, other) {
                    $((Self::$kind(one), Self::$kind(two)) => {
                        one.meta.same_content(&two.meta) && one.spec == two.spec
                    })*
                    _ => false,
                }
            }
        }

        $(impl From<Resource<$content>> for Object {
            fn from(object: Resource<$content>) -> Self {
                Self::$kind(Arc::new(object))
            }
        })*
    };
}

objects! {
    Namespace(kubernetes::Namespace),
    Node(kubernetes::Node),
    Service(kubernetes::Service),
    Pod(kubernetes::Pod),
    EndpointSlice(kubernetes::EndpointSlice),
    ServiceAccount(kubernetes::ServiceAccount),
    ConfigMap(kubernetes::ConfigMap),
    Secret(kubernetes::Secret),
    DestinationRule(istio::DestinationRule),
    VirtualService(istio::VirtualService),
    Gateway(istio::Gateway),
    ServiceEntry(istio::ServiceEntry),
    WorkloadEntry(istio::WorkloadEntry),
    WorkloadGroup(istio::WorkloadGroup),
    Sidecar(istio::Sidecar),
    PeerAuthentication(istio::PeerAuthentication),
    RequestAuthentication(istio::RequestAuthentication),
    AuthorizationPolicy(istio::AuthorizationPolicy),
    Telemetry(istio::Telemetry),
    EnvoyFilter(istio::EnvoyFilter),
    ProxyConfig(istio::ProxyConfig),
    WasmPlugin(istio::WasmPlugin),
    IstioOperator(istio::IstioOperator),
    Peer(Peer),
}

/// One change of a cluster's objects.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Created or changed.
    Applied(Object),
    /// Deleted by its owner.
    Removed(Kind, Option<Namespace>, Arc<str>),
    /// The complete list of one kind: atomically replaces that kind's table of this cluster.
    Listed(Kind, Vec<Object>),
}

/// A change and where it happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Cluster whose API server reported it.
    pub cluster: ClusterId,
    /// What changed.
    pub change: Change,
}
