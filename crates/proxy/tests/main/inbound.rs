//! To a workload: chains, mutual TLS, authorization, plaintext.

use std::time::Duration;

use isthmus_proxy::Limits;
use isthmus_testkit::MeshCa;
use isthmus_tls::{ClientCertificate, Expected, Identity};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::resources::*;
use crate::support::*;

const RATINGS: &str = "spiffe://cluster.local/ns/default/sa/ratings";
const POLICY: &str = "ns[vm]-policy[mysql]-rule[0]";

/// A workload `vm/mysql` with its proxy.
async fn workload(ca: &MeshCa, does: Does, mode: Mode, allow: Option<&str>) -> (Running, Server) {
    let mut setup = Setup::new(ca.workload("west", "vm/mysql"));
    setup.limits = Limits { detection: Duration::from_millis(100), ..Limits::default() };
    let proxy = setup.start();
    let server = Server::start(does).await;
    let port = server.address.port();
    proxy.tell(server.address);
    let rbac = allow.map(|identity| only(POLICY, identity)).into_iter().collect();
    proxy.take(
        vec![original_cluster(&format!("inbound|{port}||"), Some("127.0.0.6"))],
        vec![],
        vec![virtual_inbound(port, mode, rbac)],
    );
    (proxy, server)
}

/// Speaks TLS to a workload's proxy as this identity, sends and reads to the end.
async fn ask_as(
    proxy: &Running,
    identity: &Identity,
    certificate: ClientCertificate,
    alpn: &[&[u8]],
) -> std::io::Result<String> {
    let expected = Expected::AnyInDomain("cluster.local".parse().unwrap());
    let config = isthmus_tls::client_config(identity, expected, alpn, certificate);
    let stream = TcpStream::connect(proxy.address("virtualInbound")).await?;
    let name = "outbound_.3306_._.mysqldb.vm.svc.cluster.local".try_into().unwrap();
    let (mut stream, _) = isthmus_tls::connect(stream, &config, name, Duration::from_secs(5))
        .await
        .map_err(std::io::Error::other)?;
    stream.write_all(b"x").await?;
    stream.shutdown().await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn strict_takes_mutual_tls_and_refuses_plaintext() {
    let ca = MeshCa::new();
    let (proxy, _server) = workload(&ca, Does::Echo("db:"), Mode::Strict, None).await;
    let ratings = ca.workload("east", "default/ratings");
    let alpn: [&[u8]; 2] = [b"istio-peer-exchange", b"istio"];
    assert_eq!(ask_as(&proxy, &ratings, ClientCertificate::Send, &alpn).await.unwrap(), "db:x");
    let plain = TcpStream::connect(proxy.address("virtualInbound")).await.unwrap();
    let answer = ask(plain, "GET / HTTP/1.1\r\n\r\n").await;
    assert!(!answer.is_ok_and(|text| text.contains("db:")));
    proxy.counted("isthmus_tls_refused_total", &["cause=\"plaintext\""], 1).await;
}

#[tokio::test]
async fn strangers_of_three_kinds_are_refused_and_counted() {
    let ca = MeshCa::new();
    let (proxy, _server) = workload(&ca, Does::Echo("db:"), Mode::Strict, Some(RATINGS)).await;
    let alpn: [&[u8]; 1] = [b"istio"];

    // A certificate of another root. The stranger trusts the server, so that only the server's judgement counts.
    let other = MeshCa::new().workload("east", "default/ratings");
    other.update_trust(ca.trust());
    assert!(ask_as(&proxy, &other, ClientCertificate::Send, &alpn).await.is_err());
    proxy.counted("isthmus_tls_refused_total", &["cause=\"unknown_issuer\""], 1).await;

    // None.
    let ratings = ca.workload("east", "default/ratings");
    assert!(ask_as(&proxy, &ratings, ClientCertificate::Omit, &alpn).await.is_err());
    proxy.counted("isthmus_tls_refused_total", &["cause=\"no_certificate\""], 1).await;

    // A valid one that the policy does not list: an orderly end, and not a byte.
    let reviews = ca.workload("east", "default/reviews");
    assert_eq!(ask_as(&proxy, &reviews, ClientCertificate::Send, &alpn).await.unwrap_or_default(), "");
    proxy.counted("isthmus_rbac_denied_total", &["policy=\"none\""], 1).await;
    proxy.counted("istio_tcp_connections_closed_total", &["response_flags=\"DENY\"", "/sa/reviews"], 1).await;

    assert_eq!(ask_as(&proxy, &ratings, ClientCertificate::Send, &alpn).await.unwrap(), "db:x");
}

#[tokio::test]
async fn the_access_log_says_who_came_and_why_it_was_refused() {
    let logs = isthmus_testkit::Logs::capture();
    let ca = MeshCa::new();
    let (proxy, _server) = workload(&ca, Does::Echo("db:"), Mode::Strict, Some(RATINGS)).await;
    let (ratings, reviews) = (ca.workload("east", "default/ratings"), ca.workload("east", "default/reviews"));
    let serial = |identity: &Identity| identity.leaf().unwrap().certificate().serial.to_string();
    for identity in [&ratings, &reviews] {
        let _ = ask_as(&proxy, identity, ClientCertificate::Send, &[b"istio"]).await;
    }
    let plain = TcpStream::connect(proxy.address("virtualInbound")).await.unwrap();
    let _ = ask(plain, "GET / HTTP/1.1\r\n\r\n").await;
    proxy.counted("istio_tcp_connections_closed_total", &[], 3).await;
    let served = [
        "access:",
        "response_flags=\"-\"",
        "bytes_received=1 bytes_sent=4",
        "requested_server_name=outbound_.3306_._.mysqldb.vm.svc.cluster.local",
        &format!("downstream_peer={RATINGS} downstream_peer_serial={}", serial(&ratings)),
        "upstream_cluster=inbound|",
        "upstream_host=127.0.0.1:",
    ];
    assert!(logs.has_line(&served), "{}", logs.text());
    let denied = [
        "response_flags=\"DENY\"",
        "connection_termination_details=rbac_access_denied_matched_policy[none]",
        &format!("downstream_peer_serial={}", serial(&reviews)),
    ];
    assert!(logs.has_line(&denied), "{}", logs.text());
    let refused = [
        "response_flags=\"TLS_FAILURE\"",
        "connection_termination_details=plaintext where only mutual TLS is served",
    ];
    assert!(logs.has_line(&refused), "{}", logs.text());
}

#[tokio::test]
async fn permissive_takes_mesh_tls_plaintext_and_servers_that_speak_first() {
    let ca = MeshCa::new();
    let (proxy, _server) = workload(&ca, Does::Greet("hi:"), Mode::Permissive, None).await;
    let alpn: [&[u8]; 1] = [b"istio"];
    let ratings = ca.workload("east", "default/ratings");
    assert_eq!(ask_as(&proxy, &ratings, ClientCertificate::Send, &alpn).await.unwrap(), "hi:x");
    let plain = TcpStream::connect(proxy.address("virtualInbound")).await.unwrap();
    assert_eq!(ask(plain, "y").await.unwrap(), "hi:y");
    // The client says nothing: after the detection time the server's greeting comes through.
    let mut silent = TcpStream::connect(proxy.address("virtualInbound")).await.unwrap();
    let mut greeting = [0; 3];
    silent.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"hi:");
    drop(silent);
    proxy.counted("istio_tcp_connections_opened_total", &["connection_security_policy=\"none\""], 2).await;
}

