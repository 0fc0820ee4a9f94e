//! What an earlier run left on disk.

use std::net::SocketAddr;
use std::path::Path;

use envoy_types::pb::envoy::config::cluster::v3 as cds;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as eds;
use envoy_types::pb::envoy::config::listener::v3 as lds;
use envoy_types::pb::envoy::extensions::filters::network::sni_cluster::v3::SniCluster;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use envoy_types::pb::google::protobuf as wkt;
use envoy_types::util::pack_any;
use isthmus_agent::cache::Entry;
use isthmus_agent::{DataDir, Membership, ResourceCache};
use isthmus_lifecycle::Drain;
use isthmus_proto::discovery::ExportedNames;
use isthmus_proto::type_url;
use isthmus_testkit::MeshCa;
use prost::Message;
use tokio::net::TcpListener;

pub(crate) const SNI: &str = "outbound_.9080_._.reviews.default.svc.cluster.local";

pub(crate) const LISTENER: &str = "0.0.0.0_15443";

fn address(at: SocketAddr) -> Option<core::Address> {
    let socket = core::SocketAddress {
        address: at.ip().to_string(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(at.port().into())),
        ..Default::default()
    };
    Some(core::Address { address: Some(core::address::Address::SocketAddress(socket)) })
}

fn entry(name: &str, message: &impl Message) -> Entry {
    Entry { name: name.into(), version: "1".into(), body: message.encode_to_vec().into() }
}

/// All names of one table may pass; each leads to the cluster of its name.
const TABLE: &str = "exported";

/// A listener on a port of the system's choice, as a gateway that fetches on demand has it.
pub(crate) fn listener() -> lds::Listener {
    let proxy = tcp::TcpProxy {
        cluster_specifier: Some(tcp::tcp_proxy::ClusterSpecifier::Cluster("BlackHoleCluster".into())),
        ..Default::default()
    };
    let filter = |typed| lds::Filter {
        config_type: Some(lds::filter::ConfigType::TypedConfig(typed)),
        ..Default::default()
    };
    let text = wkt::Value { kind: Some(wkt::value::Kind::StringValue(TABLE.into())) };
    let fields = wkt::Struct { fields: [("exported_names".to_string(), text)].into() };
    let metadata =
        core::Metadata { filter_metadata: [("isthmus".to_string(), fields)].into(), ..Default::default() };
    lds::Listener {
        name: LISTENER.into(),
        address: address("127.0.0.1:0".parse().unwrap()),
        filter_chains: vec![lds::FilterChain {
            filter_chain_match: Some(lds::FilterChainMatch {
                transport_protocol: "tls".into(),
                application_protocols: vec!["istio".into()],
                ..Default::default()
            }),
            filters: vec![filter(pack_any(SniCluster {})), filter(pack_any(proxy))],
            metadata: Some(metadata),
            ..Default::default()
        }],
        ..Default::default()
    }
}

pub(crate) fn cluster() -> cds::Cluster {
    cds::Cluster {
        name: SNI.into(),
        cluster_discovery_type: Some(cds::cluster::ClusterDiscoveryType::Type(3)),
        ..Default::default()
    }
}

/// The hashes of all names that may pass, in their 256 shards.
pub(crate) fn names(all: &[&str]) -> Vec<(String, ExportedNames)> {
    let shard = |first: u8| {
        let hashes = all.iter().map(|name| isthmus_sni::name_hash(name));
        let mut hashes: Vec<u64> = hashes.filter(|hash| hash.to_be_bytes()[0] == first).collect();
        hashes.sort_unstable();
        (format!("{TABLE}/{first:02x}"), ExportedNames { hashes })
    };
    (0..=255).map(shard).collect()
}

/// Its one endpoint.
pub(crate) fn load(workload: SocketAddr) -> eds::ClusterLoadAssignment {
    let endpoint = eds::Endpoint { address: address(workload), ..Default::default() };
    eds::ClusterLoadAssignment {
        cluster_name: SNI.into(),
        endpoints: vec![eds::LocalityLbEndpoints {
            lb_endpoints: vec![eds::LbEndpoint {
                host_identifier: Some(eds::lb_endpoint::HostIdentifier::Endpoint(endpoint)),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// What an earlier run left: membership, key and chain, and resources that lead to `workload`.
pub(crate) async fn left_behind(directory: &Path, ca: &MeshCa, workload: SocketAddr) {
    let data = DataDir::open(directory).unwrap();
    ca.workload_material("west", "istio-system/istio-eastwestgateway").save(&data.identity()).unwrap();
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    Membership {
        mesh_id: "mesh1".into(),
        cluster: "west".parse().unwrap(),
        network: "west".parse().unwrap(),
        namespace: "istio-system".parse().unwrap(),
        service_account: "istio-eastwestgateway".into(),
        trust_domain: "cluster.local".parse().unwrap(),
        group: None,
        group_spec: None,
        addresses: vec![nobody.to_string().into()],
        server_name: "default.west.federation.isthmus.internal".into(),
    }
    .save(&data)
    .unwrap();
    let cache = ResourceCache::open(&data, "istio-system/gw-west@west").unwrap();
    cache.change(type_url::CLUSTER, vec![entry(SNI, &cluster())], &[]);
    cache.change(type_url::ENDPOINTS, vec![entry(SNI, &load(workload))], &[]);
    let names = names(&[SNI]);
    let names = names.iter().map(|(name, shard)| entry(name, shard)).collect();
    cache.change(type_url::EXPORTED_NAMES, names, &[]);
    cache.change(type_url::LISTENER, vec![entry(LISTENER, &listener())], &[]);
    let drain = Drain::new();
    drain.refuse();
    cache.keep(drain.signal()).await;
}
