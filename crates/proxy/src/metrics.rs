//! Counters: Istio's for TCP, and the proxy's own for refusals.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use isthmus_model::NetworkId;
use parking_lot::{Mutex, RwLock};
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::access::{Flag, Peer, Record};
use crate::config::Node;
use crate::flows::Networks;
use crate::relay::Meter;
use crate::resource::listener::Direction;

/// Label sets that are kept apart; connections beyond are counted under `other` peers, so that nobody can make the proxy
/// remember without bound.
const MOST: usize = 4096;
/// The same for labels of our own.
const MOST_OWN: usize = 512;

const NAMES: [&str; 21] = [
    "reporter",
    "source_workload",
    "source_workload_namespace",
    "source_canonical_service",
    "source_canonical_revision",
    "source_principal",
    "source_cluster",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "destination_workload",
    "destination_workload_namespace",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_principal",
    "destination_cluster",
    "request_protocol",
    "connection_security_policy",
    "destination_app",
    "source_app",
    // ours, and of gateways alone
    "source_network",
];

/// Labels of one kind of connection, without the response flags; in the order of [`NAMES`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Labels([Arc<str>; NAMES.len()]);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Flagged(Labels, &'static str);

impl EncodeLabelSet for Flagged {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> Result<(), std::fmt::Error> {
        use prometheus_client::encoding::EncodeLabel;
        for (name, value) in NAMES.iter().zip(&self.0.0).filter(|(_, value)| !value.is_empty()) {
            (*name, &**value).encode(encoder.encode_label())?;
        }
        ("response_flags", self.1).encode(encoder.encode_label())
    }
}

