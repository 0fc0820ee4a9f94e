//! Clusters: one service port (or subset of it) as a client or a gateway dials it.

mod balance;
pub(crate) mod fixed;
pub(crate) mod outlier;
pub(crate) mod tls;

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3 as pb;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy};
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::core::v3::proxy_protocol_config::Version;
use envoy_types::pb::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use envoy_types::pb::envoy::r#type::v3::Percent;
use isthmus_model::{Endpoint, Hostname, Location, Protocol, Resolution, ServicePort, Source};
use isthmus_proto::resource::Resource;
use isthmus_registry::MeshService;
use isthmus_resources::istio::{ClientTlsMode, ConnectionPool, ProxyProtocol, ProxyVersion};
use isthmus_sni::ServiceName;
use prost::Message;

use crate::destination::{Effective, Rule};
use crate::endpoint;
use crate::wire::{ads, duration, number, sorted, transport_socket};

/// Who dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Use {
    /// A workload: mutual TLS where the endpoint speaks it.
    Client,
    /// A gateway that originates: as a workload, but nobody dialled its destination, so that endpoints must be known.
    Origin,
    /// A gRPC client without a proxy: mutual TLS where a rule asks for it.
    Grpc,
    /// A gateway that passes TLS on: endpoints of its own network, never TLS of its own.
    Passthrough,
}

/// A port of a service, or a subset of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) service: &'a MeshService,
    pub(crate) port: &'a ServicePort,
    pub(crate) subset: &'a str,
    pub(crate) usage: Use,
}

impl Target<'_> {
    /// `outbound|PORT|SUBSET|HOST`, or the server name for gateways that pass it on.
    pub(crate) fn name(&self) -> String {
        match self.usage {
            Use::Client | Use::Origin | Use::Grpc => {
                cluster_name(self.port.number, self.subset, self.service.service.host.as_str())
            }
            // server names have no case, and are compared in lower case
            Use::Passthrough => self.server_name().to_ascii_lowercase(),
        }
    }

    /// `outbound_.PORT_.SUBSET_.HOST`.
    pub(crate) fn server_name(&self) -> String {
        server_name(self.port.number, self.subset, self.service.service.host.as_str())
    }

    /// How Envoy finds the endpoints.
    pub(crate) fn discovery(&self, endpoints: usize) -> DiscoveryType {
        match (self.service.service.resolution, self.usage) {
            (Resolution::None, Use::Client) => DiscoveryType::OriginalDst,
            (Resolution::Static | Resolution::None, _) => DiscoveryType::Eds,
            // Envoy refuses LOGICAL_DNS with any other number of endpoints
            (Resolution::DnsRoundRobin, _) if endpoints == 1 => DiscoveryType::LogicalDns,
            (Resolution::Dns | Resolution::DnsRoundRobin, _) => DiscoveryType::StrictDns,
        }
    }
}

/// `outbound|PORT|SUBSET|HOST`.
pub(crate) fn cluster_name(port: u16, subset: &str, host: &str) -> String {
    format!("outbound|{port}|{subset}|{host}")
}

/// `outbound_.PORT_.SUBSET_.HOST`.
pub(crate) fn server_name(port: u16, subset: &str, host: &str) -> String {
    format!("outbound_.{port}_.{subset}_.{host}")
}

/// Istio's `connectTimeout` of the mesh.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Below the idle time-outs of cloud load balancers (350 s on AWS, 4 min on Azure), which gateways often stand behind; Istio
/// leaves keepalive off.
const KEEPALIVE_TIME: Duration = Duration::from_secs(180);

/// The cluster of a target. `endpoints` are looked at for services without EDS only.
pub(crate) fn outbound(target: Target<'_>, rule: Option<&Rule>, endpoints: &[Endpoint]) -> Resource {
    let policy = Effective::of(rule, target.port.number, target.subset);
    let name = target.name();
    let discovery = target.discovery(endpoints.len());
    let mut cluster = pb::Cluster {
        name: name.clone(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(discovery as i32)),
        connect_timeout: Some(duration(connect_timeout(&policy))),
        circuit_breakers: Some(breakers(policy.pool)),
        outlier_detection: policy.outlier.map(outlier::detection),
        common_lb_config: Some(common_balancing(&policy, target.service)),
        upstream_connection_options: keepalive(&policy),
        ..Default::default()
    };
    balance::apply(&mut cluster, &policy);
    match discovery {
        DiscoveryType::Eds => {
            cluster.eds_cluster_config =
                Some(pb::cluster::EdsClusterConfig { eds_config: Some(ads()), service_name: name.clone() });
        }
        DiscoveryType::OriginalDst => {
            cluster.lb_policy = LbPolicy::ClusterProvided as i32;
            cluster.lb_config = None;
            cluster.outlier_detection = None;
            cluster.common_lb_config = None;
        }
        _ => {
            cluster.load_assignment = Some(endpoint::inline(target, &name, endpoints));
            resolve(&mut cluster);
        }
    }
    secure(&mut cluster, target, &policy, endpoints);
    if let Some(header) = policy.announce.filter(|_| matches!(target.usage, Use::Client | Use::Origin)) {
        announce(&mut cluster, header);
    }
    let mut body = cluster.encode_to_vec();
    body.extend(metadata(target, rule).encode_to_vec());
    Resource::new(name, body.into())
}

