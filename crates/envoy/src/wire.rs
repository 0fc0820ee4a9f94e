//! Short forms for Envoy's messages, and messages whose maps are written in key order.
//!
//! `prost` writes a `HashMap` in whatever order it iterates. A resource's version is a hash of its bytes and must be the same
//! on every replica, so maps with several keys are written through [`sorted`] or one entry at a time: concatenated messages
//! merge (Protocol Buffers, "Encoding", "Last One Wins").

use std::net::IpAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::google::protobuf as wkt;
use envoy_types::util::pack_any;
use prost::Name;

/// Messages that mirror Envoy's field numbers with ordered maps.
pub(crate) mod sorted {
    use std::collections::BTreeMap;

    use envoy_types::pb::envoy::config::core::v3 as core;
    use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
    use envoy_types::pb::google::protobuf as wkt;

    /// `google.protobuf.Struct`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Struct {
        #[prost(btree_map = "string, message", tag = "1")]
        pub(crate) fields: BTreeMap<String, Value>,
    }

    /// `google.protobuf.Value`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Value {
        #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6")]
        pub(crate) kind: Option<Kind>,
    }

    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(crate) enum Kind {
        /// Always 0.
        #[prost(int32, tag = "1")]
        Null(i32),
        #[prost(double, tag = "2")]
        Number(f64),
        #[prost(string, tag = "3")]
        Text(String),
        #[prost(bool, tag = "4")]
        Bool(bool),
        #[prost(message, tag = "5")]
        Struct(Struct),
        #[prost(message, tag = "6")]
        List(List),
    }

    /// `google.protobuf.ListValue`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct List {
        #[prost(message, repeated, tag = "1")]
        pub(crate) values: Vec<Value>,
    }

    /// `envoy.config.core.v3.Metadata`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Metadata {
        #[prost(btree_map = "string, message", tag = "1")]
        pub(crate) filter_metadata: BTreeMap<String, Struct>,
    }

    /// The metadata of an `envoy.config.cluster.v3.Cluster`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct ClusterMetadata {
        #[prost(message, optional, tag = "25")]
        pub(crate) metadata: Option<Metadata>,
    }

    /// `envoy.config.endpoint.v3.ClusterLoadAssignment`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct ClusterLoadAssignment {
        #[prost(string, tag = "1")]
        pub(crate) cluster_name: String,
        #[prost(message, repeated, tag = "2")]
        pub(crate) endpoints: Vec<LocalityLbEndpoints>,
    }

    /// `envoy.config.endpoint.v3.LocalityLbEndpoints`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct LocalityLbEndpoints {
        #[prost(message, optional, tag = "1")]
        pub(crate) locality: Option<core::Locality>,
        #[prost(message, repeated, tag = "2")]
        pub(crate) lb_endpoints: Vec<LbEndpoint>,
        #[prost(message, optional, tag = "3")]
        pub(crate) load_balancing_weight: Option<wkt::UInt32Value>,
        #[prost(uint32, tag = "5")]
        pub(crate) priority: u32,
    }

    /// `envoy.config.endpoint.v3.LbEndpoint`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct LbEndpoint {
        #[prost(message, optional, tag = "1")]
        pub(crate) endpoint: Option<endpoint::Endpoint>,
        #[prost(int32, tag = "2")]
        pub(crate) health_status: i32,
        #[prost(message, optional, tag = "3")]
        pub(crate) metadata: Option<Metadata>,
        #[prost(message, optional, tag = "4")]
        pub(crate) load_balancing_weight: Option<wkt::UInt32Value>,
    }

    /// `istio.networking.nds.v1.NameTable`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct NameTable {
        #[prost(btree_map = "string, message", tag = "1")]
        pub(crate) table: BTreeMap<String, isthmus_proto::nds::name_table::NameInfo>,
    }

    /// `envoy.extensions.access_loggers.file.v3.FileAccessLog`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct LogFile {
        #[prost(string, tag = "1")]
        pub(crate) path: String,
        #[prost(message, optional, tag = "5")]
        pub(crate) format: Option<LogFormat>,
    }

    /// `envoy.config.core.v3.SubstitutionFormatString`: one of both.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct LogFormat {
        #[prost(message, optional, tag = "2")]
        pub(crate) json: Option<Struct>,
        #[prost(message, optional, tag = "5")]
        pub(crate) text: Option<Inline>,
    }

    /// An inline text as `envoy.config.core.v3.DataSource`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Inline {
        #[prost(string, tag = "3")]
        pub(crate) text: String,
    }

    /// A text value.
    pub(crate) fn text(value: impl Into<String>) -> Value {
        Value { kind: Some(Kind::Text(value.into())) }
    }

    /// A struct of text fields.
    pub(crate) fn texts<K: Into<String>, V: Into<String>>(
        fields: impl IntoIterator<Item = (K, V)>,
    ) -> Struct {
        Struct { fields: fields.into_iter().map(|(k, v)| (k.into(), text(v))).collect() }
    }
}

