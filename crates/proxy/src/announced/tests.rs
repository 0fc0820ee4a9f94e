use isthmus_socket::Listener;
use proptest::prelude::*;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::*;

const BOTH: Accepted = Accepted { v1: true, v2: true };
const WITHIN: Duration = Duration::from_secs(5);

fn listener() -> Listener {
    let _ = isthmus_socket::begin();
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    Listener::new(socket.into()).unwrap()
}

/// What is read of these bytes, written in these pieces, and what is left in the socket.
async fn sent(pieces: &[&[u8]], accepted: Accepted) -> (Result<Option<Ends>, AnnounceError>, Vec<u8>) {
    let listener = listener();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    client.set_nodelay(true).unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    let write = async {
        for piece in pieces {
            client.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        client.shutdown().await.unwrap();
    };
    let ((), read) = tokio::join!(write, read(&mut server, accepted, WITHIN));
    let mut left = Vec::new();
    server.read_to_end(&mut left).await.unwrap();
    (read, left)
}

fn ends(source: &str, destination: &str) -> Ends {
    Ends { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
}

#[tokio::test]
async fn what_is_written_is_read_and_what_follows_stays() {
    let v4 = ends("192.0.2.7:40001", "198.51.100.9:15443");
    let v6 = ends("[2001:db8::7]:40001", "[2001:db8:1::9]:15443");
    for version in [Announce::V1, Announce::V2] {
        for expected in [Some(v4), Some(v6), None] {
            let mut bytes = write(version, expected);
            bytes.extend(b"hello");
            let pieces: Vec<&[u8]> = bytes.chunks(3).collect();
            let (read, left) = sent(&pieces, BOTH).await;
            assert_eq!(read.unwrap(), expected, "{version:?}");
            assert_eq!(left, b"hello");
        }
    }
}

#[tokio::test]
async fn clients_of_a_dual_stack_socket_are_named_in_their_own_family() {
    let mapped = ends("[::ffff:192.0.2.7]:1", "[::ffff:198.51.100.9]:2");
    let (read, _) = sent(&[&write(Announce::V2, Some(mapped))], BOTH).await;
    assert_eq!(read.unwrap(), Some(ends("192.0.2.7:1", "198.51.100.9:2")));
    let mixed = ends("192.0.2.7:1", "[2001:db8::1]:2");
    let (read, _) = sent(&[&write(Announce::V2, Some(mixed))], BOTH).await;
    assert_eq!(read.unwrap(), Some(ends("[::ffff:192.0.2.7]:1", "[2001:db8::1]:2")));
}

#[tokio::test]
async fn values_behind_the_addresses_are_passed_over() {
    // As a network balancer sends it: a checksum and an endpoint's name follow.
    let mut header = write(Announce::V2, Some(ends("192.0.2.7:1", "198.51.100.9:2")));
    header[15] += 12;
    header.extend([3, 0, 4, 1, 2, 3, 4, 0xea, 0, 2, 1, b'v']);
    header.extend(b"x");
    let (read, left) = sent(&[&header], BOTH).await;
    assert_eq!(read.unwrap(), Some(ends("192.0.2.7:1", "198.51.100.9:2")));
    assert_eq!(left, b"x");
}

#[tokio::test]
async fn each_kind_of_refusal_is_named() {
    let cause = async |bytes: &[u8], accepted| sent(&[bytes], accepted).await.0.unwrap_err().cause();
    let v2 = write(Announce::V2, None);
    assert_eq!(
        cause(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03abcdefgh", BOTH).await,
        "proxy_header_missing"
    );
    assert_eq!(cause(b"PROXY UNKNOWN\r\n", Accepted { v1: false, v2: true }).await, "proxy_header_version");
    assert_eq!(cause(&v2, Accepted { v1: true, v2: false }).await, "proxy_header_version");
    for line in [
        "PROXY TCP4 192.0.2.7 198.51.100.9 1 65536\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.9 1 2 3\r\n",
        "PROXY TCP6 192.0.2.7 198.51.100.9 1 2\r\n",
        "PROXY UDP4 192.0.2.7 198.51.100.9 1 2\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.9 1 2\n",
    ] {
        assert_eq!(cause(line.as_bytes(), BOTH).await, "proxy_header_malformed", "{line}");
    }
    let endless = [b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat();
    assert_eq!(cause(&endless, BOTH).await, "proxy_header_malformed");
    let mut long = v2.clone();
    long[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
    assert_eq!(cause(&long, BOTH).await, "proxy_header_malformed");
    assert_eq!(cause(b"PROXY ", BOTH).await, "io", "it ends within");
}

#[tokio::test(start_paused = true)]
async fn a_header_that_does_not_come_is_not_waited_for() {
    let listener = listener();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    let error = read(&mut server, BOTH, WITHIN).await.unwrap_err();
    assert_eq!(error.cause(), "proxy_header_timeout");
}

proptest! {
    #[test]
    fn no_header_panics(
        command in prop::sample::select(vec![0x20u8, 0x21, 0x11, 0xff]),
        family in any::<u8>(),
        rest in prop::collection::vec(any::<u8>(), 0..60),
        line in "PROXY [A-Z0-9 .:]{0,60}(\r\n)?",
    ) {
        let _ = binary(command, family, &rest);
        let _ = text(line.as_bytes());
        let _ = text(&rest);
    }
}
