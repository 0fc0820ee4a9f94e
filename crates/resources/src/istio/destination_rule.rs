//! DestinationRule: how clients treat a host's endpoints.

use std::collections::BTreeMap;

use isthmus_model::Labels;
use serde::Deserialize;
use serde_json::Value;

use super::common::{Duration, PortSelector, WorkloadSelector};

/// `networking.istio.io` DestinationRule.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DestinationRule {
    /// Host, possibly short or a wildcard.
    pub host: String,
    /// Policy for all subsets and ports.
    pub traffic_policy: Option<TrafficPolicy>,
    /// Named subsets.
    pub subsets: Vec<Subset>,
    /// Namespaces that see it.
    pub export_to: Vec<String>,
    /// Client workloads that it applies to, all when absent.
    pub workload_selector: Option<WorkloadSelector>,
}

/// A policy; unset parts inherit.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficPolicy {
    /// Balancing.
    pub load_balancer: Option<LoadBalancer>,
    /// Limits.
    pub connection_pool: Option<ConnectionPool>,
    /// Ejection of failing endpoints.
    pub outlier_detection: Option<OutlierDetection>,
    /// TLS towards the endpoints.
    pub tls: Option<ClientTls>,
    /// Policies by port, which replace the four above together.
    pub port_level_settings: Vec<PortPolicy>,
    /// Not enforced yet.
    pub tunnel: Option<Value>,
    /// A PROXY header before everything else.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Not enforced yet.
    pub retry_budget: Option<Value>,
}

/// A policy of one service port.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortPolicy {
    /// Service port.
    pub port: PortSelector,
    /// Balancing.
    pub load_balancer: Option<LoadBalancer>,
    /// Limits.
    pub connection_pool: Option<ConnectionPool>,
    /// Ejection.
    pub outlier_detection: Option<OutlierDetection>,
    /// TLS.
    pub tls: Option<ClientTls>,
}

/// Endpoints of a host with certain labels.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Subset {
    /// Name.
    pub name: String,
    /// All must be among the endpoint's labels.
    pub labels: Labels,
    /// Policy over the rule's own.
    pub traffic_policy: Option<TrafficPolicy>,
}

/// Balancing.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancer {
    /// A plain algorithm.
    pub simple: Option<SimpleLb>,
    /// By a hash of the connection.
    pub consistent_hash: Option<ConsistentHash>,
    /// Balancing over localities.
    pub locality_lb_setting: Option<LocalityLb>,
    /// New endpoints get their share little by little.
    pub warmup: Option<Warmup>,
    /// Older form of `warmup.duration`.
    pub warmup_duration_secs: Option<Duration>,
}

/// Balancing by a hash of the connection.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsistentHash {
    /// Of the client's address; of all sources of a hash the one that TCP has.
    pub use_source_ip: bool,
    /// A ring of so many points at least; 1024 when nothing is said.
    pub ring_hash: Option<RingHash>,
    /// Maglev's table, which is larger and faster.
    pub maglev: Option<Maglev>,
    /// Older form of `ringHash.minimumRingSize`.
    #[serde(deserialize_with = "whole")]
    pub minimum_ring_size: u64,
}

/// A ring of hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RingHash {
    /// Points at least; 0 is 1024.
    #[serde(deserialize_with = "whole")]
    pub minimum_ring_size: u64,
}

/// Maglev's table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Maglev {
    /// Its size, a prime; 0 is Envoy's choice.
    #[serde(deserialize_with = "whole")]
    pub table_size: u64,
}

/// How new endpoints warm up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Warmup {
    /// For how long.
    pub duration: Option<Duration>,
    /// Share at the start, in percent; 10 when absent.
    pub minimum_percent: Option<f64>,
    /// How the share grows; 1 is evenly.
    pub aggression: Option<f64>,
}

/// A whole number, which protobuf's JSON form writes as text when it may have 64 bits.
fn whole<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u64),
        Text(String),
    }
    match Either::deserialize(deserializer)? {
        Either::Number(number) => Ok(number),
        Either::Text(text) => {
            text.parse().map_err(|_| serde::de::Error::custom(format!("{text:?} is not a whole number")))
        }
    }
}

/// Which PROXY header endpoints are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyProtocol {
    /// Its version.
    pub version: ProxyVersion,
}

/// Version of the PROXY protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[expect(missing_docs, reason = "the names are the API's own")]
pub enum ProxyVersion {
    #[default]
    V1,
    V2,
}

