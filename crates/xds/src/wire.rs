//! The protocol's messages as we read them. What there is of each of thousands of resources stays a slice of the received message,
//! texts too: whoever takes them over says whether they are texts.

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use envoy_types::pb::google::rpc::Status;

use crate::subscription::{Request, Wanted};

/// `envoy.service.discovery.v3.DeltaDiscoveryResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct DeltaResponse {
    #[prost(message, repeated, tag = "2")]
    pub(crate) resources: Vec<DeltaResource>,
    #[prost(string, tag = "4")]
    pub(crate) type_url: String,
    #[prost(string, tag = "5")]
    pub(crate) nonce: String,
    #[prost(string, repeated, tag = "6")]
    pub(crate) removed_resources: Vec<String>,
}

/// `envoy.service.discovery.v3.Resource`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct DeltaResource {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) version: Bytes,
    #[prost(message, optional, tag = "2")]
    pub(crate) resource: Option<AnyBytes>,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) name: Bytes,
}

/// `google.protobuf.Any`, whose type is that of the response.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct AnyBytes {
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) value: Bytes,
}

/// `envoy.service.discovery.v3.DiscoveryRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WorldRequest {
    #[prost(message, optional, tag = "2")]
    pub(crate) node: Option<Node>,
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub(crate) resource_names: Vec<Bytes>,
    #[prost(string, tag = "4")]
    pub(crate) type_url: String,
    #[prost(string, tag = "5")]
    pub(crate) response_nonce: String,
    #[prost(message, optional, tag = "6")]
    pub(crate) error_detail: Option<Status>,
}

/// The state machine's view of a state-of-the-world request.
pub(crate) fn world(request: WorldRequest) -> Request {
    Request {
        type_url: request.type_url,
        nonce: request.response_nonce,
        error: request.error_detail.map(|status| status.message),
        names: Wanted::Exactly(request.resource_names),
    }
}

/// The state machine's view of a delta request.
pub(crate) fn delta(request: DeltaDiscoveryRequest) -> Request {
    Request {
        type_url: request.type_url,
        nonce: request.response_nonce,
        error: request.error_detail.map(|status| status.message),
        names: Wanted::Change {
            subscribe: request.resource_names_subscribe,
            unsubscribe: request.resource_names_unsubscribe,
            initial: request.initial_resource_versions,
        },
    }
}
