//! A proxy that takes over from another. That two processes do it without a loss is the gateway's test; this is what each half does.

use std::net::SocketAddr;

use isthmus_proxy::Limits;
use isthmus_testkit::MeshCa;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::flood::{SNI, gateway};
use crate::resources::*;
use crate::support::*;

const LISTENER: &str = "0.0.0.0_15443";

#[tokio::test]
async fn a_successor_serves_on_the_same_socket_and_what_is_open_ends_where_it_began() {
    let (old_server, new_server) =
        (Server::start(Does::Echo("old")).await, Server::start(Does::Echo("new")).await);
    let old = gateway(Limits::default(), &[old_server.address]);
    let at = old.address(LISTENER);
    let mut open = TcpStream::connect(at).await.unwrap();
    let begin = hello(SNI);
    open.write_all(&begin).await.unwrap();
    let mut name = [0; 3];
    open.read_exact(&mut name).await.unwrap();

    let setup = Setup::new(MeshCa::new().workload("west", "istio-system/istio-eastwestgateway"));
    let new = setup.succeed(old.proxy.sockets().unwrap());
    let take = |proxy: &Running, extra: Option<SocketAddr>| {
        let mut listener = gateway_listener(LISTENER, &[(SNI, SNI)]);
        listener.address = address("127.0.0.1:0".parse().unwrap());
        proxy.take(
            vec![plain_cluster(SNI)],
            vec![assignment(SNI, vec![vec![endpoint(new_server.address, false)]])],
            vec![listener],
        );
        if let Some(extra) = extra {
            let mut late = gateway_listener("late", &[(SNI, SNI)]);
            late.address = address(extra);
            proxy.take(vec![], vec![], vec![late]);
        }
    };
    // One more listener came to the old one after it had handed over, and is told to the new one too.
    old.take(vec![], vec![], vec![gateway_listener("late", &[(SNI, SNI)])]);
    let late = old.address("late");
    take(&new, Some(late));
    assert_eq!(new.address(LISTENER), at);
    assert!(say(at, &hello(SNI)).await.unwrap().starts_with(b"old"), "until it is told, the old one serves");

    old.proxy.leave();
    // Nobody accepts now: it waits in the kernel.
    let mut waiting = TcpStream::connect(at).await.unwrap();
    waiting.write_all(&hello(SNI)).await.unwrap();
    while TcpStream::connect(late).await.is_ok() {
        tokio::task::yield_now().await;
    }
    new.proxy.open();
    waiting.read_exact(&mut name).await.unwrap();
    assert_eq!(&name, b"new");
    assert!(say(late, &hello(SNI)).await.unwrap().starts_with(b"new"), "an owed address is bound");
    open.shutdown().await.unwrap();
    let mut rest = Vec::new();
    open.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, begin, "what was open goes on to its end");
    old.ended().await;
}
