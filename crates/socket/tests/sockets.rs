//! Sockets on a ring, with the kernel at the other end.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::io;
use std::net::SocketAddr;
use std::task::Poll;

use isthmus_socket::{Listener, Socket, Unavailable, begin};
use socket2::{Domain, SockRef, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// More than the buffers that a ring receives into.
const CROWD: usize = 300;

fn listener() -> (Listener, SocketAddr) {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let listener = Listener::new(socket.into()).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn connected(address: SocketAddr, first: &[u8]) -> io::Result<Socket> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    Socket::connect(socket, address, first).await
}

/// The runtime's own stream at one end, ours at the other.
async fn pair(listener: &Listener, address: SocketAddr) -> (TcpStream, Socket) {
    let (theirs, ours) = tokio::join!(TcpStream::connect(address), listener.accept());
    (theirs.unwrap(), ours.unwrap().0)
}

async fn both_ways(first: &'static [u8]) {
    let (listener, address) = listener();
    let sent: Vec<u8> =
        (0..3_000_000_u32).map(|number| number.to_le_bytes()[0] ^ number.to_le_bytes()[1]).collect();
    let said = sent.clone();
    let echo = async {
        let (socket, _) = listener.accept().await.unwrap();
        let (mut read, mut write) = tokio::io::split(socket);
        let mut head = vec![0; first.len()];
        read.read_exact(&mut head).await.unwrap();
        assert_eq!(head, first);
        tokio::io::copy(&mut read, &mut write).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let ask = async {
        let (mut read, mut write) = tokio::io::split(connected(address, first).await.unwrap());
        let write = async move {
            // In pieces of all sizes: on both sides of what goes through the ring.
            let mut rest = &said[..];
            for size in (1..).map(|turn: usize| turn * 37 % 9_000 + 1) {
                let (piece, others) = rest.split_at(size.min(rest.len()));
                write.write_all(piece).await.unwrap();
                rest = others;
                if rest.is_empty() {
                    break;
                }
            }
            write.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let (read, ()) = tokio::join!(read.read_to_end(&mut got), write);
        read.unwrap();
        assert!(got == sent, "{} of {} bytes, or others", got.len(), sent.len());
    };
    tokio::join!(echo, ask);
}

#[tokio::test]
async fn on_a_ring_all_bytes_come_in_their_order() {
    begin().unwrap();
    both_ways(b"").await;
    both_ways(b"first").await;
}

#[tokio::test]
async fn without_a_ring_all_bytes_come_in_their_order() {
    both_ways(b"").await;
    both_ways(b"first").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_threads_have_no_ring_and_sockets_work() {
    assert!(matches!(begin(), Err(Unavailable::Threads)));
    both_ways(b"first").await;
}

/// A closed descriptor's number is the next connection's: whatever is still done to the old one must not hit the new.
#[tokio::test]
async fn an_end_is_said_to_its_own_connection_alone() {
    begin().unwrap();
    let (listener, address) = listener();
    let (mut kept, mut keeper) = pair(&listener, address).await;
    let serve = async {
        for _ in 0..2_000 {
            let (mut socket, _) = listener.accept().await.unwrap();
            socket.write_all(b"bye").await.unwrap();
            socket.shutdown().await.unwrap();
        }
    };
    let ask = async {
        for _ in 0..500 {
            let together: JoinSet<()> = (0..4)
                .map(|_| async move {
                    let mut text = String::new();
                    let mut socket = TcpStream::connect(address).await.unwrap();
                    socket.read_to_string(&mut text).await.unwrap();
                    assert_eq!(text, "bye");
                })
                .collect();
            together.join_all().await;
        }
    };
    tokio::join!(serve, ask);
    keeper.write_all(b"here").await.unwrap();
    let mut bytes = [0; 4];
    kept.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"here");
}

#[tokio::test]
async fn more_sockets_than_buffers_are_served() {
    begin().unwrap();
    let (listener, address) = listener();
    let mut waiting = JoinSet::new();
    let mut clients = Vec::new();
    for _ in 0..CROWD {
        let (client, mut socket) = pair(&listener, address).await;
        clients.push(client);
        waiting.spawn(async move {
            let mut bytes = [0; 6000];
            socket.read_exact(&mut bytes).await.unwrap();
            socket.write_all(&bytes).await.unwrap();
            bytes[5999]
        });
    }
    // All of it is there before any of them is asked.
    for client in &clients {
        assert_eq!(client.try_write(&[7; 6000]).unwrap(), 6000);
    }
    assert_eq!(waiting.join_all().await, [7; CROWD]);
    for mut client in clients {
        let mut bytes = [0; 6000];
        client.read_exact(&mut bytes).await.unwrap();
    }
}

#[tokio::test]
async fn a_socket_that_is_dropped_while_it_waits_is_closed() {
    begin().unwrap();
    let (listener, address) = listener();
    for _ in 0..CROWD {
        let (mut client, mut socket) = pair(&listener, address).await;
        let mut byte = [0];
        let waits = std::future::poll_fn(|cx| {
            let read = std::pin::pin!(socket.read(&mut byte)).as_mut().poll(cx);
            Poll::Ready(read.is_pending())
        });
        assert!(waits.await);
        drop(socket);
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_writer_waits_for_its_reader() {
    begin().unwrap();
    let (listener, address) = listener();
    let (mut client, mut socket) = pair(&listener, address).await;
    let piece = [1; 1000];
    let mut taken = 0;
    // Ends: a peer that does not read fills what the kernel holds for it.
    while let Poll::Ready(count) = {
        let mut write = std::pin::pin!(socket.write(&piece));
        let mut turns = 0;
        std::future::poll_fn(|cx| match write.as_mut().poll(cx) {
            Poll::Ready(count) => Poll::Ready(Poll::Ready(count)),
            // The ring has had its turns, and still it waits.
            Poll::Pending if turns == 50 => Poll::Ready(Poll::Pending),
            Poll::Pending => {
                turns += 1;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        })
        .await
    } {
        taken += count.unwrap();
        assert!(taken < 100_000_000);
    }
    let writes = async {
        socket.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let (read, ()) = tokio::join!(client.read_to_end(&mut got), writes);
    assert_eq!(read.unwrap(), taken);
}

#[tokio::test]
async fn a_refused_connection_says_so_on_a_ring() {
    begin().unwrap();
    is_refused().await;
}

#[tokio::test]
async fn a_refused_connection_says_so_without_a_ring() {
    is_refused().await;
}

async fn is_refused() {
    let (listener, address) = listener();
    drop(listener);
    for first in [&b""[..], b"hello"] {
        assert_eq!(connected(address, first).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}

#[tokio::test]
async fn a_reset_is_an_error_and_an_end_is_none() {
    begin().unwrap();
    let (listener, address) = listener();
    let (client, mut socket) = pair(&listener, address).await;
    client.set_zero_linger().unwrap();
    drop(client);
    assert_eq!(socket.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let (client, mut socket) = pair(&listener, address).await;
    drop(client);
    assert_eq!(socket.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(socket.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn the_first_byte_is_waited_for_and_stays_unread() {
    begin().unwrap();
    let (listener, address) = listener();
    let (mut client, mut socket) = pair(&listener, address).await;
    let (first, written) = tokio::join!(socket.first_byte(), client.write_all(b"answer"));
    written.unwrap();
    assert!(first.unwrap());
    let mut bytes = [0; 6];
    socket.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"answer");
    drop(client);
    assert!(!socket.first_byte().await.unwrap());
}

#[tokio::test]
async fn a_socket_can_be_handed_to_calls_of_one_s_own() {
    begin().unwrap();
    let (listener, address) = listener();
    let (mut client, mut socket) = pair(&listener, address).await;
    client.write_all(b"one").await.unwrap();
    let mut bytes = [0; 3];
    socket.read_exact(&mut bytes).await.unwrap();
    assert!(socket.is_bare());
    socket.make_direct().unwrap();
    let mut read = [std::mem::MaybeUninit::uninit(); 8];
    let mut ask = || socket.try_io(Interest::READABLE, || SockRef::from(&socket).recv(&mut read));
    assert_eq!(ask().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let ready = std::future::poll_fn(|cx| socket.poll_read_ready(cx));
    let (ready, written) = tokio::join!(ready, client.write_all(b"two"));
    ready.unwrap();
    written.unwrap();
    assert_eq!(ask().unwrap(), 3);
}
