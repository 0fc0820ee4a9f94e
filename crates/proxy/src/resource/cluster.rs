//! Clusters.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3 as proto;
use envoy_types::pb::envoy::config::core::v3::{BindConfig, Metadata, TcpKeepalive};
use envoy_types::pb::google::protobuf as pb;
use proto::cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy};

use super::assignment::{Assignment, Listed};
use super::tls::{Configurations, Upstream};
use super::{Checked, Invalid, Within, decode, duration, ip, text, texts};
use crate::config::Keepalive;

/// What an endpoint's metadata must hold.
type Pairs = Vec<(String, String)>;

/// A compiled cluster.
#[derive(Debug)]
pub(crate) struct ClusterConfig {
    pub(crate) name: Arc<str>,
    pub(crate) kind: Kind,
    /// For one attempt, its TLS handshake included.
    pub(crate) connect_timeout: Duration,
    pub(crate) policy: Policy,
    /// Below this share of healthy endpoints, in percent, all are used. Envoy's default is 50, Istio sends 0 with outlier
    /// detection.
    pub(crate) panic: f64,
    pub(crate) weighted_localities: bool,
    transports: Box<[(Pairs, Upstream)]>,
    pub(crate) transport: Upstream,
    pub(crate) outlier: Option<Outlier>,
    /// Source addresses, at most one for each family.
    pub(crate) sources: Box<[IpAddr]>,
    /// TCP keepalive of upstream sockets.
    pub(crate) keepalive: Option<Keepalive>,
    pub(crate) max_connections: Option<u32>,
    pub(crate) service: Option<Service>,
    /// For names that are resolved here.
    pub(crate) refresh: Duration,
}

/// Where a cluster's endpoints come from.
#[derive(Debug, PartialEq)]
pub(crate) enum Kind {
    /// EDS, under this name.
    Eds(Arc<str>),
    /// The cluster lists them.
    Static(Assignment),
    /// The cluster lists host names.
    Dns(Assignment),
    /// Each connection has its own: where it was going.
    OriginalDestination,
}

/// How one of many endpoints is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    LeastRequest,
    RoundRobin,
    Random,
}

/// When an endpoint is taken out, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outlier {
    /// Failures in a row.
    pub(crate) consecutive: u32,
    /// A time without ejection after which one earlier ejection is forgiven.
    pub(crate) interval: Duration,
    /// First ejection; the n-th lasts n times as long.
    pub(crate) base: Duration,
    pub(crate) longest: Duration,
    /// Of the cluster's endpoints, at the same time.
    pub(crate) max_percent: u32,
    /// One may always be ejected, whatever the percentage says.
    pub(crate) always_one: bool,
}

/// The service behind a cluster, for metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) host: Arc<str>,
    pub(crate) name: Arc<str>,
    pub(crate) namespace: Arc<str>,
}

