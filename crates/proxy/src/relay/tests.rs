use std::net::SocketAddr;

use isthmus_lifecycle::{Drain, TaskGroup};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::*;

async fn pair() -> (TcpStream, Socket) {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = listener.local_addr().unwrap();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let (ours, accepted) = tokio::join!(Socket::connect(socket, address, &[]), listener.accept());
    (accepted.unwrap().0, ours.unwrap())
}

/// A relay in between; what it says at its end.
async fn joined(
    patience: Patience,
    drain: &Drain,
    prefix: &[u8],
) -> (TcpStream, TcpStream, oneshot::Receiver<Outcome>) {
    let _ = isthmus_socket::begin();
    let (client, downstream) = pair().await;
    let (server, upstream) = pair().await;
    let (tell, outcome) = oneshot::channel();
    let clock = Arc::new(Clock::new());
    let (ringing, stop) = (Arc::clone(&clock), drain.signal());
    TaskGroup::new("test", drain.clone()).spawn_infallible("clock", async move { ringing.run(stop).await });
    let downstream = Stream::plain(prefix.to_vec(), downstream);
    TaskGroup::new("test", drain.clone()).spawn_infallible("relay", async move {
        let mut relay = Relay::new(downstream, Stream::Plain(upstream), None, 0, Meter::default());
        let done = relay.run(patience, &clock, &Moved::default(), |_| {}).await;
        let _ = tell.send(done);
    });
    (client, server, outcome)
}

#[tokio::test]
async fn bytes_pass_both_ways_and_each_side_ends_by_itself() {
    let (mut client, mut server, outcome) = joined(Patience::default(), &Drain::new(), b"first ").await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut question = String::new();
    server.read_to_string(&mut question).await.unwrap();
    assert_eq!(question, "first question");
    server.write_all(b"answer after the client's end").await.unwrap();
    server.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "answer after the client's end");
    let outcome = outcome.await.unwrap();
    assert!(matches!(outcome.end, End::Finished));
    assert_eq!((outcome.received, outcome.sent), (14, 29));
}

#[tokio::test]
async fn bulk_and_small_messages_alternate_without_loss() {
    let (client, server, outcome) = joined(Patience::default(), &Drain::new(), b"").await;
    let (mut from_client, mut to_server) = client.into_split();
    let (mut from_server, mut to_client) = server.into_split();
    let bulk: Vec<u8> = (0..2_000_000u32).map(|n| (n % 251) as u8).collect();
    let send = async {
        for round in 0..3u8 {
            to_server.write_all(&bulk).await.unwrap();
            // A small message each time, answered before the next: bulk must switch off and on again.
            to_server.write_all(&[round]).await.unwrap();
            let mut ack = [0];
            from_client.read_exact(&mut ack).await.unwrap();
            assert_eq!(ack[0], round);
        }
        to_server.shutdown().await.unwrap();
    };
    let receive = async {
        let mut buffer = vec![0; bulk.len() + 1];
        for round in 0..3u8 {
            from_server.read_exact(&mut buffer).await.unwrap();
            assert!(buffer[..bulk.len()] == bulk[..] && buffer[bulk.len()] == round);
            to_client.write_all(&[round]).await.unwrap();
        }
        to_client.shutdown().await.unwrap();
    };
    tokio::join!(send, receive);
    let outcome = outcome.await.unwrap();
    assert!(matches!(outcome.end, End::Finished), "{:?}", outcome.end);
    assert_eq!((outcome.received, outcome.sent), (3 * 2_000_001, 3));
}

#[tokio::test]
async fn a_reset_on_one_side_is_a_reset_on_the_other() {
    let (client, mut server, outcome) = joined(Patience::default(), &Drain::new(), b"").await;
    reset(&client);
    drop(client);
    let error = server.read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(matches!(outcome.await.unwrap().end, End::Downstream(_)));

    let (mut client, server, outcome) = joined(Patience::default(), &Drain::new(), b"").await;
    reset(&server);
    drop(server);
    assert_eq!(client.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert!(matches!(outcome.await.unwrap().end, End::Upstream(_)));
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_ends_and_a_used_one_does_not() {
    let patience = Patience { idle: Some(Duration::from_secs(10)), until: None };
    let (mut client, mut server, outcome) = joined(patience, &Drain::new(), b"").await;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(9)).await;
        client.write_all(b"x").await.unwrap();
        server.read_exact(&mut [0]).await.unwrap();
    }
    let since = Instant::now();
    assert!(matches!(outcome.await.unwrap().end, End::Idle));
    assert!(since.elapsed() <= Duration::from_secs(20), "within two idle times");
}

#[tokio::test(start_paused = true)]
async fn a_connection_ends_at_its_longest_life_and_when_the_proxy_stops() {
    let until = Some(Instant::now() + Duration::from_secs(60));
    let (_client, _server, outcome) = joined(Patience { idle: None, until }, &Drain::new(), b"").await;
    assert!(matches!(outcome.await.unwrap().end, End::Expired));
    let drain = Drain::new();
    let (_client, _server, outcome) = joined(Patience::default(), &drain, b"").await;
    drain.immediate();
    assert!(matches!(outcome.await.unwrap().end, End::Cut));
}

#[tokio::test]
async fn an_idle_connection_is_small() {
    let (client, server) = (pair().await.1, pair().await.1);
    let begun = Stream::plain(b"x".to_vec(), server);
    let clock = Clock::new();
    let mut relay = Relay::new(Stream::Plain(client), begun, None, 0, Meter::default());
    let moved = Moved::default();
    let running = std::mem::size_of_val(&relay.run(Patience::default(), &clock, &moved, |_| {}));
    let size = std::mem::size_of_val(&relay) + running;
    // Beside its two sockets, which cost a hundred bytes on a ring and half a kilobyte in the runtime.
    assert!(size <= 384, "{size} bytes");
}

#[tokio::test(start_paused = true)]
async fn what_a_long_life_needs_is_done_once_and_for_no_short_one() {
    let drain = Drain::new();
    let clock = Arc::new(Clock::new());
    let (ringing, stop) = (Arc::clone(&clock), drain.signal());
    TaskGroup::new("test", drain.clone()).spawn_infallible("clock", async move { ringing.run(stop).await });
    let grown = std::cell::Cell::new(0);
    for (life, calls) in [(Duration::from_secs(1), 0), (Duration::from_secs(60), 1)] {
        let (client, downstream) = pair().await;
        let (server, upstream) = pair().await;
        let mut relay =
            Relay::new(Stream::Plain(downstream), Stream::Plain(upstream), None, 0, Meter::default());
        let moved = Moved::default();
        let patience = Patience { idle: Some(Duration::from_secs(7)), until: None };
        let run = relay.run(patience, &clock, &moved, |_| grown.set(grown.get() + 1));
        // Bytes now and then, so that it is not idle; then both sides end.
        let live = async {
            let (mut client, mut server) = (client, server);
            let until = Instant::now() + life;
            while Instant::now() < until {
                client.write_all(b"x").await.unwrap();
                server.read_exact(&mut [0]).await.unwrap();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let (outcome, ()) = tokio::join!(run, live);
        assert!(matches!(outcome.end, End::Finished), "{:?}", outcome.end);
        assert_eq!(grown.get(), calls);
    }
}
