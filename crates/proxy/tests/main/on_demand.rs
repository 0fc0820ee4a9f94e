//! Clusters that are fetched as connections name them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::extensions::filters::network::sni_cluster::v3::SniCluster;
use envoy_types::pb::google::protobuf::{Struct, Value, value};
use futures::future::join_all;
use isthmus_proto::discovery::ExportedNames;
use isthmus_proto::type_url::EXPORTED_NAMES;
use isthmus_proxy::{Demand, OnDemandLimits};
use isthmus_sni::name_hash;
use isthmus_testkit::MeshCa;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::mpsc;

use crate::resources::*;
use crate::support::*;

const SNI: &str = "outbound_.9080_._.reviews.default.svc.cluster.local";
const OTHER: &str = "outbound_.9080_._.ratings.default.svc.cluster.local";
const LISTENER: &str = "0.0.0.0_15443";

#[derive(Debug, PartialEq)]
enum Said {
    Want(String),
    GiveBack(Vec<String>),
}

/// Hands on what the proxy asks for.
struct Asked(Mutex<mpsc::UnboundedSender<Said>>);

impl Demand for Asked {
    fn want(&self, cluster: &Arc<str>) {
        let _ = self.0.lock().send(Said::Want(cluster.to_string()));
    }

    fn give_back(&self, clusters: &[Arc<str>]) -> Vec<Arc<str>> {
        let _ = self.0.lock().send(Said::GiveBack(clusters.iter().map(ToString::to_string).collect()));
        clusters.to_vec()
    }
}

struct OnDemand {
    gateway: Running,
    asked: mpsc::UnboundedReceiver<Said>,
    at: SocketAddr,
}

/// A gateway whose listener serves the table `all`, which has these names.
fn gateway(names: &[&str], limits: OnDemandLimits) -> OnDemand {
    let gateway = Running::new(MeshCa::new().workload("west", "istio-system/istio-eastwestgateway"));
    let (said, asked) = mpsc::unbounded_channel();
    gateway.proxy.fetch_on_demand(Arc::new(Asked(Mutex::new(said))), limits, &[]);
    let mut listener = gateway_listener(LISTENER, &[(SNI, "BlackHoleCluster")]);
    let chain = &mut listener.filter_chains[0];
    chain.filter_chain_match.as_mut().unwrap().server_names.clear();
    chain.filters.insert(0, filter("envoy.filters.network.sni_cluster", SniCluster {}));
    let all = Value { kind: Some(value::Kind::StringValue("all".into())) };
    let ours = Struct { fields: [("exported_names".to_string(), all)].into() };
    chain.metadata =
        Some(Metadata { filter_metadata: [("isthmus".to_string(), ours)].into(), ..Default::default() });
    gateway.take(vec![], vec![], vec![listener]);
    let at = gateway.address(LISTENER);
    let on_demand = OnDemand { gateway, asked, at };
    if !names.is_empty() {
        on_demand.export(names);
    }
    on_demand
}

impl OnDemand {
    /// Gives all shards of the table.
    fn export(&self, names: &[&str]) {
        let mut shards: BTreeMap<u8, Vec<u64>> = (0..=255).map(|shard| (shard, Vec::new())).collect();
        for hash in names.iter().map(|name| name_hash(name)) {
            shards.entry(hash.to_be_bytes()[0]).or_default().push(hash);
        }
        let resource = |(shard, hashes)| {
            (Arc::from(format!("all/{shard:02x}")), Bytes::from(ExportedNames { hashes }.encode_to_vec()))
        };
        let rejected =
            self.gateway.proxy.apply(EXPORTED_NAMES, shards.into_iter().map(resource).collect(), &[]);
        assert_eq!(rejected, []);
    }

    fn lead(&self, name: &str, to: SocketAddr) {
        self.gateway.take(
            vec![plain_cluster(name)],
            vec![assignment(name, vec![vec![endpoint(to, false)]])],
            vec![],
        );
    }

