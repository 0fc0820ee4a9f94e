//! Requests of proxies, encoded: most are the same for all.

use bytes::{BufMut as _, Bytes, BytesMut};
use envoy_types::pb::envoy::config::core::v3::{Locality, Node};
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use prost::Message;

use crate::xds::world::{self, Shape};

/// Clusters.
pub(super) const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
/// Endpoints.
pub(super) const EDS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
/// Listeners.
pub(super) const LDS: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
/// Names.
pub(super) const NDS: &str = "type.googleapis.com/istio.networking.nds.v1.NameTable";

/// What is the same for all proxies.
pub(super) struct Requests {
    shape: Shape,
    endpoints: Bytes,
    /// State of the world repeats all names in every acknowledgement: they are encoded here, once.
    names: Bytes,
}

impl Requests {
    pub(super) fn new(shape: Shape) -> Self {
        let names: Vec<String> = (0..shape.services).map(|service| world::cluster(shape, service)).collect();
        let all = DiscoveryRequest { resource_names: names.clone(), ..Default::default() }.encode_to_vec();
        let endpoints = framed(&DeltaDiscoveryRequest {
            type_url: EDS.into(),
            resource_names_subscribe: names,
            ..Default::default()
        });
        Self { shape, endpoints, names: all.into() }
    }

    /// The first request of a stream, which introduces the proxy.
    pub(super) fn first(&self, sotw: bool, service: u32, endpoint: u32) -> Bytes {
        let node = Some(self.node(service, endpoint));
        if sotw {
            framed(&DiscoveryRequest { node, type_url: CDS.into(), ..Default::default() })
        } else {
            framed(&DeltaDiscoveryRequest { node, type_url: CDS.into(), ..Default::default() })
        }
    }

    /// Asks for everything of a type.
    pub(super) fn all(sotw: bool, type_url: &str) -> Bytes {
        if sotw {
            framed(&DiscoveryRequest { type_url: type_url.into(), ..Default::default() })
        } else {
            framed(&DeltaDiscoveryRequest { type_url: type_url.into(), ..Default::default() })
        }
    }

    /// Asks for the endpoints of all services.
    pub(super) fn endpoints(&self, sotw: bool) -> Vec<Bytes> {
        if sotw {
            return self.named(&DiscoveryRequest { type_url: EDS.into(), ..Default::default() });
        }
        vec![self.endpoints.clone()]
    }

    /// Accepts a response.
    pub(super) fn accept(&self, sotw: bool, type_url: &str, version: &str, nonce: &str) -> Vec<Bytes> {
        let response_nonce = nonce.to_string();
        let named = type_url == EDS;
        let type_url = type_url.to_string();
        if !sotw {
            return vec![framed(&DeltaDiscoveryRequest { type_url, response_nonce, ..Default::default() })];
        }
        let version_info = version.to_string();
        let request = DiscoveryRequest { version_info, type_url, response_nonce, ..Default::default() };
        if named { self.named(&request) } else { vec![framed(&request)] }
    }

    /// A request with the names of all services, whose bytes all requests share: a message's fields may come in any order.
    fn named(&self, request: &DiscoveryRequest) -> Vec<Bytes> {
        vec![with_more(request, self.names.len()), self.names.clone()]
    }

    fn node(&self, service: u32, endpoint: u32) -> Node {
        let namespace = world::namespace(self.shape, service);
        let name = world::pod_name(service, endpoint);
        let ip = world::address(self.shape, service, endpoint).to_string();
        let text = |value: &str| Value { kind: Some(Kind::StringValue(value.to_string())) };
        let labels = [("app", format!("svc-{service}")), ("security.istio.io/tlsMode", "istio".into())];
        let labels = labels.iter().map(|(key, value)| ((*key).to_string(), text(value))).collect();
        let mut fields: std::collections::HashMap<String, Value> = [
            ("NAME", name.as_str()),
            ("NAMESPACE", &namespace),
            ("SERVICE_ACCOUNT", &format!("svc-{service}")),
            ("INSTANCE_IPS", &ip),
            ("CLUSTER_ID", "bench"),
            ("DNS_CAPTURE", "true"),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_string(), text(value)))
        .collect();
        fields.insert("LABELS".into(), Value { kind: Some(Kind::StructValue(Struct { fields: labels })) });
        Node {
            id: format!("sidecar~{ip}~{name}.{namespace}~{namespace}.svc.cluster.local"),
            metadata: Some(Struct { fields }),
            locality: Some(Locality { region: "r".into(), zone: "r-a".into(), ..Default::default() }),
            ..Default::default()
        }
    }
}

fn framed(message: &impl Message) -> Bytes {
    with_more(message, 0)
}

/// A message with its header, of which so many bytes are still to come.
fn with_more(message: &impl Message, more: usize) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(5 + length);
    out.put_u8(0);
    out.put_u32(u32::try_from(length + more).unwrap_or(u32::MAX));
    // A growing buffer takes everything.
    let _ = message.encode(&mut out);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledgement_of_state_of_the_world_repeats_all_names() {
        let shape = Shape { services: 3, endpoints: 1, namespaces: 1, selectors: true };
        let message = Requests::new(shape).accept(true, EDS, "7", "n").concat();
        let length = u32::from_be_bytes(message[1..5].try_into().unwrap()) as usize;
        assert_eq!(message.len(), 5 + length);
        let read = DiscoveryRequest::decode(&message[5..]).unwrap();
        assert_eq!((read.version_info.as_str(), read.response_nonce.as_str()), ("7", "n"));
        assert_eq!(read.type_url, EDS);
        assert_eq!(read.resource_names, [0, 1, 2].map(|service| world::cluster(shape, service)));
    }
}