/// Istio's refresh: the record's TTL, 60 s where there is none.
#[expect(
    deprecated,
    reason = "the cluster extension that replaces these fields is unknown to proxies older than a year"
)]
fn resolve(cluster: &mut pb::Cluster) {
    cluster.dns_lookup_family = pb::cluster::DnsLookupFamily::All as i32;
    cluster.dns_refresh_rate = Some(duration(Duration::from_secs(60)));
    cluster.respect_dns_ttl = true;
}

/// Istio's rules for TLS: what a rule says replaces automatic mutual TLS; outside the mesh there is none.
fn secure(cluster: &mut pb::Cluster, target: Target<'_>, policy: &Effective<'_>, endpoints: &[Endpoint]) {
    if target.usage == Use::Passthrough {
        return;
    }
    let service = target.service;
    if let Some(rule) = policy.tls {
        cluster.transport_socket = match rule.mode {
            ClientTlsMode::Disable => None,
            ClientTlsMode::IstioMutual => Some(tls::mutual(target, Some(rule))),
            ClientTlsMode::Simple | ClientTlsMode::Mutual => Some(tls::originate(target, rule)),
        };
        return;
    }
    if service.service.location == Location::MeshExternal || policy.mesh.is_some_and(|mesh| mesh.plain) {
        return;
    }
    if cluster.lb_policy == LbPolicy::ClusterProvided as i32 {
        let mutual = !endpoints.is_empty()
            && endpoints.iter().all(|endpoint| endpoint.tls == isthmus_model::TlsMode::Istio);
        cluster.transport_socket = mutual.then(|| tls::mutual(target, None));
        return;
    }
    cluster.transport_socket_matches = tls::automatic(target);
}

/// Puts a PROXY header before whatever is spoken to the endpoints. Not where a gateway passes mesh TLS on: what ends that knows
/// of no such header.
fn announce(cluster: &mut pb::Cluster, header: ProxyProtocol) {
    let version = match header.version {
        ProxyVersion::V1 => Version::V1,
        ProxyVersion::V2 => Version::V2,
    };
    let wrap = |inner: Option<core::TransportSocket>| {
        let plain = || transport_socket("envoy.transport_sockets.raw_buffer", RawBuffer {});
        let outer = ProxyProtocolUpstreamTransport {
            config: Some(core::ProxyProtocolConfig { version: version.into(), ..Default::default() }),
            transport_socket: Some(inner.unwrap_or_else(plain)),
            ..Default::default()
        };
        Some(transport_socket("envoy.transport_sockets.upstream_proxy_protocol", outer))
    };
    for matched in &mut cluster.transport_socket_matches {
        matched.transport_socket = wrap(matched.transport_socket.take());
    }
    if cluster.transport_socket_matches.is_empty() {
        cluster.transport_socket = wrap(cluster.transport_socket.take());
    }
}

pub(crate) fn connect_timeout(policy: &Effective<'_>) -> Duration {
    let own = policy.pool.and_then(|pool| pool.tcp.as_ref()?.connect_timeout);
    own.filter(|timeout| !timeout.0.is_zero())
        .or(policy.mesh.and_then(|mesh| mesh.connect_timeout))
        .map(|timeout| timeout.0)
        .filter(|timeout| !timeout.is_zero())
        .unwrap_or(CONNECT_TIMEOUT)
}