#[tokio::test]
async fn permissive_passes_the_workloads_own_tls_untouched() {
    let ca = MeshCa::new();
    let (proxy, _server) = workload(&ca, Does::Echo("raw:"), Mode::Permissive, None).await;
    // Not a mesh client: its hello goes to the workload, which here just echoes it.
    let identity = ca.workload("east", "default/ratings");
    let expected = Expected::AnyInDomain("cluster.local".parse().unwrap());
    let config = isthmus_tls::client_config(&identity, expected, &[b"http/1.1"], ClientCertificate::Omit);
    let name = "db.example.com".try_into().unwrap();
    let mut hello = rustls::ClientConnection::new(config, name).unwrap();
    let mut bytes = Vec::new();
    hello.write_tls(&mut bytes).unwrap();
    let mut stream = TcpStream::connect(proxy.address("virtualInbound")).await.unwrap();
    stream.write_all(&bytes[..100]).await.unwrap();
    stream.write_all(&bytes[100..]).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut echoed = Vec::new();
    stream.read_to_end(&mut echoed).await.unwrap();
    assert_eq!(echoed, [b"raw:", &bytes[..]].concat());
}

#[tokio::test]
async fn once_the_workload_refuses_clients_learn_it_before_the_handshake() {
    let ca = MeshCa::new();
    let (proxy, server) = workload(&ca, Does::Echo("db:"), Mode::Strict, None).await;
    let ratings = ca.workload("east", "default/ratings");
    let alpn: [&[u8]; 1] = [b"istio"];
    assert_eq!(ask_as(&proxy, &ratings, ClientCertificate::Send, &alpn).await.unwrap(), "db:x");
    let address = server.kill().await;
    // The first to meet it has shaken hands already.
    assert!(ask_as(&proxy, &ratings, ClientCertificate::Send, &alpn).await.is_err());
    proxy.counted("istio_tcp_connections_closed_total", &["response_flags=\"UF\""], 1).await;
    let second = ask_as(&proxy, &ratings, ClientCertificate::Send, &alpn).await.unwrap_err();
    assert!(second.to_string().contains("handshake"), "{second}");
    let _server = Server::at(address, Does::Echo("again:")).await;
    assert_eq!(ask_as(&proxy, &ratings, ClientCertificate::Send, &alpn).await.unwrap(), "again:x");
}

