//! The rules in a real kernel: every test runs in network namespaces of its own, made by itself.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use isthmus_capture::{Capture, Config, Dns, Strict, original_destination};
use isthmus_lifecycle::Drain;
use isthmus_testkit::namespace::{Host as Peer, inside, sh};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::sync::watch;

const HOST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// Routed, and nobody has it: a service's address.
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 7);
const PATIENCE: Duration = Duration::from_secs(5);

fn peer() -> Peer {
    Peer::new(HOST, PEER)
}

fn connect(ip: Ipv4Addr, port: u16) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::from((ip, port)), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// As the agent connects: marked, from this source.
fn connect_marked(from: Ipv4Addr, to: Ipv4Addr, port: u16) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    isthmus_capture::mark(&socket, isthmus_capture::MARK)?;
    socket.bind(&SockAddr::from(SocketAddr::from((from, 0))))?;
    socket.connect_timeout(&SockAddr::from(SocketAddr::from((to, port))), PATIENCE)?;
    Ok(socket.into())
}

fn listen(port: u16) -> TcpListener {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap()
}

/// Accepts one connection; where it was going.
fn arrived(listener: &TcpListener) -> SocketAddr {
    let (stream, _) = listener.accept().unwrap();
    original_destination(&stream).unwrap()
}

fn at(ip: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(ip), port)
}

fn config() -> Config {
    Config { dns: Dns::Servers(vec![PEER.into()]), lease: Duration::from_secs(60), ..Config::default() }
}

/// A configuration that does not change any more.
fn settled() -> watch::Receiver<Config> {
    watch::channel(config()).1
}

