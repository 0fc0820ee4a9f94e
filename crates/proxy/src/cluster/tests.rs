use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3 as proto;
use envoy_types::pb::google::protobuf::UInt32Value;
use isthmus_testkit::MeshCa;
use prost::Message;

use super::*;
use crate::resource::assignment::{Group, Listed};
use crate::resource::tls::Configurations;

fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

fn cluster(max_percent: Option<u32>, former: Option<&Cluster>) -> Arc<Cluster> {
    cluster_of("c", max_percent, former)
}

fn cluster_of(service: &str, max_percent: Option<u32>, former: Option<&Cluster>) -> Arc<Cluster> {
    let message = proto::Cluster {
        eds_cluster_config: Some(proto::cluster::EdsClusterConfig {
            service_name: service.to_string(),
            ..Default::default()
        }),
        cluster_discovery_type: Some(proto::cluster::ClusterDiscoveryType::Type(3)),
        outlier_detection: Some(proto::OutlierDetection {
            max_ejection_percent: max_percent.and_then(number),
            ..Default::default()
        }),
        common_lb_config: Some(proto::cluster::CommonLbConfig {
            healthy_panic_threshold: Some(Default::default()),
            ..Default::default()
        }),
        ..Default::default()
    };
    let tls = Configurations::new(MeshCa::new().workload("east", "a/b"));
    let config = ClusterConfig::compile(&"c".into(), &message.encode_to_vec(), &tls).unwrap();
    Arc::new(Cluster::new(config, former))
}

fn hosts(count: u8) -> Arc<Assignment> {
    let endpoints = (0..count).map(|n| Listed {
        address: Address::Ip(SocketAddr::from(([10, 0, 0, n], 80))),
        weight: 1,
        healthy: true,
        transport: Vec::new().into(),
        workload: None,
    });
    let group = Group { locality: "".into(), priority: 0, weight: 1, endpoints: endpoints.collect() };
    Arc::new(Assignment { groups: vec![group], overprovisioning: 140 })
}

#[tokio::test(start_paused = true)]
async fn each_ejection_lasts_longer_and_quiet_time_forgives() {
    let cluster = cluster(Some(100), None);
    cluster.assign(&hosts(2));
    let host = Arc::clone(&cluster.endpoints()[0].host);
    let lasts = |cluster: &Arc<Cluster>| {
        let now = Instant::now();
        cluster.eject(&host, now).map(|until| until - now)
    };
    assert_eq!(lasts(&cluster), Some(Duration::from_secs(30)), "Envoy's base time");
    assert_eq!(lasts(&cluster), None, "it is out already");
    host.readmit(Instant::now());
    assert_eq!(lasts(&cluster), Some(Duration::from_secs(60)));
    host.readmit(Instant::now());
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(lasts(&cluster), Some(Duration::from_secs(60)), "one interval forgave one ejection");
    for _ in 0..20 {
        host.readmit(Instant::now());
        lasts(&cluster);
    }
    assert_eq!(host.ejected_until().unwrap() - Instant::now(), Duration::from_secs(300), "Envoy's longest");
}

#[tokio::test(start_paused = true)]
async fn no_more_than_the_percentage_is_out_but_one_always_may_be() {
    let cluster = cluster(None, None); // 10 %
    cluster.assign(&hosts(20));
    let eject = |n: usize| cluster.eject(&cluster.endpoints()[n].host, Instant::now()).is_some();
    assert_eq!((0..5).map(eject).collect::<Vec<_>>(), [true, true, false, false, false]);
    cluster.assign(&hosts(2));
    assert_eq!(cluster.ejected().len(), 2, "both are still out: their history follows their address");
    let fresh = self::cluster(None, None);
    fresh.assign(&hosts(2));
    let eject = |n: usize| fresh.eject(&fresh.endpoints()[n].host, Instant::now()).is_some();
    assert_eq!((eject(0), eject(1)), (true, false));
}

#[tokio::test(start_paused = true)]
async fn a_changed_configuration_inherits_endpoints_ejections_and_counts() {
    let former = cluster(Some(100), None);
    former.assign(&hosts(2));
    let host = Arc::clone(&former.endpoints()[0].host);
    former.eject(&host, Instant::now()).unwrap();
    let occupied = former.occupy();
    let changed = cluster(Some(50), Some(&former));
    assert_eq!(changed.ejected().len(), 1);
    assert_eq!(changed.active(), 1);
    drop(occupied);
    assert_eq!(changed.active(), 0);
    for _ in 0..20 {
        assert_ne!(changed.pick(&HashSet::new()).unwrap().address(), host.address);
    }
}

#[test]
fn unknown_endpoints_are_not_the_same_as_none() {
    let cluster = cluster(None, None);
    assert_eq!(cluster.loads(), None);
    cluster.assign(&Arc::new(Assignment::empty()));
    assert_eq!(cluster.loads(), Some(vec![]));
    assert!(cluster.pick(&HashSet::new()).is_none());
    cluster.forget_endpoints();
    assert_eq!(cluster.loads(), None);
}

#[test]
fn endpoints_of_another_service_are_not_inherited() {
    let former = cluster_of("a", None, None);
    former.assign(&hosts(2));
    assert!(cluster_of("a", None, Some(&former)).loads().is_some());
    assert!(cluster_of("b", None, Some(&former)).loads().is_none(), "unknown until they come");
}
