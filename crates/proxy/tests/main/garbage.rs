//! Bytes that are no resources, or nearly are: refused by name, and nothing that was good is lost.

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use isthmus_testkit::MeshCa;
use proptest::prelude::*;
use prost::{Message, Name};

use crate::resources::*;
use crate::support::*;

const HOST: &str = "outbound|9080||reviews.default.svc.cluster.local";
const VIP: &str = "10.96.0.7:9080";

/// Valid resources of the three types, damaged in a few places.
fn damaged() -> impl Strategy<Value = (String, String, Vec<u8>)> {
    let at = "10.0.0.1:9080".parse().unwrap();
    let inbound =
        virtual_inbound(9080, Mode::Permissive, vec![only("p", "spiffe://cluster.local/ns/a/sa/b")]);
    let cluster = with_outlier(
        mesh_cluster(HOST, &["spiffe://cluster.local/ns/a/sa/b"]),
        1,
        std::time::Duration::from_secs(1),
    );
    let samples = vec![
        (Listener::type_url(), "virtualInbound".to_string(), inbound.encode_to_vec()),
        (
            Listener::type_url(),
            "10.96.0.7_9080".to_string(),
            service_listener(VIP.parse().unwrap(), HOST).encode_to_vec(),
        ),
        (Cluster::type_url(), HOST.to_string(), cluster.encode_to_vec()),
        (
            ClusterLoadAssignment::type_url(),
            HOST.to_string(),
            assignment(HOST, vec![vec![endpoint(at, true)], vec![endpoint(at, false)]]).encode_to_vec(),
        ),
    ];
    (prop::sample::select(samples), prop::collection::vec(any::<(prop::sample::Index, u8)>(), 1..6)).prop_map(
        |((url, name, mut bytes), edits)| {
            for (at, value) in edits {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            (url, name, bytes)
        },
    )
}

#[test]
fn no_bytes_panic_and_what_is_refused_changes_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let identity = MeshCa::new().workload("east", "default/productpage");
    proptest!(ProptestConfig::with_cases(512), |((url, name, bytes) in damaged())| {
        let proxy = Running::new(identity.clone());
        proxy.take(
            vec![plain_cluster(HOST)],
            vec![assignment(HOST, vec![vec![endpoint("127.0.0.1:1".parse().unwrap(), false)]])],
            vec![virtual_outbound("BlackHoleCluster"), service_listener(VIP.parse().unwrap(), HOST)],
        );
        let dump = || (proxy.proxy.listeners_json(), proxy.proxy.clusters_json(), proxy.proxy.endpoints_json());
        let before = dump();
        let rejections = proxy.proxy.apply(&url, vec![(name.as_str().into(), bytes.into())], &[]);
        if let [rejection] = &rejections[..] {
            prop_assert_eq!(&*rejection.name, name.as_str());
            prop_assert_eq!(before, dump());
        }
    });
}
