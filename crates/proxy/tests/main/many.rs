//! A gateway that has all services of a large mesh.

use std::sync::Arc;

use bytes::Bytes;
use isthmus_testkit::MeshCa;
use prost::Message;

use crate::resources::*;
use crate::support::*;

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn twenty_thousand_services_fit() {
    let gateway = Running::new(MeshCa::new().workload("west", "istio-system/istio-eastwestgateway"));
    let names: Vec<String> = (0..20_000).map(|n| format!("outbound_.80_._.s{n}.mesh.internal")).collect();
    let before = resident();
    for chunk in names.chunks(500) {
        let clusters = chunk
            .iter()
            .map(|name| (Arc::from(name.as_str()), Bytes::from(plain_cluster(name).encode_to_vec())));
        gateway.proxy.apply("type.googleapis.com/envoy.config.cluster.v3.Cluster", clusters.collect(), &[]);
    }
    let clusters = resident();
    for chunk in names.chunks(500) {
        let loads = chunk.iter().map(|name| {
            let ends = (2..6).map(|n| endpoint(format!("127.0.0.{n}:80").parse().unwrap(), true)).collect();
            (Arc::from(name.as_str()), Bytes::from(assignment(name, vec![ends]).encode_to_vec()))
        });
        gateway.proxy.apply(
            "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            loads.collect(),
            &[],
        );
    }
    let all = resident();
    assert!(
        (all - before) / 20_000 < 1_600,
        "{} and {} bytes each",
        (clusters - before) / 20_000,
        (all - clusters) / 20_000
    );
}
