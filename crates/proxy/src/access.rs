//! One line for each connection, when it has ended.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use isthmus_tls::PeerCertificate;
use tokio::time::Instant;

use crate::balance::Endpoint;
use crate::cluster::Cluster;
use crate::relay::{End, Outcome};
use crate::resource::listener::Listener;

/// How a connection ended, in Envoy's short words; `DENY` and `TLS_FAILURE`, which Envoy has none for, are ztunnel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flag {
    /// In order.
    Fine,
    /// No chain for what came.
    NoRoute,
    /// The chain's cluster does not exist.
    NoCluster,
    /// No endpoint may be used.
    NoHealthyUpstream,
    /// Connecting upstream failed.
    UpstreamFailure,
    /// Connecting upstream failed as often as it may.
    RetryLimit,
    /// Too many connections.
    Overflow,
    /// Downstream broke off.
    Downstream,
    /// Upstream broke off.
    Upstream,
    /// No byte for too long.
    Idle,
    /// It reached its longest life.
    Expired,
    /// The proxy stopped.
    Cut,
    /// An authorization policy refused it.
    Denied,
    /// The downstream handshake failed.
    Tls,
}

impl Flag {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Fine => "-",
            Self::NoRoute => "NR",
            Self::NoCluster => "NC",
            Self::NoHealthyUpstream => "UH",
            Self::UpstreamFailure => "UF",
            Self::RetryLimit => "UF,URX",
            Self::Overflow => "UO",
            Self::Downstream => "DC",
            Self::Upstream => "UC",
            Self::Idle => "SI",
            Self::Expired => "DT",
            Self::Cut => "LR",
            Self::Denied => "DENY",
            Self::Tls => "TLS_FAILURE",
        }
    }
}

/// A connection that was not served.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) flag: Flag,
    pub(crate) detail: String,
}

impl Refusal {
    pub(crate) fn new(flag: Flag, detail: impl Into<String>) -> Self {
        Self { flag, detail: detail.into() }
    }
}

/// Whom a certificate names.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// `spiffe://…`, or whatever else names it.
    pub(crate) name: Arc<str>,
    pub(crate) is_workload: bool,
    pub(crate) serial: Arc<str>,
}

impl From<&PeerCertificate> for Peer {
    fn from(certificate: &PeerCertificate) -> Self {
        Self {
            name: certificate.name().into(),
            is_workload: certificate.spiffe.is_some(),
            serial: Arc::clone(&certificate.serial),
        }
    }
}

/// What is known of a connection.
pub(crate) struct Record {
    pub(crate) began: Instant,
    pub(crate) listener: Arc<Listener>,
    pub(crate) source: SocketAddr,
    pub(crate) destination: Option<SocketAddr>,
    pub(crate) server_name: Option<Box<str>>,
    pub(crate) chain: Option<Arc<str>>,
    /// Whether TLS with the downstream was terminated here.
    pub(crate) secured: bool,
    pub(crate) downstream: Option<Box<Peer>>,
    pub(crate) cluster: Option<Arc<Cluster>>,
    pub(crate) endpoint: Option<Arc<Endpoint>>,
    pub(crate) upstream_address: Option<SocketAddr>,
    pub(crate) upstream: Option<Box<Peer>>,
    pub(crate) attempts: u32,
}

impl Record {
    pub(crate) fn new(listener: Arc<Listener>, source: SocketAddr) -> Self {
        Self {
            began: Instant::now(),
            listener,
            source,
            destination: None,
            server_name: None,
            chain: None,
            secured: false,
            downstream: None,
            cluster: None,
            endpoint: None,
            upstream_address: None,
            upstream: None,
            attempts: 0,
        }
    }

    /// Writes the line of a connection that was relayed.
    pub(crate) fn ended(&self, outcome: &Outcome, upstream_local: Option<SocketAddr>) -> Flag {
        let (flag, detail) = match &outcome.end {
            End::Finished => (Flag::Fine, String::new()),
            End::Downstream(error) => (Flag::Downstream, error.to_string()),
            End::Upstream(error) => (Flag::Upstream, error.to_string()),
            End::Idle => (Flag::Idle, String::new()),
            End::Expired => (Flag::Expired, String::new()),
            End::Cut => (Flag::Cut, "the proxy stopped".to_string()),
        };
        self.write(flag, &detail, outcome, upstream_local);
        flag
    }

    /// Writes the line of a connection that was not served.
    pub(crate) fn refused(&self, refusal: &Refusal) {
        let nothing = Outcome { sent: 0, received: 0, end: End::Finished };
        self.write(refusal.flag, &refusal.detail, &nothing, None);
    }

    /// Fields by the names of Istio's JSON encoding, and some of our own.
    fn write(&self, flag: Flag, detail: &str, outcome: &Outcome, upstream_local: Option<SocketAddr>) {
        let duration = self.began.elapsed().as_millis();
        let detail = (!detail.is_empty()).then_some(detail);
        let upstream_failed = matches!(flag, Flag::UpstreamFailure | Flag::RetryLimit | Flag::Upstream);
        tracing::info!(
            target: "access",
            listener = %self.listener.name,
            response_flags = flag.as_str(),
            connection_termination_details = %Shown(detail.filter(|_| !upstream_failed)),
            upstream_transport_failure_reason = %Shown(detail.filter(|_| upstream_failed)),
            bytes_received = outcome.received,
            bytes_sent = outcome.sent,
            duration = u64::try_from(duration).unwrap_or(u64::MAX),
            downstream_remote_address = %self.source,
            downstream_local_address = %Shown(self.destination),
            requested_server_name = %Shown(self.server_name.as_deref()),
            filter_chain = %Shown(self.chain.as_deref()),
            downstream_peer = %Shown(self.downstream.as_ref().map(|peer| &*peer.name)),
            downstream_peer_serial = %Shown(self.downstream.as_ref().map(|peer| &*peer.serial)),
            upstream_cluster = %Shown(self.cluster.as_ref().map(|cluster| &**cluster.name())),
            upstream_host = %Shown(self.upstream_address),
            upstream_local_address = %Shown(upstream_local),
            upstream_peer = %Shown(self.upstream.as_ref().map(|peer| &*peer.name)),
            upstream_peer_serial = %Shown(self.upstream.as_ref().map(|peer| &*peer.serial)),
            attempts = self.attempts,
        );
    }
}

/// A value, or a dash for none.
struct Shown<T>(Option<T>);

impl<T: fmt::Display> fmt::Display for Shown<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("-"),
        }
    }
}
