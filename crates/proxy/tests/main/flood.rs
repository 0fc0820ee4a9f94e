//! What hostile or broken clients can make a gateway spend: nothing that stays.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use isthmus_proxy::Limits;
use isthmus_testkit::MeshCa;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::resources::*;
use crate::support::*;

pub(crate) const SNI: &str = "outbound_.9080_._.reviews.default.svc.cluster.local";
const LISTENER: &str = "0.0.0.0_15443";

/// A gateway that leads one name to these endpoints.
pub(crate) fn gateway(limits: Limits, endpoints: &[SocketAddr]) -> Running {
    let mut setup = Setup::new(MeshCa::new().workload("west", "istio-system/istio-eastwestgateway"));
    setup.limits = limits;
    let gateway = setup.start();
    let endpoints = endpoints.iter().map(|at| endpoint(*at, false)).collect();
    gateway.take(
        vec![plain_cluster(SNI)],
        vec![assignment(SNI, vec![endpoints])],
        vec![gateway_listener(LISTENER, &[(SNI, SNI)])],
    );
    gateway
}

/// Waits until the peer has closed or reset.
async fn closed(stream: &mut TcpStream) {
    let mut byte = [0];
    let end = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut byte)).await;
    assert!(!matches!(end.expect("an end within 10 s"), Ok(1..)), "it was answered");
}

#[tokio::test]
async fn a_flood_of_unknown_names_leaves_nothing_behind() {
    let server = Server::start(Does::Echo("west:")).await;
    let gateway = gateway(Limits::default(), &[server.address]);
    let at = gateway.address(LISTENER);
    let unknown = async |n: usize| {
        let _ =
            say(at, &hello(&format!("outbound_.{}_._.nobody-{n}.default.svc.cluster.local", 1 + n % 60000)))
                .await;
    };
    unknown(0).await;
    gateway.counted("isthmus_connections_refused_total", &["cause=\"unknown_server_name\""], 1).await;
    let page = gateway.metrics();
    for n in 1..300 {
        unknown(n).await;
    }
    gateway.counted("isthmus_connections_refused_total", &["cause=\"unknown_server_name\""], 300).await;
    assert_eq!(gateway.metrics().lines().count(), page.lines().count(), "no name has a metric of its own");
    assert!(!gateway.metrics().contains("nobody"));
    assert_eq!(gateway.proxy.connections(), 0);
    assert_eq!(gateway.proxy.endpoints_json()[0]["connected"], 0, "nothing went upstream");
    assert!(say(at, &hello(SNI)).await.unwrap().starts_with(b"west:"), "those who are known are served");
}

