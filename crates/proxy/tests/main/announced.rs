//! PROXY headers: from a balancer before a gateway, and to those behind it.

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as lds;
use envoy_types::pb::envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol;
use envoy_types::pb::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use envoy_types::util::pack_any;
use isthmus_proxy::Limits;
use isthmus_testkit::MeshCa;

use crate::flood::SNI;
use crate::resources::*;
use crate::support::*;

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.9 40001 15443\r\n";

fn announced() -> lds::Listener {
    let filter = lds::ListenerFilter {
        name: "envoy.filters.listener.proxy_protocol".into(),
        config_type: Some(lds::listener_filter::ConfigType::TypedConfig(pack_any(ProxyProtocol::default()))),
        ..Default::default()
    };
    let mut listener = gateway_listener("announced", &[(SNI, SNI)]);
    listener.listener_filters.insert(0, filter);
    listener
}

/// A cluster whose endpoints are told the client.
fn announcing(version: core::proxy_protocol_config::Version) -> Cluster {
    let transport = ProxyProtocolUpstreamTransport {
        config: Some(core::ProxyProtocolConfig { version: version.into(), ..Default::default() }),
        ..Default::default()
    };
    let config = core::transport_socket::ConfigType::TypedConfig(pack_any(transport));
    let socket = core::TransportSocket {
        name: "envoy.transport_sockets.upstream_proxy_protocol".into(),
        config_type: Some(config),
    };
    Cluster { transport_socket: Some(socket), ..plain_cluster(SNI) }
}

async fn gateway(limits: Limits, cluster: Cluster) -> (Running, Server) {
    let server = Server::start(Does::Echo("west:")).await;
    let mut setup = Setup::new(MeshCa::new().workload("west", "istio-system/istio-eastwestgateway"));
    setup.limits = limits;
    let gateway = setup.start();
    gateway.take(
        vec![cluster],
        vec![assignment(SNI, vec![vec![endpoint(server.address, false)]])],
        vec![announced(), gateway_listener("direct", &[(SNI, SNI)])],
    );
    (gateway, server)
}

#[tokio::test]
async fn a_client_that_a_balancer_announces_is_named_to_the_workload() {
    let (gateway, _server) =
        gateway(Limits::default(), announcing(core::proxy_protocol_config::Version::V1)).await;
    let hello = hello(SNI);
    let bytes = [V1, &hello].concat();
    let answer = say(gateway.address("announced"), &bytes).await.unwrap();
    let answer = answer.strip_prefix(b"west:").unwrap();
    let port = gateway.address("announced").port();
    // The workload hears of the client, and of where it was met here.
    let expected = format!("PROXY TCP4 192.0.2.7 127.0.0.1 40001 {port}\r\n");
    assert!(answer.starts_with(expected.as_bytes()), "{}", String::from_utf8_lossy(&answer[..100]));
    assert_eq!(answer[expected.len()..], hello, "all else is what the client said");
}

#[tokio::test]
async fn version_two_is_written_too() {
    let (gateway, _server) =
        gateway(Limits::default(), announcing(core::proxy_protocol_config::Version::V2)).await;
    let answer = say(gateway.address("direct"), &hello(SNI)).await.unwrap();
    assert!(answer.starts_with(b"west:\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01"));
}

#[tokio::test]
async fn without_a_header_nobody_comes_in_and_with_one_nobody_where_none_is_expected() {
    let (gateway, _server) = gateway(Limits::default(), plain_cluster(SNI)).await;
    let hello = hello(SNI);
    let refused = |answer: std::io::Result<Vec<u8>>| !answer.is_ok_and(|answer| !answer.is_empty());
    assert!(refused(say(gateway.address("announced"), &hello).await));
    gateway.counted("isthmus_connections_refused_total", &["cause=\"proxy_header_missing\""], 1).await;
    // The header is trusted only where it is asked for.
    assert!(refused(say(gateway.address("direct"), &[V1, &hello].concat()).await));
    gateway.counted("isthmus_tls_refused_total", &["cause=\"plaintext\""], 1).await;
}

#[tokio::test]
async fn limits_are_those_of_the_client_and_not_of_its_balancer() {
    let limits = Limits { connections_per_source: 1, ..Limits::default() };
    let (gateway, _server) = gateway(limits, plain_cluster(SNI)).await;
    let at = gateway.address("announced");
    let open = async |client: &str| {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(at).await.unwrap();
        let header = format!("PROXY TCP6 {client} 2001:db8::9 40001 15443\r\n");
        stream.write_all(&[header.as_bytes(), &hello(SNI)].concat()).await.unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await.map(|_| stream)
    };
    let _first = open("2001:db8:1::1").await.unwrap();
    let _other = open("2001:db8:2::1").await.unwrap();
    assert!(open("2001:db8:1::2").await.is_err(), "one /64 is one client");
    gateway.counted("isthmus_connections_refused_total", &["cause=\"too_many_from_one_source\""], 1).await;
}

#[tokio::test]
async fn an_operator_says_that_a_port_stands_behind_a_balancer() {
    let server = Server::start(Does::Echo("west:")).await;
    let mut setup = Setup::new(MeshCa::new().workload("west", "istio-system/istio-eastwestgateway"));
    setup.announced_ports = vec![0];
    let gateway = setup.start();
    gateway.take(
        vec![plain_cluster(SNI)],
        vec![assignment(SNI, vec![vec![endpoint(server.address, false)]])],
        vec![gateway_listener("direct", &[(SNI, SNI)])],
    );
    let at = gateway.address("direct");
    assert!(say(at, &[V1, &hello(SNI)].concat()).await.unwrap().starts_with(b"west:"));
    assert!(!say(at, &hello(SNI)).await.is_ok_and(|answer| !answer.is_empty()));
}
