//! From a workload: original destination, passthrough, mutual TLS to a peer, loops.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use futures::future::BoxFuture;
use isthmus_testkit::MeshCa;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::resources::*;
use crate::support::*;

const HOST: &str = "outbound|9080||reviews.default.svc.cluster.local";
const VIP: &str = "10.96.0.7:9080";

#[tokio::test]
async fn a_connection_to_a_service_address_reaches_an_endpoint() {
    let proxy = Running::new(MeshCa::new().workload("east", "default/productpage"));
    let server = Server::start(Does::Echo("reviews:")).await;
    proxy.take(
        vec![plain_cluster(HOST)],
        vec![assignment(HOST, vec![vec![endpoint(server.address, false)]])],
        vec![virtual_outbound("BlackHoleCluster"), service_listener(VIP.parse().unwrap(), HOST)],
    );
    assert_eq!(ask(proxy.capture(VIP.parse().unwrap()).await, "hello").await.unwrap(), "reviews:hello");
    let labels = [
        "reporter=\"source\"",
        "destination_service=\"reviews.default.svc.cluster.local\"",
        "destination_service_name=\"reviews\"",
        "destination_workload=\"reviews-v2\"",
        "destination_cluster=\"east\"",
        "source_workload=\"productpage-v1\"",
        "source_principal=\"spiffe://cluster.local/ns/default/sa/productpage\"",
        "response_flags=\"-\"",
    ];
    proxy.counted("istio_tcp_connections_closed_total", &labels, 1).await;
    assert_eq!(proxy.count("istio_tcp_connections_opened_total", &labels), 1);
    assert_eq!(proxy.count("istio_tcp_received_bytes_total", &labels), 5);
    assert_eq!(proxy.count("istio_tcp_sent_bytes_total", &labels), 13);
}

#[tokio::test]
async fn what_nobody_declared_passes_through_or_falls_into_the_black_hole() {
    let proxy = Running::new(MeshCa::new().workload("east", "default/productpage"));
    let server = Server::start(Does::Greet("welcome")).await;
    let clusters = vec![original_cluster("PassthroughCluster", None)];
    proxy.take(clusters, vec![], vec![virtual_outbound("PassthroughCluster")]);
    // A server that speaks first: nothing waits for the client's bytes.
    let mut stream = proxy.capture(server.address).await;
    let mut greeting = [0; 7];
    stream.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"welcome");
    drop(stream);

    let hole = Cluster { name: "BlackHoleCluster".into(), ..Default::default() };
    proxy.take(vec![hole], vec![], vec![virtual_outbound("BlackHoleCluster")]);
    assert!(ask(proxy.capture(server.address).await, "x").await.is_err());
    proxy.counted("istio_tcp_connections_closed_total", &["response_flags=\"UH\""], 1).await;
}

#[tokio::test]
async fn a_connection_to_the_proxy_itself_is_refused() {
    let proxy = Running::new(MeshCa::new().workload("east", "default/productpage"));
    proxy.take(
        vec![original_cluster("PassthroughCluster", None)],
        vec![],
        vec![virtual_outbound("PassthroughCluster")],
    );
    let itself = proxy.address("virtualOutbound");
    assert!(ask(proxy.capture(itself).await, "x").await.is_err());
    proxy.counted("isthmus_connections_refused_total", &["cause=\"loop\""], 1).await;
}

#[tokio::test]
async fn mutual_tls_reaches_the_peers_application_and_both_sides_count_it() {
    let ca = MeshCa::new();
    let server = Server::start(Does::Greet("5.7.0-mysql")).await;
    let port = server.address.port();
    let (client, peer) =
        (Running::new(ca.workload("east", "default/ratings")), Running::new(ca.workload("west", "vm/mysql")));
    peer.tell(server.address);
    peer.take(
        vec![original_cluster(&format!("inbound|{port}||"), Some("127.0.0.6"))],
        vec![],
        vec![virtual_inbound(port, Mode::Strict, vec![])],
    );
    let mysql = "spiffe://cluster.local/ns/vm/sa/mysql";
    client.take(
        vec![mesh_cluster(HOST, &[mysql])],
        vec![assignment(HOST, vec![vec![endpoint(peer.address("virtualInbound"), true)]])],
        vec![virtual_outbound("BlackHoleCluster"), service_listener(VIP.parse().unwrap(), HOST)],
    );
    let mut stream = client.capture(VIP.parse().unwrap()).await;
    let mut greeting = [0; 11];
    stream.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"5.7.0-mysql", "a server that speaks first works through TLS on both sides");
    stream.write_all(b"select").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "select", "half-close passes through");

    let seen = [
        "reporter=\"destination\"",
        "source_principal=\"spiffe://cluster.local/ns/default/sa/ratings\"",
        "destination_principal=\"spiffe://cluster.local/ns/vm/sa/mysql\"",
        "connection_security_policy=\"mutual_tls\"",
    ];
    peer.counted("istio_tcp_connections_closed_total", &seen, 1).await;
    let sent = ["reporter=\"source\"", "destination_principal=\"spiffe://cluster.local/ns/vm/sa/mysql\""];
    client.counted("istio_tcp_connections_closed_total", &sent, 1).await;
}

