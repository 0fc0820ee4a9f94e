//! PROXY headers: from a balancer before a gateway, and to those behind it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as lds;
use envoy_types::pb::envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol;
use envoy_types::pb::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use envoy_types::util::pack_any;
use isthmus_proxy::Limits;
use isthmus_testkit::MeshCa;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

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

/// Two listeners: `before` announces its clients to the gateway, `behind` takes that and announces to the server in words.
fn envoys(gateway: SocketAddr, server: SocketAddr) -> serde_json::Value {
    let at = |address: SocketAddr| json!({"socket_address": {"address": address.ip(), "port_value": address.port()}});
    let listener = |name: &str, filters: serde_json::Value| {
        let proxy = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": name,
            "cluster": name,
        });
        json!({
            "name": name,
            "address": at("127.0.0.1:0".parse().unwrap()),
            "listener_filters": filters,
            "filter_chains": [{"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}]}],
        })
    };
    let cluster = |name: &str, to: SocketAddr, version: &str| {
        let transport = json!({
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport",
            "config": {"version": version},
            "transport_socket": {
                "name": "envoy.transport_sockets.raw_buffer",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"},
            },
        });
        json!({
            "name": name,
            "type": "STATIC",
            "load_assignment": {
                "cluster_name": name,
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": at(to)}}]}],
            },
            "transport_socket": {"name": "envoy.transport_sockets.upstream_proxy_protocol", "typed_config": transport},
        })
    };
    let reads = json!([{
        "name": "envoy.filters.listener.proxy_protocol",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"},
    }]);
    json!({
        "admin": {"address": at("127.0.0.1:0".parse().unwrap())},
        "static_resources": {
            "listeners": [listener("before", json!([])), listener("behind", reads)],
            "clusters": [cluster("before", gateway, "V2"), cluster("behind", server, "V1")],
        },
    })
}

/// Where an Envoy listens, as its admin page says.
async fn listeners(admin: &std::path::Path) -> HashMap<String, SocketAddr> {
    let ask = async |address: SocketAddr| {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        // It answers nobody who has ended already.
        stream.write_all(b"GET /listeners HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
        let mut page = String::new();
        stream.read_to_string(&mut page).await?;
        std::io::Result::Ok(page)
    };
    let found = async {
        loop {
            if let Ok(address) = std::fs::read_to_string(admin)
                && let Ok(address) = address.trim().parse()
                && let Ok(page) = ask(address).await
            {
                let lines = page.lines().filter_map(|line| line.trim().split_once("::"));
                let all: HashMap<_, _> =
                    lines.filter_map(|(name, at)| Some((name.to_string(), at.parse().ok()?))).collect();
                if all.len() == 2 {
                    return all;
                }
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), found).await.expect("an Envoy that listens within 30 s")
}

#[tokio::test]
async fn a_real_envoy_is_understood_before_us_and_understands_us_behind() {
    let test = "a_real_envoy_is_understood_before_us_and_understands_us_behind";
    let Some(program) = isthmus_testkit::envoy::program(test) else { return };
    let (gateway, server) =
        gateway(Limits::default(), announcing(core::proxy_protocol_config::Version::V2)).await;
    let directory = tempfile::tempdir().unwrap();
    let (bootstrap, admin) = (directory.path().join("bootstrap.json"), directory.path().join("admin"));
    let config = envoys(gateway.address("announced"), server.address);
    std::fs::write(&bootstrap, config.to_string()).unwrap();
    let _envoy = tokio::process::Command::new(program)
        .args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "error", "--admin-address-path"])
        .arg(&admin)
        .arg("-c")
        .arg(&bootstrap)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let at = listeners(&admin).await;
    gateway.take(vec![], vec![assignment(SNI, vec![vec![endpoint(at["behind"], false)]])], vec![]);

    let mut client = tokio::net::TcpStream::connect(at["before"]).await.unwrap();
    let own = client.local_addr().unwrap();
    client.write_all(&hello(SNI)).await.unwrap();
    let mut answer = vec![0; 5 + 200];
    client.read_exact(&mut answer).await.unwrap();
    let said = String::from_utf8_lossy(&answer);
    let named = format!("west:PROXY TCP4 127.0.0.1 127.0.0.1 {} ", own.port());
    assert!(said.starts_with(&named), "the client is known at the end of the chain: {said:?}");
}
