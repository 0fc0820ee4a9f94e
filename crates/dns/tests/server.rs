//! The server over real sockets on loopback, with an upstream resolver that the test plays.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use isthmus_dns::{Config, Handle, Host, Metrics, Origin, Perspective, Server};
use isthmus_lifecycle::{Drain, TaskGroup};
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

const PATIENCE: Duration = Duration::from_secs(10);

struct World {
    server: SocketAddr,
    handle: Handle,
    registry: Registry,
    group: TaskGroup,
}

async fn world(upstreams: Vec<SocketAddr>) -> World {
    let perspective =
        Perspective { namespace: "ns1".into(), domain: "ns1.svc.cluster.local".into(), search: None };
    let mut config = Config::new(vec!["127.0.0.1:0".parse().unwrap()], upstreams, perspective);
    config.timeout = Duration::from_millis(500);
    config.forwards = 2;
    let mut registry = Registry::default();
    let server = Server::bind(config, Metrics::register(&mut registry)).await.unwrap();
    let (address, handle) = (server.addresses()[0], server.handle());
    let group = TaskGroup::new("dns", Drain::new());
    server.run(&group);
    handle.replace(&[Host {
        host: "mysql.vm.example".into(),
        addresses: vec!["240.240.0.1".parse().unwrap()],
        origin: Origin::External,
        aliases: vec![],
    }]);
    World { server: address, handle, registry, group }
}

fn query(name: &str, udp_size: Option<u16>) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_str(name).unwrap(), RecordType::A));
    if let Some(size) = udp_size {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        message.set_edns(edns);
    }
    message
}

async fn over_udp(server: SocketAddr, query: &Message) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&query.to_vec().unwrap(), server).await.unwrap();
    let mut buffer = vec![0; 65_535];
    let (length, _) = tokio::time::timeout(PATIENCE, socket.recv_from(&mut buffer)).await.unwrap().unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

async fn over_tcp(server: SocketAddr, query: &Message) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let bytes = query.to_vec().unwrap();
    stream.write_u16(bytes.len().try_into().unwrap()).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let length = tokio::time::timeout(PATIENCE, stream.read_u16()).await.unwrap().unwrap();
    let mut reply = vec![0; usize::from(length)];
    stream.read_exact(&mut reply).await.unwrap();
    Message::from_vec(&reply).unwrap()
}

/// An upstream that gives `records` addresses for every name, whatever the client can take; none means NXDOMAIN.
fn upstream_reply(query: &[u8], records: u8) -> Vec<u8> {
    let query = Message::from_vec(query).unwrap();
    let mut reply = Message::response(query.metadata.id, OpCode::Query);
    reply.add_queries(query.queries.clone());
    if records == 0 {
        reply.metadata.response_code = ResponseCode::NXDomain;
    }
    for n in 0..records {
        let data = RData::A(A(Ipv4Addr::new(192, 0, 2, n)));
        reply.add_answer(Record::from_rdata(query.queries[0].name().clone(), 60, data));
    }
    reply.to_vec().unwrap()
}

/// Answers on one port over both transports, until the group ends.
async fn upstream(group: &TaskGroup, records: u8) -> SocketAddr {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let udp = UdpSocket::bind(address).await.unwrap();
    let stop = group.signal();
    group.spawn_infallible("upstream", async move {
        let mut buffer = vec![0; 4096];
        loop {
            tokio::select! {
                () = stop.stopping() => break,
                received = udp.recv_from(&mut buffer) => {
                    let (length, from) = received.unwrap();
                    // A forged answer first: another ID. It must not be taken.
                    let mut forged = upstream_reply(&buffer[..length], 1);
                    forged[0] ^= 0xff;
                    udp.send_to(&forged, from).await.unwrap();
                    udp.send_to(&upstream_reply(&buffer[..length], records), from).await.unwrap();
                }
                accepted = tcp.accept() => {
                    let (mut stream, _) = accepted.unwrap();
                    let length = stream.read_u16().await.unwrap();
                    let mut query = vec![0; usize::from(length)];
                    stream.read_exact(&mut query).await.unwrap();
                    let reply = upstream_reply(&query, records);
                    stream.write_u16(reply.len().try_into().unwrap()).await.unwrap();
                    stream.write_all(&reply).await.unwrap();
                }
            }
        }
    });
    address
}

fn metrics(world: &World) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &world.registry).unwrap();
    text
}