fn install(config: Config, strict: &[u16]) -> Capture {
    runtime().block_on(Capture::install(config, Strict::ports(strict.iter().copied()))).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn outbound_connections_go_to_the_agent_and_its_own_do_not() {
    inside("outbound_connections_go_to_the_agent_and_its_own_do_not", || {
        let peer = peer();
        let there = peer.there(|| listen(8080));
        let agent = listen(15001);
        let local = listen(8080);
        let _capture = install(config(), &[]);

        let _call = connect(SERVICE, 9080).unwrap();
        assert_eq!(arrived(&agent), at(SERVICE, 9080));
        let _call = connect(PEER, 8080).unwrap();
        assert_eq!(arrived(&agent), at(PEER, 8080));

        let _own = connect_marked(HOST, PEER, 8080).unwrap();
        assert_eq!(arrived(&there), at(PEER, 8080));
        let _loopback = connect(Ipv4Addr::LOCALHOST, 8080).unwrap();
        assert_eq!(arrived(&local), at(Ipv4Addr::LOCALHOST, 8080));
        let _own_address = connect(HOST, 8080).unwrap();
        assert_eq!(arrived(&local), at(HOST, 8080));
    });
}

#[test]
fn networks_and_ports_named_as_direct_stay_direct() {
    inside("networks_and_ports_named_as_direct_stay_direct", || {
        let peer = peer();
        let there = peer.there(|| [listen(8080), listen(9000)]);
        let agent = listen(15001);
        let by_port = Config { direct_outbound: BTreeSet::from([9000]), ..config() };
        let _capture = install(by_port, &[]);
        let _call = connect(PEER, 9000).unwrap();
        assert_eq!(arrived(&there[1]), at(PEER, 9000));
        let _call = connect(PEER, 8080).unwrap();
        assert_eq!(arrived(&agent), at(PEER, 8080));
        let by_network = Config { direct_networks: vec!["10.77.0.0/24".parse().unwrap()], ..config() };
        let _capture = install(by_network, &[]);
        let _call = connect(PEER, 8080).unwrap();
        assert_eq!(arrived(&there[0]), at(PEER, 8080));
    });
}

#[test]
fn connections_that_were_there_before_go_on() {
    inside("connections_that_were_there_before_go_on", || {
        let peer = peer();
        let (there, app) = (peer.there(|| listen(8080)), listen(80));
        // The agent's own stream to its control plane, an application's call, and a call to the application.
        let pairs = [
            (connect_marked(HOST, PEER, 8080).unwrap(), there.accept().unwrap().0),
            (connect(PEER, 8080).unwrap(), there.accept().unwrap().0),
            (peer.there(|| connect(HOST, 80)).unwrap(), app.accept().unwrap().0),
        ];
        let strict = Strict { others: true, ..Strict::default() };
        let _capture = runtime().block_on(Capture::install(config(), strict)).unwrap();
        for (mut caller, mut called) in pairs {
            caller.set_read_timeout(Some(PATIENCE)).unwrap();
            called.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut buffer = [0; 4];
            called.write_all(b"ping").unwrap();
            caller.read_exact(&mut buffer).unwrap();
            caller.write_all(b"pong").unwrap();
            called.read_exact(&mut buffer).unwrap();
            assert_eq!(&buffer, b"pong");
        }
    });
}

#[test]
fn inbound_connections_go_to_the_agent_except_ssh() {
    inside("inbound_connections_go_to_the_agent_except_ssh", || {
        let peer = peer();
        let (agent, ssh, app) = (listen(15006), listen(22), listen(3306));
        let _capture = install(config(), &[3306]);

        let _call = peer.there(|| connect(HOST, 3306)).unwrap();
        assert_eq!(arrived(&agent), at(HOST, 3306));
        let _call = peer.there(|| connect(HOST, 22)).unwrap();
        assert_eq!(arrived(&ssh), at(HOST, 22));
        // The proxy to its application, and a service's call to itself.
        let _app = connect_marked(Ipv4Addr::new(127, 0, 0, 6), HOST, 3306).unwrap();
        assert_eq!(arrived(&app), at(HOST, 3306));
        let _self_call = connect_marked(HOST, HOST, 3306).unwrap();
        assert_eq!(arrived(&agent), at(HOST, 3306));
        // Nobody reaches the agent's capture port by its own number.
        let refused = peer.there(|| connect(HOST, 15006)).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn without_a_lease_strict_ports_are_refused_and_everything_else_is_direct() {
    inside("without_a_lease_strict_ports_are_refused_and_everything_else_is_direct", || {
        let peer = peer();
        let there = peer.there(|| listen(8080));
        let (agent_in, agent_out) = (listen(15006), listen(15001));
        let (mysql, web) = (listen(3306), listen(80));
        let _capture = install(config(), &[3306]);
        let _call = peer.there(|| connect(HOST, 3306)).unwrap();
        assert_eq!(arrived(&agent_in), at(HOST, 3306));
        let _call = connect(PEER, 8080).unwrap();
        assert_eq!(arrived(&agent_out), at(PEER, 8080));

        runtime().block_on(isthmus_capture::lease::release()).unwrap();
        let refused = peer.there(|| connect(HOST, 3306)).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        for agent_port in [15001, 15006] {
            let refused = peer.there(|| connect(HOST, agent_port)).unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        }
        let _call = peer.there(|| connect(HOST, 80)).unwrap();
        assert_eq!(arrived(&web), at(HOST, 80));
        let _call = connect(PEER, 8080).unwrap();
        assert_eq!(arrived(&there), at(PEER, 8080));
        let _local = connect(HOST, 3306).unwrap();
        assert_eq!(arrived(&mysql), at(HOST, 3306));

        runtime().block_on(isthmus_capture::lease::remove()).unwrap();
        let _call = peer.there(|| connect(HOST, 3306)).unwrap();
        assert_eq!(arrived(&mysql), at(HOST, 3306));
    });
}

#[test]
fn a_mesh_under_strict_refuses_every_port_but_the_open_ones() {
    inside("a_mesh_under_strict_refuses_every_port_but_the_open_ones", || {
        let peer = peer();
        let (agent, ssh, open, _hidden) = (listen(15006), listen(22), listen(8080), listen(9000));
        let strict = Strict { others: true, open: BTreeSet::from([8080]), ..Strict::default() };
        let _capture = runtime().block_on(Capture::install(config(), strict)).unwrap();
        let _call = peer.there(|| connect(HOST, 9000)).unwrap();
        assert_eq!(arrived(&agent), at(HOST, 9000));

        runtime().block_on(isthmus_capture::lease::release()).unwrap();
        let refused = peer.there(|| connect(HOST, 9000)).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        let _call = peer.there(|| connect(HOST, 8080)).unwrap();
        assert_eq!(arrived(&open), at(HOST, 8080));
        let _call = peer.there(|| connect(HOST, 22)).unwrap();
        assert_eq!(arrived(&ssh), at(HOST, 22));
        // Answers to the host's own calls come in too.
        let there = peer.there(|| listen(8081));
        let mut call = connect(PEER, 8081).unwrap();
        let (mut accepted, _) = there.accept().unwrap();
        accepted.write_all(b"hello").unwrap();
        let mut buffer = [0; 5];
        call.read_exact(&mut buffer).unwrap();
    });
}

#[test]
fn a_lease_that_nobody_renews_expires_and_one_that_is_held_does_not() {
    inside("a_lease_that_nobody_renews_expires_and_one_that_is_held_does_not", || {
        let peer = peer();
        let there = peer.there(|| listen(8080));
        let agent = listen(15001);
        agent.set_nonblocking(true).unwrap();
        let short =
            Config { lease: Duration::from_millis(1500), renew: Duration::from_millis(200), ..config() };
        let runtime = runtime();
        let capture = runtime.block_on(Capture::install(short, Strict::default())).unwrap();
        let (_strict, follow) = watch::channel(Strict::default());
        // Held for longer than the lease lasts.
        let held = runtime.block_on(async {
            let hold = capture.hold(settled(), follow, Drain::new().signal());
            tokio::time::timeout(Duration::from_secs(3), hold).await
        });
        assert!(held.is_err());
        let _call = connect(PEER, 8080).unwrap();
        assert_eq!(arrived(&agent), at(PEER, 8080));
        // Nobody renews now, as after SIGKILL: within the lease new connections are direct again.
        let started = Instant::now();
        loop {
            let _call = connect(PEER, 8080).unwrap();
            if agent.accept().is_err() {
                break;
            }
            assert!(started.elapsed() < Duration::from_secs(3), "the lease does not expire");
            std::thread::yield_now();
        }
        assert_eq!(arrived(&there), at(PEER, 8080));
    });
}

#[test]
fn rules_that_were_flushed_come_back_and_a_clean_stop_removes_them() {
    inside("rules_that_were_flushed_come_back_and_a_clean_stop_removes_them", || {
        sh("ip link set lo up");
        let quick = Config { renew: Duration::from_millis(20), ..config() };
        runtime().block_on(async {
            let drain = Drain::new();
            let capture = Capture::install(quick, Strict::default()).await.unwrap();
            let (strict, follow) = watch::channel(Strict::default());
            let hold = capture.hold(settled(), follow, drain.signal());
            let meddle = async {
                sh("nft flush ruleset");
                strict.send_replace(Strict::ports([3306]));
                let deadline = Instant::now() + PATIENCE;
                while !list().contains("elements = { 3306 }") {
                    assert!(Instant::now() < deadline, "{}", list());
                    tokio::task::yield_now().await;
                }
                drain.refuse();
            };
            let (ended, ()) = tokio::join!(hold, meddle);
            ended.unwrap();
        });
        assert_eq!(list(), "");
    });
}

fn list() -> String {
    String::from_utf8(Command::new("nft").args(["list", "ruleset"]).output().unwrap().stdout).unwrap()
}

#[test]
fn a_resolver_that_comes_later_is_captured_too() {
    inside("a_resolver_that_comes_later_is_captured_too", || {
        sh("ip link set lo up");
        runtime().block_on(async {
            let drain = Drain::new();
            let none = Config { dns: Dns::Off, ..config() };
            let capture = Capture::install(none.clone(), Strict::ports([3306])).await.unwrap();
            assert!(!list().contains("15053"));
            let (change, configured) = watch::channel(none);
            let (_strict, follow) = watch::channel(Strict::default());
            let hold = capture.hold(configured, follow, drain.signal());
            let story = async {
                change.send_replace(config());
                let deadline = Instant::now() + PATIENCE;
                while !list().contains("15053") {
                    assert!(Instant::now() < deadline, "{}", list());
                    tokio::task::yield_now().await;
                }
                assert!(list().contains("elements = { 3306 }"), "{}", list());
                drain.refuse();
            };
            let (ended, ()) = tokio::join!(hold, story);
            ended.unwrap();
        });
    });
}

#[test]
fn dns_queries_go_to_the_agent_whose_own_go_to_the_server_from_any_port() {
    inside("dns_queries_go_to_the_agent_whose_own_go_to_the_server_from_any_port", || {
        let peer = peer();
        let server = peer.there(|| UdpSocket::bind((PEER, 53)).unwrap());
        let agent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 15053)).unwrap();
        for socket in [&server, &agent] {
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        let _capture = install(config(), &[]);

        let app = UdpSocket::bind((HOST, 40000)).unwrap();
        app.set_read_timeout(Some(PATIENCE)).unwrap();
        app.send_to(b"query", (PEER, 53)).unwrap();
        let mut buffer = [0; 16];
        let (length, from) = agent.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"query");
        agent.send_to(b"answer", from).unwrap();
        // The answer seems to come from the server that was asked.
        assert_eq!(app.recv_from(&mut buffer).unwrap(), (6, at(PEER, 53)));
        drop(app);

        // The agent asks upstream from the very port that the application just used.
        let own = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
        isthmus_capture::mark(&own, isthmus_capture::MARK).unwrap();
        own.bind(&SockAddr::from(at(HOST, 40000))).unwrap();
        let own = UdpSocket::from(own);
        own.set_read_timeout(Some(PATIENCE)).unwrap();
        own.send_to(b"upstream", (PEER, 53)).unwrap();
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"upstream");
        server.send_to(b"reply", from).unwrap();
        assert_eq!(own.recv_from(&mut buffer).unwrap(), (5, at(PEER, 53)));

        let tcp = listen(15053);
        let mut query = connect(PEER, 53).unwrap();
        query.write_all(b"x").unwrap();
        assert_eq!(arrived(&tcp), at(PEER, 53));
        // A server that resolv.conf does not name is not the agent's.
        let other = UdpSocket::bind((HOST, 0)).unwrap();
        other.send_to(b"other", (SERVICE, 53)).unwrap();
        agent.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        assert!(agent.recv_from(&mut buffer).is_err());
    });
}

#[test]
fn ipv6_is_captured_like_ipv4() {
    inside("ipv6_is_captured_like_ipv4", || {
        let _peer = peer();
        sh("ip -6 addr add fd00::1/64 dev eth0 nodad");
        let agent = TcpListener::bind("[::]:15001").unwrap();
        let _capture = install(config(), &[]);
        let target: SocketAddr = "[fd00::9]:9080".parse().unwrap();
        let _call = TcpStream::connect_timeout(&target, PATIENCE).unwrap();
        assert_eq!(arrived(&agent), target);
    });
}
