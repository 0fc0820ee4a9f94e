//! Small resources, as a control plane makes them.

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbPolicy,
};
use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::transport_socket::ConfigType as TransportConfig;
use envoy_types::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, BindConfig, ConfigSource, SocketAddress, TransportSocket,
};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, FilterChainMatch, Listener};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CommonTlsContext, DownstreamTlsContext, SdsSecretConfig,
};
use envoy_types::pb::google::protobuf::{Any, BoolValue, UInt32Value};
use isthmus_proto::nds::NameTable;
use isthmus_proto::nds::name_table::NameInfo;
use isthmus_proto::resource::Resource;
use isthmus_proto::type_url;
use prost::Message;

fn resource(name: &str, message: &impl Message) -> Resource {
    Resource::new(name, message.encode_to_vec().into())
}

pub(crate) fn eds_cluster(name: &str) -> Resource {
    let ads = ConfigSourceSpecifier::Ads(AggregatedConfigSource::default());
    let eds_config = ConfigSource { config_source_specifier: Some(ads), ..Default::default() };
    let cluster = Cluster {
        name: name.into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(eds_config),
            service_name: String::new(),
        }),
        ..Default::default()
    };
    resource(name, &cluster)
}

pub(crate) fn passthrough() -> Resource {
    let cluster = Cluster {
        name: "PassthroughCluster".into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst as i32)),
        lb_policy: LbPolicy::ClusterProvided as i32,
        ..Default::default()
    };
    resource("PassthroughCluster", &cluster)
}

pub(crate) fn endpoints(cluster: &str, ip: &str, port: u16) -> Resource {
    let endpoint = LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(address(ip, port)),
            ..Default::default()
        })),
        ..Default::default()
    };
    let assignment = ClusterLoadAssignment {
        cluster_name: cluster.into(),
        endpoints: vec![LocalityLbEndpoints { lb_endpoints: vec![endpoint], ..Default::default() }],
        ..Default::default()
    };
    resource(cluster, &assignment)
}

fn address(ip: &str, port: u16) -> Address {
    let socket = SocketAddress {
        address: ip.into(),
        port_specifier: Some(PortSpecifier::PortValue(port.into())),
        ..Default::default()
    };
    Address { address: Some(AddressKind::SocketAddress(socket)) }
}

fn to_cluster(cluster: &str) -> FilterChain {
    let proxy = TcpProxy {
        stat_prefix: cluster.into(),
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.into())),
        ..Default::default()
    };
    let type_url = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy".to_string();
    let filter = Filter {
        name: "envoy.filters.network.tcp_proxy".into(),
        config_type: Some(ConfigType::TypedConfig(Any { type_url, value: proxy.encode_to_vec() })),
    };
    FilterChain { filters: vec![filter], ..Default::default() }
}

/// The listener of a service's address.
pub(crate) fn service_listener(vip: &str, port: u16, cluster: &str) -> Resource {
    let name = format!("{vip}_{port}");
    let listener = Listener {
        name: name.clone(),
        address: Some(address(vip, port)),
        bind_to_port: Some(BoolValue { value: false }),
        filter_chains: vec![to_cluster(cluster)],
        ..Default::default()
    };
    resource(&name, &listener)
}

pub(crate) fn virtual_outbound() -> Resource {
    let listener = Listener {
        name: "virtualOutbound".into(),
        address: Some(address("0.0.0.0", 15001)),
        use_original_dst: Some(BoolValue { value: true }),
        default_filter_chain: Some(to_cluster("PassthroughCluster")),
        ..Default::default()
    };
    resource("virtualOutbound", &listener)
}

/// Mutual TLS with the proxy's own certificate, as a workload's inbound chain has it.
fn mutual_tls() -> TransportSocket {
    let secret = |name: &str| SdsSecretConfig { name: name.into(), ..Default::default() };
    let context = DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_certificate_sds_secret_configs: vec![secret("default")],
            validation_context_type: Some(ValidationContextType::ValidationContextSdsSecretConfig(secret(
                "ROOTCA",
            ))),
            ..Default::default()
        }),
        require_client_certificate: Some(BoolValue { value: true }),
        ..Default::default()
    };
    let type_url =
        "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext".to_string();
    TransportSocket {
        name: "envoy.transport_sockets.tls".into(),
        config_type: Some(TransportConfig::TypedConfig(Any { type_url, value: context.encode_to_vec() })),
    }
}

/// An inbound cluster: the workload's own address, reached from 127.0.0.6.
fn inbound_cluster(name: &str) -> Resource {
    let cluster = Cluster {
        name: name.into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst as i32)),
        lb_policy: LbPolicy::ClusterProvided as i32,
        upstream_bind_config: Some(BindConfig {
            source_address: Some(SocketAddress {
                address: "127.0.0.6".into(),
                port_specifier: Some(PortSpecifier::PortValue(0)),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    resource(name, &cluster)
}

/// An inbound listener whose port takes mutual TLS only; the other ports are open.
pub(crate) fn strict_inbound(port: u16) -> Resource {
    let mut chain = to_cluster(&format!("inbound|{port}||"));
    chain.transport_socket = Some(mutual_tls());
    chain.filter_chain_match = Some(FilterChainMatch {
        destination_port: Some(UInt32Value { value: port.into() }),
        transport_protocol: "tls".into(),
        ..Default::default()
    });
    let listener = Listener {
        name: "virtualInbound".into(),
        address: Some(address("0.0.0.0", 15006)),
        use_original_dst: Some(BoolValue { value: true }),
        filter_chains: vec![chain, to_cluster("InboundPassthroughCluster")],
        ..Default::default()
    };
    resource("virtualInbound", &listener)
}

pub(crate) fn names(host: &str, ip: &str) -> Resource {
    let info = NameInfo { ips: vec![ip.into()], registry: "External".into(), ..Default::default() };
    resource("", &NameTable { table: [(host.to_string(), info)].into() })
}

/// One service with one endpoint, and a name for it.
pub(crate) fn world(host: &str, vip: &str, endpoint: (&str, u16)) -> Vec<(&'static str, Vec<Resource>)> {
    let cluster = format!("outbound|3306||{host}");
    vec![
        (
            type_url::CLUSTER,
            vec![
                eds_cluster(&cluster),
                passthrough(),
                inbound_cluster("inbound|3306||"),
                inbound_cluster("InboundPassthroughCluster"),
            ],
        ),
        (type_url::ENDPOINTS, vec![endpoints(&cluster, endpoint.0, endpoint.1)]),
        (
            type_url::LISTENER,
            vec![virtual_outbound(), strict_inbound(3306), service_listener(vip, 3306, &cluster)],
        ),
        (type_url::NAME_TABLE, vec![names(host, vip)]),
    ]
}
