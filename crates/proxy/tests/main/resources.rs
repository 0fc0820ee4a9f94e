//! Resources as the control plane sends them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3 as cds;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, LbPolicy, TransportSocketMatch,
};
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as eds;
use envoy_types::pb::envoy::config::listener::v3 as lds;
use envoy_types::pb::envoy::config::rbac::v3 as rbac;
use envoy_types::pb::envoy::extensions::filters::network::rbac::v3::Rbac as RbacFilter;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use envoy_types::pb::google::protobuf as pb;
use envoy_types::util::pack_any;
use prost::{Message, Name};

pub(crate) fn number(value: u32) -> Option<pb::UInt32Value> {
    Some(pb::UInt32Value { value })
}

pub(crate) fn time(duration: Duration) -> Option<pb::Duration> {
    let seconds = i64::try_from(duration.as_secs()).unwrap();
    Some(pb::Duration { seconds, nanos: i32::try_from(duration.subsec_nanos()).unwrap() })
}

fn text(value: &str) -> pb::Value {
    pb::Value { kind: Some(pb::value::Kind::StringValue(value.to_string())) }
}

fn structure(pairs: &[(&str, &str)]) -> pb::Struct {
    pb::Struct { fields: pairs.iter().map(|(key, value)| ((*key).to_string(), text(value))).collect() }
}

pub(crate) fn address(at: SocketAddr) -> Option<core::Address> {
    let socket = core::SocketAddress {
        address: at.ip().to_string(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(at.port().into())),
        ..Default::default()
    };
    Some(core::Address { address: Some(core::address::Address::SocketAddress(socket)) })
}

fn socket<T: Message + Name>(name: &str, config: T) -> Option<core::TransportSocket> {
    let config_type = Some(core::transport_socket::ConfigType::TypedConfig(pack_any(config)));
    Some(core::TransportSocket { name: name.to_string(), config_type })
}

fn secret(name: &str) -> tls::SdsSecretConfig {
    tls::SdsSecretConfig { name: name.to_string(), sds_config: None }
}

fn common(alpn: &[&str], names: Vec<matcher::StringMatcher>) -> Option<tls::CommonTlsContext> {
    let names = names.into_iter().map(|matcher| tls::SubjectAltNameMatcher {
        san_type: tls::subject_alt_name_matcher::SanType::Uri.into(),
        matcher: Some(matcher),
        ..Default::default()
    });
    let context = tls::CertificateValidationContext {
        match_typed_subject_alt_names: names.collect(),
        ..Default::default()
    };
    let combined = tls::common_tls_context::CombinedCertificateValidationContext {
        default_validation_context: Some(context),
        validation_context_sds_secret_config: Some(secret("ROOTCA")),
        ..Default::default()
    };
    Some(tls::CommonTlsContext {
        tls_certificate_sds_secret_configs: vec![secret("default")],
        alpn_protocols: alpn.iter().map(ToString::to_string).collect(),
        validation_context_type: Some(
            tls::common_tls_context::ValidationContextType::CombinedValidationContext(combined),
        ),
        ..Default::default()
    })
}

pub(crate) fn exact(text: &str) -> matcher::StringMatcher {
    let pattern = matcher::string_matcher::MatchPattern::Exact(text.to_string());
    matcher::StringMatcher { match_pattern: Some(pattern), ignore_case: false }
}

pub(crate) fn prefix(text: &str) -> matcher::StringMatcher {
    let pattern = matcher::string_matcher::MatchPattern::Prefix(text.to_string());
    matcher::StringMatcher { match_pattern: Some(pattern), ignore_case: false }
}

/// An EDS cluster with auto mutual TLS, as for `outbound|PORT||HOST`.
pub(crate) fn mesh_cluster(name: &str, identities: &[&str]) -> cds::Cluster {
    let sni = name.replace('|', "_.");
    let upstream = tls::UpstreamTlsContext {
        common_tls_context: common(
            &["istio-peer-exchange", "istio"],
            identities.iter().map(|id| exact(id)).collect(),
        ),
        sni,
        ..Default::default()
    };
    let matches = vec![
        TransportSocketMatch {
            name: "tlsMode-istio".into(),
            r#match: Some(structure(&[("tlsMode", "istio")])),
            transport_socket: socket("envoy.transport_sockets.tls", upstream),
        },
        TransportSocketMatch {
            name: "tlsMode-disabled".into(),
            r#match: Some(pb::Struct::default()),
            transport_socket: socket("envoy.transport_sockets.raw_buffer", RawBuffer::default()),
        },
    ];
    cds::Cluster { transport_socket_matches: matches, ..plain_cluster(name) }
}