impl ClusterConfig {
    pub(crate) fn compile(name: &Arc<str>, bytes: &[u8], tls: &Configurations) -> Checked<Self> {
        let cluster: proto::Cluster = decode(bytes)?;
        let refuse = |set: bool, field: &str| if set { Err(Invalid::unsupported(field)) } else { Ok(()) };
        refuse(!cluster.health_checks.is_empty(), "health_checks")?;
        refuse(cluster.lb_subset_config.is_some(), "lb_subset_config")?;
        refuse(cluster.transport_socket_matcher.is_some(), "transport_socket_matcher")?;
        refuse(!cluster.filters.is_empty(), "filters")?;
        refuse(cluster.upstream_config.is_some(), "upstream_config")?;
        let kind = kind(name, &cluster)?;
        let policy = policy(&cluster, &kind)?;
        let mut transports = Vec::with_capacity(cluster.transport_socket_matches.len());
        for matched in &cluster.transport_socket_matches {
            let field = format!("transport_socket_matches[{:?}]", matched.name);
            let transport = tls.upstream(matched.transport_socket.as_ref()).within(&field)?;
            transports.push((matched.r#match.as_ref().map(texts).unwrap_or_default(), transport));
        }
        let common = cluster.common_lb_config.clone().unwrap_or_default();
        use proto::cluster::common_lb_config::LocalityConfigSpecifier as Locality;
        let weighted =
            matches!(common.locality_config_specifier, Some(Locality::LocalityWeightedLbConfig(_)));
        let timeout = duration("connect_timeout", cluster.connect_timeout.as_ref())?;
        #[expect(deprecated, reason = "the field that Istio uses")]
        let refresh = duration("dns_refresh_rate", cluster.dns_refresh_rate.as_ref())?;
        let breakers = cluster.circuit_breakers.clone().unwrap_or_default();
        // 0: the default routing priority, the only one that TCP has.
        let breaker = breakers.thresholds.iter().find(|threshold| threshold.priority == 0);
        let keepalive = cluster.upstream_connection_options.as_ref().and_then(|o| o.tcp_keepalive.as_ref());
        Ok(Self {
            name: Arc::clone(name),
            kind,
            connect_timeout: timeout.filter(|t| !t.is_zero()).unwrap_or(Duration::from_secs(5)),
            policy,
            panic: common.healthy_panic_threshold.map_or(50.0, |percent| percent.value),
            weighted_localities: weighted,
            transports: transports.into(),
            transport: tls.upstream(cluster.transport_socket.as_ref()).within("transport_socket")?,
            outlier: cluster.outlier_detection.as_ref().map(Outlier::compile).transpose()?.flatten(),
            sources: sources(cluster.upstream_bind_config.as_ref()).within("upstream_bind_config")?,
            keepalive: keepalive.map(Keepalive::compile),
            max_connections: breaker.and_then(|breaker| breaker.max_connections).map(|most| most.value),
            service: service(name, cluster.metadata.as_ref()),
            refresh: refresh.unwrap_or(Duration::from_secs(5)).max(Duration::from_secs(1)),
        })
    }

    /// The transport of an endpoint: the first match whose pairs it all has, else the cluster's own.
    pub(crate) fn transport_of(&self, endpoint: &Listed) -> Upstream {
        let fits = |pairs: &[(String, String)]| pairs.iter().all(|pair| endpoint.transport.contains(pair));
        let found = self.transports.iter().find(|(pairs, _)| fits(pairs));
        found.map_or(&self.transport, |(_, transport)| transport).clone()
    }

    /// Whether any endpoint may be reached by mutual TLS.
    pub(crate) fn may_encrypt(&self) -> bool {
        let mut all = self.transports.iter().map(|(_, transport)| transport).chain([&self.transport]);
        all.any(Upstream::is_tls)
    }

    /// The source address for a destination.
    pub(crate) fn source_for(&self, destination: IpAddr) -> Option<IpAddr> {
        self.sources.iter().find(|source| source.is_ipv4() == destination.is_ipv4()).copied()
    }
}

fn kind(name: &Arc<str>, cluster: &proto::Cluster) -> Checked<Kind> {
    let listed = |names| match &cluster.load_assignment {
        Some(load) => Assignment::compile(load, names).within("load_assignment"),
        None => Ok(Assignment::empty()),
    };
    let discovery = match &cluster.cluster_discovery_type {
        None => DiscoveryType::Static,
        Some(ClusterDiscoveryType::Type(kind)) => DiscoveryType::try_from(*kind)
            .map_err(|_| Invalid::new("type", format!("{kind} is no discovery type")))?,
        Some(ClusterDiscoveryType::ClusterType(custom)) => {
            return Err(Invalid::unsupported(format!("cluster_type[{:?}]", custom.name)));
        }
    };
    Ok(match discovery {
        DiscoveryType::Static => Kind::Static(listed(false)?),
        DiscoveryType::StrictDns | DiscoveryType::LogicalDns => Kind::Dns(listed(true)?),
        DiscoveryType::OriginalDst => Kind::OriginalDestination,
        DiscoveryType::Eds => {
            let service = cluster.eds_cluster_config.as_ref().map(|eds| eds.service_name.as_str());
            Kind::Eds(match service.unwrap_or_default() {
                "" => Arc::clone(name),
                service => service.into(),
            })
        }
    })
}

fn policy(cluster: &proto::Cluster, kind: &Kind) -> Checked<Policy> {
    if matches!(kind, Kind::OriginalDestination) {
        return Ok(Policy::RoundRobin);
    }
    if let Some(typed) = &cluster.load_balancing_policy {
        let names = typed.policies.iter().filter_map(|policy| policy.typed_extension_config.as_ref());
        let mut known = names.filter_map(|extension| {
            let url = extension.typed_config.as_ref()?.type_url.as_str();
            match url.rsplit('.').next()? {
                "LeastRequest" => Some(Policy::LeastRequest),
                "RoundRobin" => Some(Policy::RoundRobin),
                "Random" => Some(Policy::Random),
                _ => None,
            }
        });
        return known.next().ok_or_else(|| Invalid::unsupported("load_balancing_policy.policies"));
    }
    match LbPolicy::try_from(cluster.lb_policy) {
        Ok(LbPolicy::LeastRequest) => Ok(Policy::LeastRequest),
        Ok(LbPolicy::RoundRobin) => Ok(Policy::RoundRobin),
        Ok(LbPolicy::Random) => Ok(Policy::Random),
        // No hash is taken here: the warnings of DestinationRules say so.
        Ok(LbPolicy::RingHash | LbPolicy::Maglev) => Ok(Policy::LeastRequest),
        Ok(other) => Err(Invalid::unsupported(format!("lb_policy.{}", other.as_str_name()))),
        Err(_) => Err(Invalid::new("lb_policy", format!("{} is unknown", cluster.lb_policy))),
    }
}

impl Outlier {
    /// None when nothing that a TCP connection shows is enforced.
    fn compile(outlier: &proto::OutlierDetection) -> Checked<Option<Self>> {
        let number = |value: Option<pb::UInt32Value>, default| value.map_or(default, |value| value.value);
        // Each detector with its threshold and its enforcement; a failed connection counts for all of them.
        let detectors = if outlier.split_external_local_origin_errors {
            vec![(
                number(outlier.consecutive_local_origin_failure, 5),
                number(outlier.enforcing_consecutive_local_origin_failure, 100),
            )]
        } else {
            vec![
                (number(outlier.consecutive_5xx, 5), number(outlier.enforcing_consecutive_5xx, 100)),
                (
                    number(outlier.consecutive_gateway_failure, 5),
                    number(outlier.enforcing_consecutive_gateway_failure, 0),
                ),
            ]
        };
        let enforced = detectors.into_iter().filter(|(failures, percent)| *failures > 0 && *percent > 0);
        let Some(consecutive) = enforced.map(|(failures, _)| failures).min() else { return Ok(None) };
        let time = |field, value: Option<&pb::Duration>, default| -> Checked<Duration> {
            let time = duration(field, value)?.unwrap_or(default);
            Ok(time.max(Duration::from_millis(1)))
        };
        let base = time(
            "outlier_detection.base_ejection_time",
            outlier.base_ejection_time.as_ref(),
            Duration::from_secs(30),
        )?;
        let longest = time(
            "outlier_detection.max_ejection_time",
            outlier.max_ejection_time.as_ref(),
            Duration::from_secs(300),
        )?;
        Ok(Some(Self {
            consecutive,
            interval: time("outlier_detection.interval", outlier.interval.as_ref(), Duration::from_secs(10))?,
            base,
            longest: longest.max(base),
            max_percent: number(outlier.max_ejection_percent, 10),
            // Envoy's default is no; a service with one endpoint here and one elsewhere would then never fail over.
            always_one: outlier.always_eject_one_host.is_none_or(|one| one.value),
        }))
    }
}

impl Keepalive {
    /// What is zero is not set.
    pub(crate) fn compile(keepalive: &TcpKeepalive) -> Self {
        let seconds = |value: Option<pb::UInt32Value>| {
            value.filter(|v| v.value > 0).map(|value| Duration::from_secs(u64::from(value.value)))
        };
        Self {
            probes: keepalive.keepalive_probes.map(|probes| probes.value).filter(|probes| *probes > 0),
            time: seconds(keepalive.keepalive_time),
            interval: seconds(keepalive.keepalive_interval),
        }
    }
}

fn sources(bind: Option<&BindConfig>) -> Checked<Box<[IpAddr]>> {
    let Some(bind) = bind else { return Ok(Box::default()) };
    let extra = bind.extra_source_addresses.iter().filter_map(|extra| extra.address.as_ref());
    let all = bind.source_address.iter().chain(extra);
    all.map(|address| ip("source_address", &address.address)).collect()
}

/// From Istio's metadata; else from the cluster's name, whose host begins with name and namespace in Kubernetes.
fn service(name: &str, metadata: Option<&Metadata>) -> Option<Service> {
    use pb::value::Kind::{ListValue, StructValue};
    let istio = metadata.and_then(|metadata| metadata.filter_metadata.get("istio"));
    let list = istio.and_then(|istio| istio.fields.get("services")).and_then(|value| value.kind.as_ref());
    if let Some(ListValue(list)) = list
        && let Some(StructValue(first)) = list.values.first().and_then(|value| value.kind.as_ref())
        && let Some(host) = text(&first.fields, "host")
    {
        let part = |key| text(&first.fields, key).unwrap_or_default().into();
        return Some(Service { host: host.into(), name: part("name"), namespace: part("namespace") });
    }
    let named = isthmus_sni::ServiceName::from_cluster(name)
        .or_else(|_| isthmus_sni::ServiceName::from_sni(name))
        .ok()?;
    let host = named.host().as_str();
    let mut labels = host.split('.');
    let (short, namespace, kind) = (labels.next(), labels.next(), labels.next());
    Some(match kind {
        Some("svc") => Service {
            host: host.into(),
            name: short.unwrap_or_default().into(),
            namespace: namespace.unwrap_or_default().into(),
        },
        _ => Service { host: host.into(), name: host.into(), namespace: "unknown".into() },
    })
}
