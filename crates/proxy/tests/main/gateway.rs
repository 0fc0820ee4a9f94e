//! Through a gateway: server names, unknown ones, limits.

use std::time::Duration;

use envoy_types::pb::envoy::config::listener::v3::Listener;
use isthmus_proxy::Limits;
use isthmus_testkit::MeshCa;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::resources::*;
use crate::support::*;

const SNI: &str = "outbound_.9080_._.reviews.default.svc.cluster.local";
const CLUSTER: &str = "outbound|9080||reviews.default.svc.cluster.local";
const VIP: &str = "10.96.0.7:9080";
const REVIEWS: &str = "spiffe://cluster.local/ns/default/sa/reviews";

/// Client, gateway and workload, each with its own proxy.
struct Border {
    client: Running,
    gateway: Running,
    workload: Running,
    _server: Server,
}

async fn border(limits: Limits) -> Border {
    let ca = MeshCa::new();
    let server = Server::start(Does::Echo("west:")).await;
    let port = server.address.port();
    let workload = Running::new(ca.workload("west", "default/reviews"));
    workload.tell(server.address);
    workload.take(
        vec![original_cluster(&format!("inbound|{port}||"), Some("127.0.0.6"))],
        vec![],
        vec![virtual_inbound(
            port,
            Mode::Strict,
            vec![only("p", "spiffe://cluster.local/ns/default/sa/productpage")],
        )],
    );
    let mut setup = Setup::new(ca.workload("west", "istio-system/istio-eastwestgateway"));
    setup.limits = limits;
    let gateway = setup.start();
    gateway.take(
        vec![plain_cluster(SNI)],
        vec![assignment(SNI, vec![vec![endpoint(workload.address("virtualInbound"), true)]])],
        vec![gateway_listener("0.0.0.0_15443", &[(SNI, SNI)])],
    );
    let client = Running::new(ca.workload("east", "default/productpage"));
    client.take(
        vec![mesh_cluster(CLUSTER, &[REVIEWS])],
        vec![assignment(CLUSTER, vec![vec![endpoint(gateway.address("0.0.0.0_15443"), true)]])],
        vec![virtual_outbound("BlackHoleCluster"), service_listener(VIP.parse().unwrap(), CLUSTER)],
    );
    Border { client, gateway, workload, _server: server }
}

#[tokio::test]
async fn mutual_tls_crosses_a_gateway_end_to_end() {
    let border = border(Limits::default()).await;
    let answer = ask(border.client.capture(VIP.parse().unwrap()).await, "stars").await.unwrap();
    assert_eq!(answer, "west:stars");
    // The workload saw the client's identity, not the gateway's.
    let seen = ["source_principal=\"spiffe://cluster.local/ns/default/sa/productpage\""];
    border.workload.counted("istio_tcp_connections_closed_total", &seen, 1).await;
    let passed =
        ["destination_service=\"reviews.default.svc.cluster.local\"", "destination_workload=\"reviews-v2\""];
    border.gateway.counted("istio_tcp_connections_closed_total", &passed, 1).await;
}

#[tokio::test]
async fn a_gateway_tells_what_it_relays_and_from_which_network() {
    let border = border(Limits::default()).await;
    let range = ("127.0.0.0/8".parse().unwrap(), "east".parse().unwrap());
    border.gateway.proxy.name_networks(isthmus_proxy::Networks::new(vec![range]));
    let mut stream = border.client.capture(VIP.parse().unwrap()).await;
    stream.write_all(b"stars").await.unwrap();
    let mut answer = [0; 5];
    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut answer).await.unwrap();

    let page = border.gateway.proxy.flows_json();
    assert_eq!(page["open"], 1, "{page}");
    let flow = &page["flows"][0];
    assert_eq!((flow["sourceNetwork"].as_str(), flow["serverName"].as_str()), (Some("east"), Some(SNI)));
    assert_eq!(flow["service"], "reviews.default.svc.cluster.local", "{flow}");
    let moved = |way: &str| flow[way].as_u64().unwrap();
    assert!(moved("received") > 200 && moved("sent") > 200, "a handshake and some bytes: {flow}");

    drop(stream);
    let network = ["source_network=\"east\""];
    border.gateway.counted("istio_tcp_connections_closed_total", &network, 1).await;
    assert_eq!(border.gateway.proxy.flows_json()["open"], 0);
    assert_eq!(border.workload.count("istio_tcp_connections_opened_total", &["source_network"]), 0);
}

#[tokio::test]
async fn everyone_in_a_burst_is_served() {
    let border = border(Limits::default()).await;
    border.client.tell(VIP.parse().unwrap());
    let at = border.client.address("virtualOutbound");
    // This thread runs the proxy too: all of them wait to be accepted.
    let waiting: Vec<_> = (0..100).map(|_| std::net::TcpStream::connect(at).unwrap()).collect();
    for stream in waiting {
        stream.set_nonblocking(true).unwrap();
        let answer = ask(TcpStream::from_std(stream).unwrap(), "stars").await.unwrap();
        assert_eq!(answer, "west:stars");
    }
}

