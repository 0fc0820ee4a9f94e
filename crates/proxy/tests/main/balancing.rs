//! How a gateway chooses among endpoints.

use std::collections::BTreeMap;
use std::time::Duration;

use isthmus_proxy::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::flood::{SNI, gateway};
use crate::resources::*;
use crate::support::*;

const LISTENER: &str = "0.0.0.0_15443";

/// A connection that stays, and who answered it.
async fn hold(gateway: &Running, hello: &[u8]) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(gateway.address(LISTENER)).await.unwrap();
    stream.write_all(hello).await.unwrap();
    let mut name = [0; 2];
    stream.read_exact(&mut name).await.unwrap();
    (stream, String::from_utf8(name.into()).unwrap())
}

#[tokio::test]
async fn connections_go_where_fewest_are() {
    let servers = [Server::start(Does::Echo("a:")).await, Server::start(Does::Echo("b:")).await];
    let gateway = gateway(Limits::default(), &servers.each_ref().map(|server| server.address));
    let hello = hello(SNI);
    let mut held = Vec::new();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..100 {
        let (stream, name) = hold(&gateway, &hello).await;
        held.push(stream);
        *counts.entry(name).or_default() += 1;
    }
    // By chance alone one in three runs would differ by more than ten.
    let (a, b) = (counts["a:"], counts["b:"]);
    assert!(a.abs_diff(b) <= 10, "{a} and {b} of 100");
}

#[tokio::test]
async fn a_subset_has_endpoints_of_its_own() {
    let (one, two) = (Server::start(Does::Echo("v1")).await, Server::start(Does::Echo("v2")).await);
    let gateway = gateway(Limits::default(), &[one.address, two.address]);
    let subset = "outbound_.9080_.v2_.reviews.default.svc.cluster.local";
    gateway.take(
        vec![plain_cluster(subset)],
        vec![assignment(subset, vec![vec![endpoint(two.address, false)]])],
        vec![gateway_listener(LISTENER, &[(SNI, SNI), (subset, subset)])],
    );
    let hello = hello(subset);
    for _ in 0..10 {
        assert_eq!(hold(&gateway, &hello).await.1, "v2");
    }
}

#[tokio::test]
async fn near_endpoints_come_first_and_others_serve_when_those_fail() {
    let (near, far) = (Server::start(Does::Echo("n:")).await, Server::start(Does::Echo("f:")).await);
    let gateway = gateway(Limits::default(), &[]);
    let cluster = with_outlier(plain_cluster(SNI), 1, Duration::from_secs(30));
    let places = vec![vec![endpoint(near.address, false)], vec![endpoint(far.address, false)]];
    gateway.take(vec![cluster], vec![assignment(SNI, places)], vec![]);
    let hello = hello(SNI);
    for _ in 0..5 {
        assert_eq!(hold(&gateway, &hello).await.1, "n:");
    }
    let address = near.kill().await;
    for _ in 0..5 {
        assert_eq!(hold(&gateway, &hello).await.1, "f:", "no client is told of the one that failed");
    }
    assert_eq!(gateway.health(address), "ejected");
    assert_eq!(
        gateway.count("isthmus_upstream_failures_total", &["cause=\"connect_refused\""]),
        1,
        "one connection found out"
    );
}