#[tokio::test]
async fn a_trusted_identity_of_a_domain_that_the_listener_does_not_name_is_refused() {
    let (ca, partner) = (MeshCa::new(), MeshCa::in_domain("partner.example"));
    let own = ca.workload("west", "vm/mysql");
    own.update_trust(ca.trust().with_domain(partner.trust_domain().clone(), partner.roots_pem()).unwrap());
    let proxy = Setup::new(own).start();
    let server = Server::start(Does::Echo("db:")).await;
    let port = server.address.port();
    proxy.tell(server.address);
    proxy.take(
        vec![original_cluster(&format!("inbound|{port}||"), Some("127.0.0.6"))],
        vec![],
        vec![virtual_inbound(port, Mode::Strict, vec![])],
    );
    let stranger = partner.workload("east", "default/ratings");
    stranger.update_trust(partner.trust().with_domain(ca.trust_domain().clone(), ca.roots_pem()).unwrap());
    let answer = ask_as(&proxy, &stranger, ClientCertificate::Send, &[b"istio"]).await.unwrap_or_default();
    assert_eq!(answer, "");
    proxy.counted("isthmus_tls_refused_total", &["cause=\"san_mismatch\""], 1).await;
}

#[tokio::test]
async fn a_leaf_that_is_replaced_is_used_by_the_next_handshake() {
    let ca = MeshCa::new();
    let (proxy, _server) = workload(&ca, Does::Echo("db:"), Mode::Strict, None).await;
    let ratings = ca.workload("east", "default/ratings");
    let before = ratings.leaf().unwrap().certificate().serial.clone();
    ratings.update_material(&ca.workload_material("east", "default/ratings")).unwrap();
    assert_ne!(before, ratings.leaf().unwrap().certificate().serial);
    assert_eq!(ask_as(&proxy, &ratings, ClientCertificate::Send, &[b"istio"]).await.unwrap(), "db:x");
}