#[tokio::test(start_paused = true)]
async fn a_hello_that_trickles_has_no_more_time_than_another() {
    let limits = Limits { handshake: Duration::from_millis(200), ..Limits::default() };
    let gateway = gateway(limits, &[]);
    let mut stream = TcpStream::connect(gateway.address(LISTENER)).await.unwrap();
    let started = tokio::time::Instant::now();
    let hello = hello(SNI);
    let (mut read, mut write) = stream.split();
    let trickle = async {
        for byte in hello.chunks(1) {
            if write.write_all(byte).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("it took all of the hello in {:?}", started.elapsed());
    };
    let end = async {
        let mut byte = [0];
        let _ = read.read(&mut byte).await;
    };
    tokio::select! {
        () = trickle => {}
        () = end => {}
    }
    assert!(started.elapsed() >= Duration::from_millis(190), "{:?}", started.elapsed());
    gateway.counted("isthmus_tls_refused_total", &["cause=\"hello_timeout\""], 1).await;
    assert_eq!(gateway.proxy.connections(), 0);
}

#[tokio::test]
async fn a_client_that_ends_within_its_hello_is_gone_at_once() {
    let gateway = gateway(Limits { handshake: Duration::from_secs(600), ..Limits::default() }, &[]);
    let mut stream = TcpStream::connect(gateway.address(LISTENER)).await.unwrap();
    stream.write_all(&hello(SNI)[..100]).await.unwrap();
    stream.shutdown().await.unwrap();
    closed(&mut stream).await;
    gateway.counted("isthmus_tls_refused_total", &["cause=\"io\""], 1).await;
}

#[tokio::test]
async fn unfinished_hellos_together_hold_bounded_memory() {
    let limits = Limits { hello_bytes: 64 * 1024, handshake: Duration::from_secs(600), ..Limits::default() };
    let server = Server::start(Does::Echo("west:")).await;
    let gateway = gateway(limits, &[server.address]);
    let at = gateway.address(LISTENER);
    // 40,000 bytes of a hello of 60,000, in records of 10,000.
    let mut part = Vec::new();
    for record in 0..4 {
        part.extend([22, 3, 1, 0x27, 0x10]);
        part.extend(if record == 0 { vec![1, 0, 0xea, 0x60] } else { vec![7; 4] });
        part.extend([7; 9996]);
    }
    let mut first = TcpStream::connect(at).await.unwrap();
    first.write_all(&part).await.unwrap();
    let mut second = TcpStream::connect(at).await.unwrap();
    second.write_all(&part).await.unwrap();
    gateway.counted("isthmus_tls_refused_total", &["cause=\"hello_crowded\""], 1).await;
    assert!(say(at, &hello(SNI)).await.unwrap().starts_with(b"west:"), "ordinary hellos are not counted");
    drop((first, second));
    gateway.counted("isthmus_tls_refused_total", &["cause=\"io\""], 1).await;
}

#[tokio::test]
async fn a_connection_ends_at_its_age_with_jitter() {
    let limits = Limits { age: Duration::from_millis(300), ..Limits::default() };
    let server = Server::start(Does::Echo("west:")).await;
    let gateway = gateway(limits, &[server.address]);
    let started = Instant::now();
    let mut stream = TcpStream::connect(gateway.address(LISTENER)).await.unwrap();
    stream.write_all(&hello(SNI)).await.unwrap();
    let mut answer = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    assert!(end.is_ok() && answer.starts_with(b"west:"));
    assert!(started.elapsed() >= Duration::from_millis(265), "{:?}", started.elapsed());
    gateway.counted("istio_tcp_connections_closed_total", &["response_flags=\"DT\""], 1).await;
}

#[tokio::test]
async fn keepalive_watches_both_sides_of_an_idle_connection() {
    let server = Server::start(Does::Echo("west:")).await;
    let gateway = gateway(Limits::default(), &[server.address]);
    let at = gateway.address(LISTENER);
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(&hello(SNI)).await.unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).await.unwrap();
    // The kernel's own table: addresses, state, queues, and the timer that runs (02 is keepalive) with its hundredths of seconds.
    let timer = |fits: &dyn Fn(&str, &str) -> bool| {
        let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
        let found = table.lines().skip(1).find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let port = |field: &str| field.rsplit(':').next().unwrap().to_string();
            (fields[3] == "01" && fits(&port(fields[1]), &port(fields[2]))).then(|| fields[5].to_string())
        });
        found.expect("a connection in the kernel's table")
    };
    let hex = |address: SocketAddr| format!("{:04X}", address.port());
    let (own, peer) = (hex(at), hex(stream.local_addr().unwrap()));
    let downstream = async {
        // Acknowledgements outstanding come first.
        while !timer(&|local, remote| local == own && remote == peer).starts_with("02:") {
            tokio::task::yield_now().await;
        }
        timer(&|local, remote| local == own && remote == peer)
    };
    let upstream = async {
        let to = hex(server.address);
        while !timer(&|_, remote| remote == to).starts_with("02:") {
            tokio::task::yield_now().await;
        }
        timer(&|_, remote| remote == to)
    };
    for timer in [
        tokio::time::timeout(Duration::from_secs(10), downstream).await,
        tokio::time::timeout(Duration::from_secs(10), upstream).await,
    ] {
        let timer = timer.expect("keepalive runs");
        let left = u32::from_str_radix(&timer[3..], 16).unwrap();
        assert!((1..=6000).contains(&left), "{left} hundredths of a second until the first probe");
    }
}