#[tokio::test]
async fn names_of_the_mesh_are_answered_over_both_transports() {
    let world = world(vec![]).await;
    for reply in [
        over_udp(world.server, &query("mysql.vm.example.", None)).await,
        over_tcp(world.server, &query("mysql.vm.example.", None)).await,
    ] {
        assert_eq!(reply.metadata.id, 4711);
        assert_eq!(reply.answers[0].data.ip_addr(), Some("240.240.0.1".parse().unwrap()));
        assert_eq!(reply.answers[0].ttl, 30);
    }
    assert!(metrics(&world).contains("dns_requests_total 2"));
    world.group.drain().immediate();
    world.group.finished().await;
}

#[tokio::test]
async fn other_names_are_forwarded_and_forged_replies_ignored() {
    let helpers = TaskGroup::new("helpers", Drain::new());
    let world = world(vec![upstream(&helpers, 3).await]).await;
    for reply in [
        over_udp(world.server, &query("www.example.", None)).await,
        over_tcp(world.server, &query("www.example.", None)).await,
    ] {
        assert_eq!((reply.metadata.id, reply.answers.len()), (4711, 3));
    }
    assert!(metrics(&world).contains("dns_upstream_requests_total 2"));
    helpers.drain().immediate();
}

#[tokio::test]
async fn a_denial_by_the_upstream_reaches_the_client() {
    let helpers = TaskGroup::new("helpers", Drain::new());
    let world = world(vec![upstream(&helpers, 0).await]).await;
    let reply = over_udp(world.server, &query("nobody.example.", None)).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    helpers.drain().immediate();
}

#[tokio::test]
async fn a_long_upstream_reply_is_cut_over_udp_and_whole_over_tcp_or_with_edns() {
    let helpers = TaskGroup::new("helpers", Drain::new());
    let world = world(vec![upstream(&helpers, 100).await]).await;
    let cut = over_udp(world.server, &query("big.example.", None)).await;
    assert!(cut.metadata.truncation && cut.to_vec().unwrap().len() <= 512);
    assert_eq!(over_udp(world.server, &query("big.example.", Some(4096))).await.answers.len(), 100);
    assert_eq!(over_tcp(world.server, &query("big.example.", None)).await.answers.len(), 100);
    helpers.drain().immediate();
}

#[tokio::test]
async fn a_dead_upstream_is_passed_over_and_none_alive_is_a_failure() {
    let helpers = TaskGroup::new("helpers", Drain::new());
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let world = world(vec![dead, upstream(&helpers, 1).await]).await;
    for _ in 0..8 {
        assert_eq!(over_udp(world.server, &query("www.example.", None)).await.answers.len(), 1);
    }
    world.handle.set_upstreams(vec![dead]);
    for reply in [
        over_udp(world.server, &query("www.example.", None)).await,
        over_tcp(world.server, &query("www.example.", None)).await,
    ] {
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    }
    assert!(metrics(&world).contains("dns_upstream_failures_total 2"));
    helpers.drain().immediate();
}

#[tokio::test]
async fn a_silent_upstream_cannot_take_more_than_the_bound_and_mesh_names_still_answer() {
    // Bound, never read.
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let world = world(vec![silent.local_addr().unwrap()]).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for _ in 0..2 {
        socket.send_to(&query("slow.example.", None).to_vec().unwrap(), world.server).await.unwrap();
    }
    // Both forwards are under way once the silent one has them.
    let mut buffer = [0; 512];
    for _ in 0..2 {
        tokio::time::timeout(PATIENCE, silent.recv_from(&mut buffer)).await.unwrap().unwrap();
    }
    let refused = over_udp(world.server, &query("slow.example.", None)).await;
    assert_eq!(refused.metadata.response_code, ResponseCode::ServFail);
    let local = over_udp(world.server, &query("mysql.vm.example.", None)).await;
    assert_eq!(local.answers.len(), 1);
    assert!(metrics(&world).contains("dns_refused_total 1"));
}

#[tokio::test]
async fn the_agent_itself_resolves_past_the_table() {
    let helpers = TaskGroup::new("helpers", Drain::new());
    let world = world(vec![upstream(&helpers, 100).await]).await;
    // More than a datagram holds is no matter here: the upstream sends it anyway.
    assert_eq!(world.handle.resolve("mysql.vm.example").await.unwrap().len(), 100);
    assert!(world.handle.resolve("not..a.name").await.is_err());
    world.handle.set_upstreams(vec![upstream(&helpers, 0).await]);
    let missing = world.handle.resolve("nobody.example").await.unwrap_err();
    assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
    helpers.drain().immediate();
}