/// An EDS cluster without TLS.
pub(crate) fn plain_cluster(name: &str) -> cds::Cluster {
    cds::Cluster {
        name: name.to_string(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        connect_timeout: time(Duration::from_secs(2)),
        lb_policy: LbPolicy::LeastRequest.into(),
        ..Default::default()
    }
}

/// As Istio makes it from a DestinationRule: `failures` in a row, no panic.
pub(crate) fn with_outlier(mut cluster: cds::Cluster, failures: u32, base: Duration) -> cds::Cluster {
    cluster.outlier_detection = Some(cds::OutlierDetection {
        consecutive_5xx: number(failures),
        enforcing_consecutive_5xx: number(100),
        interval: time(Duration::from_secs(1)),
        base_ejection_time: time(base),
        max_ejection_percent: number(100),
        ..Default::default()
    });
    cluster.common_lb_config = Some(cds::cluster::CommonLbConfig {
        healthy_panic_threshold: Some(Default::default()),
        ..Default::default()
    });
    cluster
}

/// `PassthroughCluster`, or `inbound|PORT||` with its source.
pub(crate) fn original_cluster(name: &str, source: Option<&str>) -> cds::Cluster {
    let bind = source.map(|source| core::BindConfig {
        source_address: Some(core::SocketAddress { address: source.to_string(), ..Default::default() }),
        ..Default::default()
    });
    cds::Cluster {
        name: name.to_string(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst.into())),
        lb_policy: LbPolicy::ClusterProvided.into(),
        connect_timeout: time(Duration::from_secs(2)),
        upstream_bind_config: bind,
        ..Default::default()
    }
}

/// One endpoint of an assignment.
pub(crate) fn endpoint(at: SocketAddr, mesh: bool) -> eds::LbEndpoint {
    let mut metadata = HashMap::from([(
        "istio".to_string(),
        structure(&[("workload", "reviews-v2;default;reviews;v2;east")]),
    )]);
    if mesh {
        metadata.insert("envoy.transport_socket_match".to_string(), structure(&[("tlsMode", "istio")]));
    }
    let endpoint = eds::Endpoint { address: address(at), ..Default::default() };
    eds::LbEndpoint {
        host_identifier: Some(eds::lb_endpoint::HostIdentifier::Endpoint(endpoint)),
        metadata: Some(core::Metadata { filter_metadata: metadata, ..Default::default() }),
        ..Default::default()
    }
}

/// Endpoints by priority.
pub(crate) fn assignment(name: &str, priorities: Vec<Vec<eds::LbEndpoint>>) -> eds::ClusterLoadAssignment {
    let groups =
        priorities.into_iter().enumerate().map(|(priority, lb_endpoints)| eds::LocalityLbEndpoints {
            locality: Some(core::Locality { region: format!("region{priority}"), ..Default::default() }),
            lb_endpoints,
            load_balancing_weight: number(1),
            priority: u32::try_from(priority).unwrap(),
            ..Default::default()
        });
    eds::ClusterLoadAssignment {
        cluster_name: name.to_string(),
        endpoints: groups.collect(),
        ..Default::default()
    }
}

pub(crate) fn filter<T: Message + Name>(name: &str, config: T) -> lds::Filter {
    let config_type = Some(lds::filter::ConfigType::TypedConfig(pack_any(config)));
    lds::Filter { name: name.to_string(), config_type }
}

pub(crate) fn proxy_to(cluster: &str) -> lds::Filter {
    let proxy = tcp::TcpProxy {
        stat_prefix: cluster.to_string(),
        cluster_specifier: Some(tcp::tcp_proxy::ClusterSpecifier::Cluster(cluster.to_string())),
        ..Default::default()
    };
    filter("envoy.filters.network.tcp_proxy", proxy)
}

fn on(value: bool) -> Option<pb::BoolValue> {
    Some(pb::BoolValue { value })
}