#[tokio::test]
async fn much_data_crosses_a_gateway_unharmed() {
    let border = border(Limits::default()).await;
    // More than pipes and socket buffers hold, in both directions at once.
    let request: String = (0..3_000_000u32).map(|n| char::from(b'a' + (n % 23) as u8)).collect();
    let stream = border.client.capture(VIP.parse().unwrap()).await;
    let (mut read, mut write) = stream.into_split();
    let send = async {
        write.write_all(request.as_bytes()).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let receive = async {
        let mut answer = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut read, &mut answer).await.unwrap();
        answer
    };
    let ((), answer) = tokio::join!(send, receive);
    assert!(answer == format!("west:{request}"), "{} bytes came back", answer.len());
}

#[tokio::test]
async fn unknown_names_and_other_protocols_are_refused_at_once() {
    let border = border(Limits::default()).await;
    border.client.take(
        vec![mesh_cluster("outbound|1||nobody.default.svc.cluster.local", &[])],
        vec![],
        vec![],
    );
    border.client.take(
        vec![],
        vec![assignment(
            "outbound|1||nobody.default.svc.cluster.local",
            vec![vec![endpoint(border.gateway.address("0.0.0.0_15443"), true)]],
        )],
        vec![service_listener(
            "10.96.0.8:1".parse().unwrap(),
            "outbound|1||nobody.default.svc.cluster.local",
        )],
    );
    assert!(ask(border.client.capture("10.96.0.8:1".parse().unwrap()).await, "x").await.is_err());
    border.gateway.counted("isthmus_connections_refused_total", &["cause=\"unknown_server_name\""], 1).await;
    let plain = TcpStream::connect(border.gateway.address("0.0.0.0_15443")).await.unwrap();
    assert!(!ask(plain, "GET / HTTP/1.1\r\n\r\n").await.is_ok_and(|answer| !answer.is_empty()));
    border.gateway.counted("isthmus_tls_refused_total", &["cause=\"plaintext\""], 1).await;
}

#[tokio::test]
async fn a_client_that_drips_its_hello_is_cut_off() {
    let limits = Limits { handshake: Duration::from_millis(150), ..Limits::default() };
    let border = border(limits).await;
    let mut slow = TcpStream::connect(border.gateway.address("0.0.0.0_15443")).await.unwrap();
    slow.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
    let mut silent = TcpStream::connect(border.gateway.address("0.0.0.0_15443")).await.unwrap();
    border.gateway.counted("isthmus_tls_refused_total", &["cause=\"hello_timeout\""], 2).await;
    for stream in [&mut slow, &mut silent] {
        let mut byte = [0];
        assert!(!matches!(tokio::io::AsyncReadExt::read(stream, &mut byte).await, Ok(1..)));
    }
}

#[tokio::test]
async fn one_source_may_not_take_all_connections() {
    let limits = Limits { connections_per_source: 2, ..Limits::default() };
    let border = border(limits).await;
    let address = border.gateway.address("0.0.0.0_15443");
    let _held = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
    border.gateway.counted("isthmus_connections_open", &[], 2).await;
    let third = TcpStream::connect(address).await.unwrap();
    assert!(ask(third, "x").await.is_err());
    border
        .gateway
        .counted("isthmus_connections_refused_total", &["cause=\"too_many_from_one_source\""], 1)
        .await;
}

#[tokio::test]
async fn a_listener_that_is_removed_stops_listening_and_may_come_back_elsewhere() {
    let border = border(Limits::default()).await;
    let before = border.gateway.address("0.0.0.0_15443");
    border.gateway.remove::<Listener>("0.0.0.0_15443");
    let closed = async {
        while TcpStream::connect(before).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), closed).await.unwrap();
    border.gateway.take(vec![], vec![], vec![gateway_listener("0.0.0.0_15443", &[(SNI, SNI)])]);
    let after = border.gateway.address("0.0.0.0_15443");
    border.client.take(vec![], vec![assignment(CLUSTER, vec![vec![endpoint(after, true)]])], vec![]);
    let answer = ask(border.client.capture(VIP.parse().unwrap()).await, "stars").await.unwrap();
    assert_eq!(answer, "west:stars");
}

#[tokio::test]
async fn a_gateway_says_the_hello_again_when_an_endpoint_does_not_answer() {
    let border = border(Limits::default()).await;
    let (stopped, broken) = (Server::start(Does::Hang).await, Server::start(Does::Reset).await);
    let well = border.workload.address("virtualInbound");
    let mut cluster = plain_cluster(SNI);
    cluster.connect_timeout = time(Duration::from_millis(300));
    // The two that fail come first; the gateway must get past both within one client's handshake.
    let priorities = [stopped.address, broken.address, well].map(|at| vec![endpoint(at, true)]);
    border.gateway.take(
        vec![with_outlier(cluster, 1, Duration::from_secs(30))],
        vec![assignment(SNI, priorities.into())],
        vec![],
    );
    for _ in 0..3 {
        let answer = ask(border.client.capture(VIP.parse().unwrap()).await, "stars").await.unwrap();
        assert_eq!(answer, "west:stars");
    }
    let failed = |cause| border.gateway.count("isthmus_upstream_failures_total", &[cause]);
    assert_eq!(failed("cause=\"hello_answer_timeout\""), 1, "once, then it is ejected");
    assert_eq!(failed("cause=\"hello_unanswered\""), 1);
    assert_eq!(border.client.count("isthmus_upstream_failures_total", &[]), 0, "the client noticed nothing");
}