#[tokio::test]
async fn a_peer_with_another_identity_gets_no_byte() {
    let ca = MeshCa::new();
    let server = Server::start(Does::Echo("never:")).await;
    let port = server.address.port();
    let (client, impostor) = (
        Running::new(ca.workload("east", "default/ratings")),
        Running::new(ca.workload("west", "default/impostor")),
    );
    impostor.tell(server.address);
    impostor.take(
        vec![original_cluster(&format!("inbound|{port}||"), Some("127.0.0.6"))],
        vec![],
        vec![virtual_inbound(port, Mode::Strict, vec![])],
    );
    client.take(
        vec![mesh_cluster(HOST, &["spiffe://cluster.local/ns/vm/sa/mysql"])],
        vec![assignment(HOST, vec![vec![endpoint(impostor.address("virtualInbound"), true)]])],
        vec![virtual_outbound("BlackHoleCluster"), service_listener(VIP.parse().unwrap(), HOST)],
    );
    assert!(ask(client.capture(VIP.parse().unwrap()).await, "secret").await.is_err());
    client.counted("isthmus_upstream_failures_total", &["cause=\"wrong_identity\""], 1).await;
    client.counted("istio_tcp_connections_closed_total", &["response_flags=\"UF\""], 1).await;
}

#[tokio::test]
async fn bad_resources_are_rejected_by_field_and_the_last_good_stays() {
    let proxy = Running::new(MeshCa::new().workload("east", "default/productpage"));
    let server = Server::start(Does::Echo("good:")).await;
    let vip = VIP.parse().unwrap();
    proxy.take(
        vec![plain_cluster(HOST)],
        vec![assignment(HOST, vec![vec![endpoint(server.address, false)]])],
        vec![virtual_outbound("BlackHoleCluster"), service_listener(vip, HOST)],
    );
    let mut bad = plain_cluster(HOST);
    bad.health_checks.push(Default::default());
    let reasons: Vec<String> = [
        proxy.give(vec![(HOST.to_string(), bad)]),
        proxy.give(vec![(HOST.to_string(), {
            let mut load = assignment(HOST, vec![vec![endpoint(server.address, false)]]);
            load.endpoints[0].lb_endpoints[0].host_identifier = None;
            load
        })]),
        proxy.give(vec![("10.96.0.7_9080".to_string(), {
            let mut listener = service_listener(vip, HOST);
            listener.filter_chains[0]
                .filters
                .insert(0, filter("envoy.filters.network.mongo_proxy", Cluster::default()));
            listener
        })]),
    ]
    .into_iter()
    .flatten()
    .map(|rejection| rejection.to_string())
    .collect();
    assert_eq!(
        reasons,
        [
            format!("{HOST}: health_checks: is not supported by this proxy"),
            format!("{HOST}: endpoints[0].lb_endpoints[0].endpoint: is missing"),
            "10.96.0.7_9080: filter_chains[0].filters[0]: filter \"envoy.filters.network.mongo_proxy\" \
             (type.googleapis.com/envoy.config.cluster.v3.Cluster) is not supported by this proxy"
                .to_string(),
        ]
    );
    assert_eq!(ask(proxy.capture(vip).await, "x").await.unwrap(), "good:x");
    let garbage = proxy.proxy.apply(
        &<Listener as prost::Name>::type_url(),
        vec![("10.96.0.7_9080".into(), bytes::Bytes::from_static(b"\xff\xff\xff"))],
        &[],
    );
    assert!(garbage[0].reason.starts_with("resource: does not decode"));
    assert_eq!(ask(proxy.capture(vip).await, "x").await.unwrap(), "good:x");
}