/// No limits but the user's: Envoy's own 1024 connections are a surprise.
pub(crate) fn breakers(pool: Option<&ConnectionPool>) -> pb::CircuitBreakers {
    let tcp = pool.and_then(|pool| pool.tcp.as_ref());
    let http = pool.and_then(|pool| pool.http.as_ref());
    let given = |value: Option<i32>| {
        Some(number(value.and_then(|value| u32::try_from(value).ok()).filter(|v| *v > 0).unwrap_or(u32::MAX)))
    };
    pb::CircuitBreakers {
        thresholds: vec![pb::circuit_breakers::Thresholds {
            max_connections: given(tcp.and_then(|tcp| tcp.max_connections)),
            max_pending_requests: given(http.map(|http| http.http1_max_pending_requests)),
            max_requests: given(http.map(|http| http.http2_max_requests)),
            max_retries: given(http.map(|http| http.max_retries)),
            track_remaining: true,
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// Panic is off: an endpoint that is known to be bad gets nothing, however many there are. Weighted localities only where shares
/// are asked for.
fn common_balancing(policy: &Effective<'_>, service: &MeshService) -> pb::cluster::CommonLbConfig {
    use pb::cluster::common_lb_config::{LocalityConfigSpecifier, LocalityWeightedLbConfig};
    let minimum = policy.outlier.map_or(0, |outlier| outlier.min_health_percent.clamp(0, 100));
    let setting = policy.locality(service);
    let failing_over = policy.outlier.is_some() || service.traffic_distribution.is_some();
    let weighted = setting.is_some_and(|setting| {
        setting.enabled != Some(false)
            && (!setting.distribute.is_empty()
                || (failing_over && !(setting.failover.is_empty() && setting.failover_priority.is_empty())))
    });
    pb::cluster::CommonLbConfig {
        healthy_panic_threshold: Some(Percent { value: f64::from(minimum) }),
        locality_config_specifier: weighted
            .then_some(LocalityConfigSpecifier::LocalityWeightedLbConfig(LocalityWeightedLbConfig {})),
        ..Default::default()
    }
}

fn keepalive(policy: &Effective<'_>) -> Option<pb::UpstreamConnectionOptions> {
    let own = policy.pool.and_then(|pool| pool.tcp.as_ref()?.tcp_keepalive.as_ref());
    let given = own.or(policy.mesh.and_then(|mesh| mesh.keepalive.as_ref()));
    let seconds = |value: Option<Duration>| {
        let seconds = value.map(|value| u32::try_from(value.as_secs().max(1)).unwrap_or(u32::MAX));
        seconds.map(number)
    };
    let tcp_keepalive = match given {
        Some(given) => core::TcpKeepalive {
            keepalive_probes: (given.probes > 0).then(|| number(given.probes)),
            keepalive_time: seconds(given.time.map(|time| time.0)),
            keepalive_interval: seconds(given.interval.map(|interval| interval.0)),
        },
        None => core::TcpKeepalive { keepalive_time: seconds(Some(KEEPALIVE_TIME)), ..Default::default() },
    };
    Some(pb::UpstreamConnectionOptions { tcp_keepalive: Some(tcp_keepalive), ..Default::default() })
}

/// Istio's cluster metadata: the service and the rule, for telemetry and people.
fn metadata(target: Target<'_>, rule: Option<&Rule>) -> sorted::ClusterMetadata {
    let service = &target.service.service;
    let described = sorted::texts([
        ("host", service.host.as_str()),
        ("name", &service.name),
        ("namespace", service.namespace.as_str()),
    ]);
    let services =
        sorted::List { values: vec![sorted::Value { kind: Some(sorted::Kind::Struct(described)) }] };
    let mut fields = BTreeMap::from([(
        "services".to_string(),
        sorted::Value { kind: Some(sorted::Kind::List(services)) },
    )]);
    if let Some(rule) = rule.filter(|rule| rule.is_declared()) {
        let path = format!(
            "/apis/networking.istio.io/v1/namespaces/{}/destination-rule/{}",
            rule.namespace, rule.name
        );
        fields.insert("config".to_string(), sorted::text(path));
    }
    if !target.subset.is_empty() {
        fields.insert("subset".to_string(), sorted::text(target.subset));
    }
    if matches!(service.source, Source::Imported(_)) {
        fields.insert("imported".to_string(), sorted::text("true"));
    }
    let istio = sorted::Struct { fields };
    sorted::ClusterMetadata {
        metadata: Some(sorted::Metadata { filter_metadata: BTreeMap::from([("istio".to_string(), istio)]) }),
    }
}

/// Whether a port carries TCP of any kind.
pub(crate) fn is_tcp(port: &ServicePort) -> bool {
    port.protocol != Protocol::Udp && port.number != 0
}

/// Whether a subset may be part of a name at the wire.
pub(crate) fn is_nameable(subset: &str, host: &Hostname) -> bool {
    ServiceName::with_subset(NonZeroU16::MIN, subset, host.clone()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_gateways_grammar() {
        let host: Hostname = "reviews.bookinfo.svc.cluster.local".parse().unwrap();
        let port = NonZeroU16::new(9080).unwrap();
        for subset in ["", "v2"] {
            let theirs = ServiceName::with_subset(port, subset, host.clone()).unwrap();
            assert_eq!(cluster_name(9080, subset, host.as_str()), theirs.cluster());
            assert_eq!(server_name(9080, subset, host.as_str()), theirs.sni());
        }
        assert!(is_nameable("v2", &host) && !is_nameable("v_.2", &host));
    }
}