    async fn said(&mut self) -> Said {
        tokio::time::timeout(Duration::from_secs(10), self.asked.recv()).await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn the_first_connection_asks_once_and_all_wait_for_the_answer() {
    let server = Server::start(Does::Echo("west:")).await;
    let mut on_demand = gateway(&[SNI], OnDemandLimits::default());
    let (at, hello) = (on_demand.at, hello(SNI));
    let many = join_all((0..20).map(|_| say(at, &hello)));
    let answer = async {
        assert_eq!(on_demand.said().await, Said::Want(SNI.into()));
        on_demand.gateway.counted("isthmus_connections_open", &[], 20).await;
        on_demand.lead(SNI, server.address);
    };
    let (answers, ()) = tokio::join!(many, answer);
    assert!(answers.into_iter().all(|answer| answer.unwrap().starts_with(b"west:")));
    assert!(say(at, &hello).await.unwrap().starts_with(b"west:"), "the next goes straight on");
    assert!(on_demand.asked.try_recv().is_err(), "one request for all of them");
}

#[tokio::test]
async fn unknown_names_are_refused_at_once_and_nobody_is_asked() {
    let mut on_demand = gateway(&[SNI], OnDemandLimits::default());
    let began = Instant::now();
    for n in 0..200 {
        let unknown = hello(&format!("outbound_.9080_._.nobody-{n}.default.svc.cluster.local"));
        assert!(say(on_demand.at, &unknown).await.is_err());
    }
    assert!(began.elapsed() < Duration::from_secs(5));
    let refused = ["cause=\"unknown_server_name\""];
    on_demand.gateway.counted("isthmus_connections_refused_total", &refused, 200).await;
    assert!(on_demand.asked.try_recv().is_err());
    assert_eq!(on_demand.gateway.proxy.exported_names(), 1);
}

#[tokio::test]
async fn what_is_absent_or_vanishes_is_refused() {
    let server = Server::start(Does::Echo("west:")).await;
    let mut on_demand = gateway(&[SNI], OnDemandLimits::default());
    let (at, hello) = (on_demand.at, hello(SNI));
    let absent = async {
        assert_eq!(on_demand.said().await, Said::Want(SNI.into()));
        on_demand.gateway.remove::<Cluster>(SNI);
    };
    let (answer, ()) = tokio::join!(say(at, &hello), absent);
    assert!(!answer.is_ok_and(|answer| !answer.is_empty()));
    // It is asked for anew, and this time it is there.
    let there = async {
        assert_eq!(on_demand.said().await, Said::Want(SNI.into()));
        on_demand.lead(SNI, server.address);
    };
    let (answer, ()) = tokio::join!(say(at, &hello), there);
    assert!(answer.unwrap().starts_with(b"west:"));
    // Its name goes first: nobody is asked for it again.
    on_demand.export(&[OTHER]);
    assert!(say(at, &hello).await.is_err());
    assert!(on_demand.asked.try_recv().is_err());
}

#[tokio::test]
async fn without_an_answer_connections_are_refused_and_the_name_is_given_back() {
    let limits = OnDemandLimits {
        wait: Duration::from_millis(100),
        waiting: 3,
        asked: 1,
        ..OnDemandLimits::default()
    };
    let mut on_demand = gateway(&[SNI, OTHER], limits);
    let (at, hello, other) = (on_demand.at, hello(SNI), hello(OTHER));
    let answers = join_all([&hello, &hello, &hello, &hello, &other].map(|hello| say(at, hello))).await;
    assert!(answers.into_iter().all(|answer| !answer.is_ok_and(|answer| !answer.is_empty())));
    let first = on_demand.said().await;
    let Said::Want(name) = first else { panic!("{first:?}") };
    assert_eq!(on_demand.said().await, Said::GiveBack(vec![name]));
    let gateway = &on_demand.gateway;
    assert!(gateway.count("isthmus_connections_refused_total", &["cause=\"on_demand_timeout\""]) >= 1);
    assert!(gateway.count("isthmus_connections_refused_total", &["cause=\"on_demand_overflow\""]) >= 1);
}

#[tokio::test]
async fn a_table_that_has_not_come_yet_is_waited_for() {
    let server = Server::start(Does::Echo("west:")).await;
    let mut on_demand = gateway(&[], OnDemandLimits::default());
    let (at, known, unknown) = (on_demand.at, hello(SNI), hello(OTHER));
    let arrive = async {
        on_demand.gateway.counted("isthmus_connections_open", &[], 2).await;
        on_demand.export(&[SNI]);
        assert_eq!(on_demand.said().await, Said::Want(SNI.into()));
        on_demand.lead(SNI, server.address);
    };
    let (answer, refused, ()) = tokio::join!(say(at, &known), say(at, &unknown), arrive);
    assert!(answer.unwrap().starts_with(b"west:"));
    assert!(refused.is_err());
}

#[tokio::test]
async fn a_cluster_without_connections_is_given_back() {
    let server = Server::start(Does::Echo("west:")).await;
    let limits = OnDemandLimits { unused: Duration::ZERO, ..OnDemandLimits::default() };
    let mut on_demand = gateway(&[SNI], limits);
    let (at, hello) = (on_demand.at, hello(SNI));
    let there = async {
        assert_eq!(on_demand.said().await, Said::Want(SNI.into()));
        on_demand.lead(SNI, server.address);
    };
    let (answer, ()) = tokio::join!(say(at, &hello), there);
    assert!(answer.unwrap().starts_with(b"west:"));
    assert_eq!(on_demand.said().await, Said::GiveBack(vec![SNI.into()]));
}