/// A TCP socket address.
pub(crate) fn socket(address: &str, port: u16) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: address.to_string(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(u32::from(port))),
            ..Default::default()
        })),
    }
}

/// Where an endpoint is: a TCP socket, or the Unix socket that `unix://PATH` names.
pub(crate) fn place(address: &str, port: u16) -> core::Address {
    match address.strip_prefix("unix://") {
        Some(path) => core::Address {
            address: Some(core::address::Address::Pipe(core::Pipe {
                path: path.to_string(),
                ..Default::default()
            })),
        },
        None => socket(address, port),
    }
}

/// One address as a CIDR range.
pub(crate) fn host_range(address: IpAddr) -> core::CidrRange {
    range(&ipnet::IpNet::from(address))
}

/// A CIDR range.
pub(crate) fn range(net: &ipnet::IpNet) -> core::CidrRange {
    core::CidrRange {
        address_prefix: net.network().to_string(),
        prefix_len: Some(number(u32::from(net.prefix_len()))),
    }
}

/// A wrapped number.
pub(crate) fn number(value: u32) -> wkt::UInt32Value {
    wkt::UInt32Value { value }
}

/// A wrapped boolean.
pub(crate) fn boolean(value: bool) -> wkt::BoolValue {
    wkt::BoolValue { value }
}

/// A duration; what is beyond the wire's range becomes its end.
pub(crate) fn duration(value: Duration) -> wkt::Duration {
    wkt::Duration {
        seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(value.subsec_nanos()).unwrap_or(0),
    }
}

/// A struct with one text field.
pub(crate) fn one_text(key: &str, value: &str) -> wkt::Struct {
    let value = wkt::Value { kind: Some(wkt::value::Kind::StringValue(value.to_string())) };
    wkt::Struct { fields: std::iter::once((key.to_string(), value)).collect() }
}

/// The aggregated stream as source of further resources.
pub(crate) fn ads() -> core::ConfigSource {
    core::ConfigSource {
        resource_api_version: core::ApiVersion::V3 as i32,
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
            core::AggregatedConfigSource {},
        )),
        // a cluster whose endpoints are late must wait, not go on empty
        initial_fetch_timeout: Some(wkt::Duration { seconds: 0, nanos: 0 }),
        ..Default::default()
    }
}

/// A network filter.
pub(crate) fn filter(name: &str, config: impl Name) -> listener::Filter {
    listener::Filter {
        name: name.to_string(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(pack_any(config))),
    }
}

/// A network filter whose message is already encoded.
pub(crate) fn encoded_filter(name: &str, type_url: String, value: Vec<u8>) -> listener::Filter {
    listener::Filter {
        name: name.to_string(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(wkt::Any { type_url, value })),
    }
}

/// A listener filter.
pub(crate) fn listener_filter(name: &str, config: impl Name) -> listener::ListenerFilter {
    listener::ListenerFilter {
        name: name.to_string(),
        config_type: Some(listener::listener_filter::ConfigType::TypedConfig(pack_any(config))),
        ..Default::default()
    }
}

/// A transport socket.
pub(crate) fn transport_socket(name: &str, config: impl Name) -> core::TransportSocket {
    core::TransportSocket {
        name: name.to_string(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(pack_any(config))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
    use prost::Message;

    use super::*;

    #[test]
    fn the_ordered_mirrors_read_as_envoys_own_messages() {
        let metadata = sorted::Metadata {
            filter_metadata: BTreeMap::from([
                ("b".to_string(), sorted::texts([("x", "1"), ("y", "2")])),
                ("a".to_string(), sorted::texts([("z", "3")])),
            ]),
        };
        let ours = sorted::ClusterLoadAssignment {
            cluster_name: "c".to_string(),
            endpoints: vec![sorted::LocalityLbEndpoints {
                lb_endpoints: vec![sorted::LbEndpoint {
                    endpoint: Some(endpoint::Endpoint {
                        address: Some(socket("10.0.0.1", 80)),
                        ..Default::default()
                    }),
                    health_status: core::HealthStatus::Unhealthy as i32,
                    metadata: Some(metadata),
                    load_balancing_weight: Some(number(7)),
                }],
                load_balancing_weight: Some(number(9)),
                priority: 3,
                ..Default::default()
            }],
        };
        let bytes = ours.encode_to_vec();
        let theirs = endpoint::ClusterLoadAssignment::decode(&*bytes).unwrap();
        assert_eq!(theirs.cluster_name, "c");
        let locality = &theirs.endpoints[0];
        assert_eq!((locality.priority, locality.load_balancing_weight), (3, Some(number(9))));
        let host = &locality.lb_endpoints[0];
        assert_eq!((host.health_status, host.load_balancing_weight), (2, Some(number(7))));
        let fields = &host.metadata.as_ref().unwrap().filter_metadata["b"].fields;
        assert_eq!(fields["y"].kind, Some(wkt::value::Kind::StringValue("2".to_string())));
        let Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(host)) = &host.host_identifier else {
            panic!("an endpoint")
        };
        assert_eq!(host.address, Some(socket("10.0.0.1", 80)));
    }
}