/// `virtualOutbound` with a default chain to this cluster.
pub(crate) fn virtual_outbound(cluster: &str) -> lds::Listener {
    lds::Listener {
        name: "virtualOutbound".into(),
        address: address("0.0.0.0:15001".parse().unwrap()),
        use_original_dst: on(true),
        default_filter_chain: Some(lds::FilterChain {
            name: "virtualOutbound-catchall-tcp".into(),
            filters: vec![proxy_to(cluster)],
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// `VIP_PORT`.
pub(crate) fn service_listener(at: SocketAddr, cluster: &str) -> lds::Listener {
    lds::Listener {
        name: format!("{}_{}", at.ip(), at.port()),
        address: address(at),
        bind_to_port: on(false),
        filter_chains: vec![lds::FilterChain { filters: vec![proxy_to(cluster)], ..Default::default() }],
        ..Default::default()
    }
}

/// PeerAuthentication modes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Strict,
    Permissive,
}

pub(crate) const ISTIO_ALPN: [&str; 5] =
    ["istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"];

/// `virtualInbound` with the chains of one TCP port.
pub(crate) fn virtual_inbound(port: u16, mode: Mode, rbac: Vec<RbacFilter>) -> lds::Listener {
    let cluster = format!("inbound|{port}||");
    let filters = || {
        let mut filters: Vec<lds::Filter> =
            rbac.iter().cloned().map(|rules| filter("envoy.filters.network.rbac", rules)).collect();
        filters.push(proxy_to(&cluster));
        filters
    };
    let downstream = tls::DownstreamTlsContext {
        common_tls_context: common(
            &["istio-peer-exchange", "h2", "http/1.1"],
            vec![prefix("spiffe://cluster.local/")],
        ),
        require_client_certificate: on(true),
        ..Default::default()
    };
    let matched = |transport: &str, alpn: &[&str]| lds::FilterChainMatch {
        destination_port: number(port.into()),
        transport_protocol: transport.to_string(),
        application_protocols: alpn.iter().map(ToString::to_string).collect(),
        ..Default::default()
    };
    let terminated = |alpn: &[&str]| lds::FilterChain {
        name: format!("{port}-mtls"),
        filter_chain_match: Some(matched("tls", alpn)),
        filters: filters(),
        transport_socket: socket("envoy.transport_sockets.tls", downstream.clone()),
        ..Default::default()
    };
    let passed = |transport: &str| lds::FilterChain {
        name: format!("{port}-{transport}"),
        filter_chain_match: Some(matched(transport, &[])),
        filters: filters(),
        ..Default::default()
    };
    let filter_chains = match mode {
        Mode::Strict => vec![terminated(&[])],
        Mode::Permissive => vec![terminated(&ISTIO_ALPN), passed("tls"), passed("raw_buffer")],
    };
    lds::Listener {
        name: "virtualInbound".into(),
        address: address("0.0.0.0:15006".parse().unwrap()),
        listener_filters: ["envoy.filters.listener.original_dst", "envoy.filters.listener.tls_inspector"]
            .map(|name| lds::ListenerFilter { name: name.into(), ..Default::default() })
            .into(),
        traffic_direction: core::TrafficDirection::Inbound.into(),
        filter_chains,
        ..Default::default()
    }
}

/// A gateway's listener: server names to clusters, Istio's protocols only.
pub(crate) fn gateway_listener(name: &str, chains: &[(&str, &str)]) -> lds::Listener {
    let chain = |(server_name, cluster): &(&str, &str)| lds::FilterChain {
        filter_chain_match: Some(lds::FilterChainMatch {
            server_names: vec![(*server_name).to_string()],
            application_protocols: ISTIO_ALPN.iter().map(ToString::to_string).collect(),
            ..Default::default()
        }),
        filters: vec![proxy_to(cluster)],
        ..Default::default()
    };
    lds::Listener {
        name: name.to_string(),
        address: address("127.0.0.1:0".parse().unwrap()),
        listener_filters: vec![lds::ListenerFilter {
            name: "envoy.filters.listener.tls_inspector".into(),
            ..Default::default()
        }],
        filter_chains: chains.iter().map(chain).collect(),
        ..Default::default()
    }
}

/// Lets one identity in, under a policy's name.
pub(crate) fn only(policy: &str, identity: &str) -> RbacFilter {
    let authenticated = rbac::principal::Authenticated { principal_name: Some(exact(identity)) };
    let rule = rbac::Policy {
        permissions: vec![rbac::Permission { rule: Some(rbac::permission::Rule::Any(true)) }],
        principals: vec![rbac::Principal {
            identifier: Some(rbac::principal::Identifier::Authenticated(authenticated)),
        }],
        ..Default::default()
    };
    let rules = rbac::Rbac {
        action: rbac::rbac::Action::Allow.into(),
        policies: HashMap::from([(policy.to_string(), rule)]),
        ..Default::default()
    };
    RbacFilter { rules: Some(rules), stat_prefix: "tcp.".into(), ..Default::default() }
}
