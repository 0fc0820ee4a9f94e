//! Filter chains: what happens to a connection once its chain is found.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::listener::v3 as proto;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::rbac::v3::Rbac as RbacFilter;
use envoy_types::pb::envoy::extensions::filters::network::sni_cluster::v3::SniCluster;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use prost::Name;

use super::rbac::Rbac;
use super::tls::{Configurations, ServerTls};
use super::{Checked, Invalid, Within, duration, text, unpack};

/// A compiled filter chain.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) name: Arc<str>,
    /// TLS is terminated.
    pub(crate) tls: Option<ServerTls>,
    pub(crate) rbac: Box<[Rbac]>,
    pub(crate) target: Target,
    pub(crate) timing: Timing,
    /// Endpoints tried, when the listener says it.
    pub(crate) attempts: Option<u32>,
}

/// Times of a chain, where it sets them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Timing {
    /// Zero: never.
    pub(crate) idle: Option<Duration>,
    /// Longest life of a connection.
    pub(crate) lifetime: Option<Duration>,
    pub(crate) handshake: Option<Duration>,
}

/// Where a chain leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// Nowhere: a chain without a proxy filter.
    Close,
    Cluster(Arc<str>),
    /// The cluster that has the server name for its name; where there is a table, only if the name is in it.
    ServerName(Option<Arc<str>>),
    /// Clusters with their weights; at least one is above zero.
    Weighted(Box<[(Arc<str>, u32)]>),
}

impl Target {
    /// The cluster for one connection with this server name.
    pub(crate) fn choose<'a>(&'a self, server_name: Option<&'a str>) -> Option<&'a str> {
        match self {
            Self::Close => None,
            Self::Cluster(name) => Some(name),
            Self::ServerName(_) => server_name,
            Self::Weighted(clusters) => {
                let total: u64 = clusters.iter().map(|(_, weight)| u64::from(*weight)).sum();
                let mut at = rand::random_range(0..total);
                clusters.iter().find_map(|(name, weight)| match at.checked_sub(u64::from(*weight)) {
                    None => Some(&**name),
                    Some(rest) => {
                        at = rest;
                        None
                    }
                })
            }
        }
    }
}

impl Chain {
    pub(crate) fn compile(chain: &proto::FilterChain, tls: &Configurations) -> Checked<Self> {
        let terminates = tls.downstream(chain.transport_socket.as_ref()).within("transport_socket")?;
        Self::assemble(chain, terminates)
    }

    /// Without a word on its transport: one that terminates nothing.
    pub(crate) fn passing(chain: &proto::FilterChain) -> Checked<Self> {
        Self::assemble(chain, None)
    }

    fn assemble(chain: &proto::FilterChain, terminates: Option<ServerTls>) -> Checked<Self> {
        let mut rbac = Vec::new();
        let (mut proxy, mut by_name) = (None, false);
        for (position, filter) in chain.filters.iter().enumerate() {
            let field = || format!("filters[{position}]");
            if proxy.is_some() {
                return Err(Invalid::new(field(), "stands behind tcp_proxy, which ends a chain"));
            }
            let any = match &filter.config_type {
                Some(proto::filter::ConfigType::TypedConfig(any)) => any,
                _ if harmless(&filter.name, "") => continue,
                _ => return Err(Invalid::new(field(), format!("{:?} has no typed_config", filter.name))),
            };
            if any.type_url == tcp::TcpProxy::type_url() {
                proxy = Some(unpack::<tcp::TcpProxy>(any).within(field())?);
            } else if any.type_url == SniCluster::type_url() {
                by_name = true;
            } else if any.type_url == RbacFilter::type_url() {
                let filter = unpack::<RbacFilter>(any).within(field())?;
                rbac.extend(Rbac::compile(&filter).within(field())?);
            } else if any.type_url == HttpConnectionManager::type_url() {
                let problem = "HTTP is carried as TCP by this proxy: send tcp_proxy";
                return Err(Invalid::new(format!("{}.http_connection_manager", field()), problem));
            } else if !harmless(&filter.name, &any.type_url) {
                let problem =
                    format!("filter {:?} ({}) is not supported by this proxy", filter.name, any.type_url);
                return Err(Invalid::new(field(), problem));
            }
        }
        let field = "transport_socket_connect_timeout";
        let mut timing = Timing {
            handshake: duration(field, chain.transport_socket_connect_timeout.as_ref())?
                .filter(|d| !d.is_zero()),
            ..Timing::default()
        };
        let (mut target, mut attempts) = (Target::Close, None);
        if let Some(proxy) = proxy {
            target = self::target(&proxy).within("tcp_proxy")?;
            if by_name {
                target = Target::ServerName(table(chain));
            }
            timing.idle = duration("tcp_proxy.idle_timeout", proxy.idle_timeout.as_ref())?;
            let lifetime = proxy.max_downstream_connection_duration.as_ref();
            timing.lifetime = duration("tcp_proxy.max_downstream_connection_duration", lifetime)?;
            attempts = proxy.max_connect_attempts.map(|attempts| attempts.value.max(1));
        }
        let name = chain.name.as_str().into();
        Ok(Self { name, tls: terminates, rbac: rbac.into(), target, timing, attempts })
    }
}

/// The table of exported names that a chain serves.
fn table(chain: &proto::FilterChain) -> Option<Arc<str>> {
    let ours = chain.metadata.as_ref()?.filter_metadata.get("isthmus")?;
    text(&ours.fields, "exported_names").map(Arc::from)
}

fn target(proxy: &tcp::TcpProxy) -> Checked<Target> {
    let refuse = |set: bool, field: &str| if set { Err(Invalid::unsupported(field)) } else { Ok(()) };
    refuse(proxy.tunneling_config.is_some(), "tunneling_config")?;
    refuse(proxy.metadata_match.is_some(), "metadata_match")?;
    match &proxy.cluster_specifier {
        Some(tcp::tcp_proxy::ClusterSpecifier::Cluster(name)) => Ok(Target::Cluster(name.as_str().into())),
        Some(tcp::tcp_proxy::ClusterSpecifier::WeightedClusters(weighted)) => {
            let clusters = weighted.clusters.iter().map(|cluster| {
                refuse(cluster.metadata_match.is_some(), "weighted_clusters.metadata_match")?;
                Ok((Arc::from(cluster.name.as_str()), cluster.weight))
            });
            let clusters: Vec<_> = clusters.collect::<Checked<_>>()?;
            if clusters.iter().all(|(_, weight)| *weight == 0) {
                return Err(Invalid::new("weighted_clusters", "no cluster has a weight above zero"));
            }
            Ok(Target::Weighted(clusters.into()))
        }
        None => Err(Invalid::new("cluster", "is missing")),
    }
}

/// Filters that only observe, or that matter to HTTP alone.
fn harmless(name: &str, type_url: &str) -> bool {
    const OBSERVERS: [&str; 4] = ["istio.", "metadata_exchange", "set_filter_state", "stats"];
    OBSERVERS.iter().any(|part| name.contains(part))
        || type_url.ends_with("MetadataExchange")
        || type_url == "type.googleapis.com/stats.PluginConfig"
}