type Cause = [(&'static str, Arc<str>); 1];

/// All counters of one proxy.
pub(crate) struct Metrics {
    node: Node,
    unknown: Arc<str>,
    other: Arc<str>,
    none: Arc<str>,
    tcp: Arc<str>,
    known: RwLock<HashMap<Labels, Arc<Counters>>>,
    opened: Family<Flagged, Counter>,
    closed: Family<Flagged, Counter>,
    sent: Family<Flagged, Counter>,
    received: Family<Flagged, Counter>,
    tls_refused: Causes,
    rbac_denied: Causes,
    refused: Causes,
    upstream_failures: Causes,
    ejections: Causes,
    rejections: Causes,
    open: Gauge,
    io_uring: Gauge,
    asked: Counter,
    fetched: Gauge,
}

/// Counters of one label set.
#[derive(Debug)]
pub(crate) struct Counters {
    labels: Labels,
    opened: Counter,
    closed: Counter,
    meter: Meter,
}

/// The counters that the last connection through a gateway to an endpoint had.
#[derive(Debug)]
pub(crate) struct Passed {
    network: Option<NetworkId>,
    counters: Arc<Counters>,
}

impl Metrics {
    pub(crate) fn register(node: Node, registry: &mut Registry) -> Self {
        let metrics = Self {
            node,
            unknown: "unknown".into(),
            other: "other".into(),
            none: "".into(),
            tcp: "tcp".into(),
            known: RwLock::default(),
            opened: Family::default(),
            closed: Family::default(),
            sent: Family::default(),
            received: Family::default(),
            tls_refused: Causes::new("cause"),
            rbac_denied: Causes::new("policy"),
            refused: Causes::new("cause"),
            upstream_failures: Causes::new("cause"),
            ejections: Causes::new("cluster"),
            rejections: Causes::new("type"),
            open: Gauge::default(),
            io_uring: Gauge::default(),
            asked: Counter::default(),
            fetched: Gauge::default(),
        };
        let mut add = |name: &str, help: &str, family: &Family<Flagged, Counter>| {
            registry.register(name, help, family.clone());
        };
        add("istio_tcp_connections_opened", "TCP connections opened", &metrics.opened);
        add("istio_tcp_connections_closed", "TCP connections closed", &metrics.closed);
        add("istio_tcp_sent_bytes", "Bytes sent to clients", &metrics.sent);
        add("istio_tcp_received_bytes", "Bytes received from clients", &metrics.received);
        let mut add = |name: &str, help: &str, causes: &Causes| {
            registry.register(name, help, causes.family.clone());
        };
        add("isthmus_tls_refused", "Downstream TLS handshakes that failed, by cause", &metrics.tls_refused);
        add("isthmus_rbac_denied", "Connections refused by authorization, by policy", &metrics.rbac_denied);
        add("isthmus_connections_refused", "Connections refused, by cause", &metrics.refused);
        add("isthmus_upstream_failures", "Failed attempts to connect, by cause", &metrics.upstream_failures);
        add("isthmus_endpoint_ejections", "Endpoints ejected, by cluster", &metrics.ejections);
        add("isthmus_resource_rejections", "Resources rejected, by type", &metrics.rejections);
        registry.register("isthmus_connections_open", "Downstream connections now", metrics.open.clone());
        let help = "1 where sockets use io_uring, 0 where they use epoll";
        registry.register("isthmus_io_uring", help, metrics.io_uring.clone());
        let help = "Clusters asked for because a connection named them";
        registry.register("isthmus_on_demand_requests", help, metrics.asked.clone());
        let help = "Clusters held because connections named them";
        registry.register("isthmus_on_demand_clusters", help, metrics.fetched.clone());
        metrics
    }

    pub(crate) fn io_uring(&self) -> &Gauge {
        &self.io_uring
    }

    pub(crate) fn open(&self) -> &Gauge {
        &self.open
    }

    /// A cluster was asked for on demand.
    pub(crate) fn asked(&self) {
        self.asked.inc();
    }

    /// Clusters that were fetched on demand and are held.
    pub(crate) fn fetched(&self, clusters: usize) {
        self.fetched.set(i64::try_from(clusters).unwrap_or(i64::MAX));
    }

    pub(crate) fn tls_refused(&self, cause: &'static str) {
        self.tls_refused.count(cause);
    }

    /// `policy`: the one that denied, or none when no ALLOW policy matched.
    pub(crate) fn rbac_denied(&self, policy: Option<&str>) {
        self.rbac_denied.count(policy.unwrap_or("none"));
    }

    pub(crate) fn refused(&self, cause: &'static str) {
        self.refused.count(cause);
    }

    pub(crate) fn upstream_failed(&self, cause: &'static str) {
        self.upstream_failures.count(cause);
    }

    pub(crate) fn ejected(&self, cluster: &str) {
        self.ejections.count(cluster);
    }

    pub(crate) fn rejected(&self, kind: &'static str) {
        self.rejections.count(kind);
    }

    /// The counters of a connection whose ends are known; counts it as opened.
    pub(crate) fn opened(
        &self,
        record: &Record,
        own_principal: impl FnOnce() -> Option<Arc<str>>,
        networks: &Networks,
    ) -> Arc<Counters> {
        let through = record.listener.direction == Direction::Through;
        let Some(endpoint) = record.endpoint.as_ref().filter(|_| through) else {
            let counters = self.counters(self.labels(record, own_principal(), networks));
            counters.opened.inc();
            return counters;
        };
        // What passes through a gateway to one endpoint differs by where it comes from only.
        let network = networks.of(record.source.ip());
        let known = endpoint.passed.load();
        let counters = match &*known {
            Some(passed) if passed.network.as_ref() == network => Arc::clone(&passed.counters),
            _ => {
                let counters = self.counters(self.labels(record, None, networks));
                let passed = Passed { network: network.cloned(), counters: Arc::clone(&counters) };
                endpoint.passed.store(Some(Arc::new(passed)));
                counters
            }
        };
        counters.opened.inc();
        counters
    }

    /// Counts the end of a connection.
    pub(crate) fn closed(&self, counters: &Counters, flag: Flag) {
        match flag {
            Flag::Fine => counters.closed.inc(),
            flag => {
                let flagged = Flagged(counters.labels.clone(), flag.as_str());
                self.closed.get_or_create(&flagged).inc()
            }
        };
    }

    fn counters(&self, labels: Labels) -> Arc<Counters> {
        if let Some(known) = self.known.read().get(&labels) {
            return Arc::clone(known);
        }
        let mut known = self.known.write();
        let labels = if known.len() < MOST { labels } else { self.overflow(&labels) };
        let make = || {
            let flagged = Flagged(labels.clone(), Flag::Fine.as_str());
            Arc::new(Counters {
                labels: labels.clone(),
                opened: self.opened.get_or_create_owned(&flagged),
                closed: self.closed.get_or_create_owned(&flagged),
                meter: Meter {
                    sent: self.sent.get_or_create_owned(&flagged),
                    received: self.received.get_or_create_owned(&flagged),
                },
            })
        };
        Arc::clone(known.entry(labels.clone()).or_insert_with(make))
    }

    fn overflow(&self, labels: &Labels) -> Labels {
        let mut folded = labels.clone();
        for (at, name) in NAMES.iter().enumerate() {
            if !matches!(*name, "reporter" | "request_protocol" | "connection_security_policy") {
                folded.0[at] = Arc::clone(&self.other);
            }
        }
        folded
    }

    fn labels(&self, record: &Record, own: Option<Arc<str>>, networks: &Networks) -> Labels {
        let unknown = || Arc::clone(&self.unknown);
        let known = |text: &Arc<str>| if text.is_empty() { unknown() } else { Arc::clone(text) };
        let principal = |peer: Option<&Peer>| {
            peer.filter(|peer| peer.is_workload).map_or_else(unknown, |peer| Arc::clone(&peer.name))
        };
        let node = &self.node;
        let ours = [
            known(&node.workload),
            Arc::from(node.namespace.as_str()),
            known(&node.app),
            known(&node.version),
            Arc::from(node.cluster.as_str()),
        ];
        let theirs = match record.endpoint.as_ref().and_then(|endpoint| endpoint.workload.as_ref()) {
            Some(w) => [&w.name, &w.namespace, &w.service, &w.revision, &w.cluster].map(known),
            None => std::array::from_fn(|_| unknown()),
        };
        let service = record.cluster.as_ref().and_then(|cluster| cluster.config.service.as_ref());
        let service = match service {
            Some(service) => [&service.host, &service.name, &service.namespace].map(known),
            None => std::array::from_fn(|_| unknown()),
        };
        let inbound = record.listener.direction == Direction::Inbound;
        let through = record.listener.direction == Direction::Through;
        let nobody: [Arc<str>; 5] = std::array::from_fn(|_| unknown());
        let own = own.unwrap_or_else(unknown);
        let (reporter, source, source_principal, destination, destination_principal, security) = if inbound {
            let security = if record.secured { "mutual_tls" } else { "none" };
            ("destination", nobody, principal(record.downstream.as_deref()), ours, own, security)
        } else if through {
            ("source", nobody, unknown(), theirs, unknown(), "unknown")
        } else {
            ("source", ours, own, theirs, principal(record.upstream.as_deref()), "unknown")
        };
        let network = match through {
            true => networks.of(record.source.ip()).map_or_else(unknown, |network| network.clone().into()),
            false => Arc::clone(&self.none),
        };
        let [source_workload, source_namespace, source_app, source_revision, source_cluster] = source;
        let [workload, namespace, app, revision, cluster] = destination;
        let [host, name, service_namespace] = service;
        Labels([
            reporter.into(),
            source_workload,
            source_namespace,
            Arc::clone(&source_app),
            source_revision,
            source_principal,
            source_cluster,
            host,
            name,
            service_namespace,
            workload,
            namespace,
            Arc::clone(&app),
            revision,
            destination_principal,
            cluster,
            Arc::clone(&self.tcp),
            security.into(),
            app,
            source_app,
            network,
        ])
    }
}

impl Counters {
    pub(crate) fn meter(&self) -> Meter {
        self.meter.clone()
    }
}

/// Counters by one label of our own.
struct Causes {
    label: &'static str,
    family: Family<Cause, Counter>,
    known: Mutex<HashSet<Arc<str>>>,
}

impl Causes {
    fn new(label: &'static str) -> Self {
        Self { label, family: Family::default(), known: Mutex::default() }
    }

    fn count(&self, value: &str) {
        let mut known = self.known.lock();
        let value = match known.get(value) {
            Some(known) => Arc::clone(known),
            None if known.len() < MOST_OWN => {
                let value: Arc<str> = value.into();
                known.insert(Arc::clone(&value));
                value
            }
            None => "other".into(),
        };
        drop(known);
        self.family.get_or_create(&[(self.label, value)]).inc();
    }
}