#[tokio::test]
async fn endpoints_that_come_late_are_waited_for_and_removed_ones_are_unknown_again() {
    let proxy = Running::new(MeshCa::new().workload("east", "default/productpage"));
    let server = Server::start(Does::Echo("late:")).await;
    let vip = VIP.parse().unwrap();
    proxy.take(
        vec![plain_cluster(HOST)],
        vec![],
        vec![virtual_outbound("BlackHoleCluster"), service_listener(vip, HOST)],
    );
    let stream = proxy.capture(vip).await;
    let (answer, ()) = tokio::join!(ask(stream, "x"), async {
        proxy.counted("isthmus_connections_open", &[], 1).await;
        proxy.take(vec![], vec![assignment(HOST, vec![vec![endpoint(server.address, false)]])], vec![]);
    });
    assert_eq!(answer.unwrap(), "late:x");
    // Truly none is refused at once, without the wait.
    proxy.take(vec![], vec![assignment(HOST, vec![])], vec![]);
    assert!(ask(proxy.capture(vip).await, "x").await.is_err());
    proxy.remove::<ClusterLoadAssignment>(HOST);
    proxy.remove::<Cluster>(HOST);
    assert!(ask(proxy.capture(vip).await, "x").await.is_err());
    proxy.counted("istio_tcp_connections_closed_total", &["response_flags=\"NC\""], 1).await;
}

struct Names(std::net::SocketAddr);

impl isthmus_proxy::Resolve for Names {
    fn resolve(
        &self,
        host: Arc<str>,
        _port: u16,
    ) -> BoxFuture<'static, std::io::Result<Vec<std::net::SocketAddr>>> {
        let answer = if &*host == "db.example.com" {
            Ok(vec![self.0])
        } else {
            Err(std::io::ErrorKind::NotFound.into())
        };
        Box::pin(async move { answer })
    }
}

#[tokio::test]
async fn a_cluster_that_names_hosts_resolves_them() {
    let server = Server::start(Does::Echo("db:")).await;
    let mut setup = Setup::new(MeshCa::new().workload("east", "default/productpage"));
    setup.resolver = Arc::new(Names(server.address));
    let proxy = setup.start();
    let mut cluster = plain_cluster(HOST);
    use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
    cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::StrictDns.into()));
    let mut load = assignment(HOST, vec![vec![endpoint(server.address, false)]]);
    use envoy_types::pb::envoy::config::core::v3::address::Address;
    use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
    if let Some(HostIdentifier::Endpoint(endpoint)) = &mut load.endpoints[0].lb_endpoints[0].host_identifier
        && let Some(Address::SocketAddress(socket)) = &mut endpoint.address.as_mut().unwrap().address
    {
        socket.address = "db.example.com".into();
    }
    cluster.load_assignment = Some(load);
    let vip = VIP.parse().unwrap();
    proxy.take(
        vec![cluster],
        vec![],
        vec![virtual_outbound("BlackHoleCluster"), service_listener(vip, HOST)],
    );
    assert_eq!(ask(proxy.capture(vip).await, "x").await.unwrap(), "db:x");
}

#[tokio::test]
async fn a_drain_refuses_new_connections_lets_open_ones_finish_and_ends() {
    let proxy = Running::new(MeshCa::new().workload("east", "default/productpage"));
    let server = Server::start(Does::Echo("slow:")).await;
    let clusters = vec![original_cluster("PassthroughCluster", None)];
    proxy.take(clusters, vec![], vec![virtual_outbound("PassthroughCluster")]);
    let mut open = proxy.capture(server.address).await;
    open.write_all(b"a").await.unwrap();
    let mut begun = [0; 6];
    open.read_exact(&mut begun).await.unwrap();
    let address = proxy.address("virtualOutbound");
    proxy.drain.refuse();
    let refused = async {
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), refused).await.unwrap();
    assert_eq!(ask(open, "b").await.unwrap(), "b");
    tokio::time::timeout(Duration::from_secs(5), proxy.stopped()).await.unwrap();
}