/// A plain algorithm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "the names are the API's own")]
pub enum SimpleLb {
    #[default]
    Unspecified,
    LeastConn,
    Random,
    Passthrough,
    RoundRobin,
    LeastRequest,
}

/// Balancing over localities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LocalityLb {
    /// Shares by locality.
    pub distribute: Vec<Distribute>,
    /// Regions to fail over to.
    pub failover: Vec<Failover>,
    /// Labels in order of importance.
    pub failover_priority: Vec<String>,
    /// Off only when `false`.
    pub enabled: Option<bool>,
}

/// Where traffic of one locality goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Distribute {
    /// Origin, `region/zone/subzone` with `*`.
    pub from: String,
    /// Percent by destination; sums to 100.
    pub to: BTreeMap<String, u32>,
}

/// Where a region's traffic goes when it fails.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Failover {
    /// Region.
    pub from: String,
    /// Region.
    pub to: String,
}

/// Limits.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConnectionPool {
    /// Of connections.
    pub tcp: Option<TcpPool>,
    /// Of requests.
    pub http: Option<HttpPool>,
}

/// Limits of connections.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpPool {
    /// At most so many at once.
    pub max_connections: Option<i32>,
    /// Patience for a connect.
    pub connect_timeout: Option<Duration>,
    /// Keepalive.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// At most so long.
    pub max_connection_duration: Option<Duration>,
    /// At most so long without a byte.
    pub idle_timeout: Option<Duration>,
}

/// TCP keepalive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpKeepalive {
    /// Lost probes until dead.
    pub probes: u32,
    /// Idle time before the first.
    pub time: Option<Duration>,
    /// Between probes.
    pub interval: Option<Duration>,
}

/// Limits of requests.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpPool {
    /// Pending requests.
    #[serde(rename = "http1MaxPendingRequests")]
    pub http1_max_pending_requests: i32,
    /// Concurrent requests.
    #[serde(rename = "http2MaxRequests")]
    pub http2_max_requests: i32,
    /// Requests on one connection.
    pub max_requests_per_connection: i32,
    /// Concurrent retries.
    pub max_retries: i32,
    /// At most so long without a request.
    pub idle_timeout: Option<Duration>,
    /// `DEFAULT`, `DO_NOT_UPGRADE` or `UPGRADE`.
    pub h2_upgrade_policy: String,
    /// Whether the client's protocol is kept.
    pub use_client_protocol: bool,
    /// Streams on one connection.
    pub max_concurrent_streams: i32,
}

/// Ejection of failing endpoints.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OutlierDetection {
    /// Deprecated name of `consecutive5xxErrors`.
    pub consecutive_errors: Option<i32>,
    /// Whether local failures are counted on their own.
    pub split_external_local_origin_errors: bool,
    /// Failed connects, time-outs and resets in a row.
    pub consecutive_local_origin_failures: Option<u32>,
    /// 502, 503, 504 in a row; for TCP also failed connects.
    pub consecutive_gateway_errors: Option<u32>,
    /// 5xx in a row.
    #[serde(rename = "consecutive5xxErrors")]
    pub consecutive_5xx_errors: Option<u32>,
    /// Between sweeps; 10 s when absent.
    pub interval: Option<Duration>,
    /// First ejection; 30 s when absent.
    pub base_ejection_time: Option<Duration>,
    /// Percent that may be ejected; 10 when absent.
    pub max_ejection_percent: i32,
    /// Percent that must be healthy for ejection to be on.
    pub min_health_percent: i32,
}

/// TLS towards endpoints.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientTls {
    /// Mode.
    pub mode: ClientTlsMode,
    /// File with our certificate.
    pub client_certificate: String,
    /// File with our key.
    pub private_key: String,
    /// File with the roots.
    pub ca_certificates: String,
    /// Secret with all three.
    pub credential_name: String,
    /// Names that may answer.
    pub subject_alt_names: Vec<String>,
    /// Server name to send.
    pub sni: String,
    /// Whether the certificate is not verified.
    pub insecure_skip_verify: Option<bool>,
    /// File with revocations.
    pub ca_crl: String,
}

/// Mode of TLS towards endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "the names are the API's own")]
pub enum ClientTlsMode {
    #[default]
    Disable,
    Simple,
    Mutual,
    IstioMutual,
}
