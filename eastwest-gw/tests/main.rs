//! A gateway that restarts with every control plane gone: identity and last-good resources on disk are all it has.
#![expect(clippy::unwrap_used, reason = "what helps tests is a test")]

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use clap::Parser as _;
use envoy_types::pb::envoy::config::cluster::v3 as cds;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as eds;
use envoy_types::pb::envoy::config::listener::v3 as lds;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use envoy_types::util::pack_any;
use isthmus_agent::cache::Entry;
use isthmus_agent::{DataDir, Membership, ResourceCache};
use isthmus_eastwest_gw::{App, Args};
use isthmus_lifecycle::{Drain, TaskGroup};
use isthmus_proto::type_url;
use isthmus_testkit::MeshCa;
use isthmus_tls::{ClientAuth, ClientCertificate, Expected};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const SNI: &str = "outbound_.9080_._.reviews.default.svc.cluster.local";

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

/// What an earlier run left: membership, key and chain, and resources that lead to `workload`.
async fn left_behind(directory: &Path, ca: &MeshCa, workload: SocketAddr) {
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
    let proxy = tcp::TcpProxy {
        cluster_specifier: Some(tcp::tcp_proxy::ClusterSpecifier::Cluster(SNI.into())),
        ..Default::default()
    };
    let filter = lds::Filter {
        config_type: Some(lds::filter::ConfigType::TypedConfig(pack_any(proxy))),
        ..Default::default()
    };
    let listener = lds::Listener {
        address: address("127.0.0.1:0".parse().unwrap()),
        filter_chains: vec![lds::FilterChain {
            filter_chain_match: Some(lds::FilterChainMatch {
                server_names: vec![SNI.into()],
                application_protocols: vec!["istio".into()],
                ..Default::default()
            }),
            filters: vec![filter],
            ..Default::default()
        }],
        ..Default::default()
    };
    let cluster = cds::Cluster {
        name: SNI.into(),
        cluster_discovery_type: Some(cds::cluster::ClusterDiscoveryType::Type(3)),
        ..Default::default()
    };
    let endpoint = eds::Endpoint { address: address(workload), ..Default::default() };
    let load = eds::ClusterLoadAssignment {
        cluster_name: SNI.into(),
        endpoints: vec![eds::LocalityLbEndpoints {
            lb_endpoints: vec![eds::LbEndpoint {
                host_identifier: Some(eds::lb_endpoint::HostIdentifier::Endpoint(endpoint)),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    cache.change(type_url::CLUSTER, vec![entry(SNI, &cluster)], &[]);
    cache.change(type_url::ENDPOINTS, vec![entry(SNI, &load)], &[]);
    cache.change(type_url::LISTENER, vec![entry("0.0.0.0_15443", &listener)], &[]);
    let drain = Drain::new();
    drain.refuse();
    cache.keep(drain.signal()).await;
}

#[tokio::test]
async fn it_serves_from_disk_and_holds_no_key_but_its_own() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let ca = MeshCa::new();
    let workload = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    left_behind(directory.path(), &ca, workload.local_addr().unwrap()).await;

    let line = format!(
        "isthmus-eastwest-gw --data-dir {} --network west --name gw-west --address 127.0.0.1 \
         --metrics-address 127.0.0.1:0 --readiness-address 127.0.0.1:0 --admin-address 127.0.0.1:0",
        directory.path().display()
    );
    let args = Args::try_parse_from(line.split_whitespace()).unwrap();
    let drain = Drain::new();
    let app = App::start(&args, &drain).await.unwrap();
    assert_eq!(app.awaited(), Vec::<&str>::new(), "what is on disk suffices");
    let (gateway, metrics) = (app.listeners()[0].1, app.metrics().unwrap());
    let tasks = TaskGroup::new("test", drain.clone());
    tasks.spawn("gateway", isthmus_lifecycle::OnFailure::Log, app.run());

    // Client and workload shake hands through it, and it sees neither.
    let server = isthmus_tls::server_config(
        &ca.workload("west", "default/reviews"),
        ClientAuth::Required,
        &[b"istio"],
    );
    let client = isthmus_tls::client_config(
        &ca.workload("east", "default/productpage"),
        Expected::AnyInDomain("cluster.local".parse().unwrap()),
        &[b"istio"],
        ClientCertificate::Send,
    );
    let patience = Duration::from_secs(5);
    let serve = async {
        let (stream, _) = workload.accept().await.unwrap();
        let (mut stream, peer) = isthmus_tls::accept(stream, &server, patience).await.unwrap();
        stream.write_all(b"red stars").await.unwrap();
        stream.shutdown().await.unwrap();
        peer.unwrap().spiffe.unwrap().to_string()
    };
    let ask = async {
        let stream = TcpStream::connect(gateway).await.unwrap();
        let name = SNI.try_into().unwrap();
        let (mut stream, peer) = isthmus_tls::connect(stream, &client, name, patience).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        (answer, peer.spiffe.unwrap().to_string())
    };
    let (seen, (answer, peer)) = tokio::join!(serve, ask);
    assert_eq!(answer, "red stars");
    assert_eq!(seen, "spiffe://cluster.local/ns/default/sa/productpage");
    assert_eq!(peer, "spiffe://cluster.local/ns/default/sa/reviews");

    let mut stream = TcpStream::connect(metrics).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    assert!(page.contains("destination_service=\"reviews.default.svc.cluster.local\""), "{page}");

    let key = std::fs::metadata(directory.path().join("identity/key.pem")).unwrap();
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
    drain.immediate();
    tokio::time::timeout(patience, tasks.finished()).await.unwrap();
}

#[tokio::test]
async fn without_token_and_identity_it_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let line = format!("isthmus-eastwest-gw --data-dir {} --network west", directory.path().display());
    let args = Args::try_parse_from(line.split_whitespace()).unwrap();
    let error = App::start(&args, &Drain::new()).await.err().unwrap().to_string();
    assert!(error.contains("--token-file"), "{error}");
}
