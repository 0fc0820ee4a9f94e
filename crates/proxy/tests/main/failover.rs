//! Endpoints that fail: killed, stopped, silent; and come back.

use std::net::SocketAddr;
use std::time::Duration;

use isthmus_testkit::MeshCa;

use crate::resources::*;
use crate::support::*;

const HOST: &str = "outbound|9080||reviews.default.svc.cluster.local";
const VIP: &str = "10.96.0.7:9080";

/// A proxy whose service has an endpoint at home and one abroad.
fn two_regions(home: SocketAddr, abroad: SocketAddr, mesh: bool, timeout: Duration) -> Running {
    let proxy = Running::new(MeshCa::new().workload("east", "default/productpage"));
    let identity = "spiffe://cluster.local/ns/default/sa/reviews";
    let mut cluster = if mesh { mesh_cluster(HOST, &[identity]) } else { plain_cluster(HOST) };
    cluster.connect_timeout = time(timeout);
    let priorities = vec![vec![endpoint(home, mesh)], vec![endpoint(abroad, false)]];
    proxy.take(
        vec![with_outlier(cluster, 2, Duration::from_millis(300))],
        vec![assignment(HOST, priorities)],
        vec![virtual_outbound("BlackHoleCluster"), service_listener(VIP.parse().unwrap(), HOST)],
    );
    proxy
}

async fn who(proxy: &Running) -> String {
    ask(proxy.capture(VIP.parse().unwrap()).await, "?").await.unwrap()
}

#[tokio::test]
async fn a_killed_endpoint_costs_no_request_is_ejected_and_returns() {
    let home = Server::start(Does::Echo("east")).await;
    let abroad = Server::start(Does::Echo("west")).await;
    let proxy = two_regions(home.address, abroad.address, false, Duration::from_secs(1));
    for _ in 0..5 {
        assert_eq!(who(&proxy).await, "east?", "while home is well, nothing goes abroad");
    }
    let address = home.kill().await;
    for _ in 0..5 {
        assert_eq!(who(&proxy).await, "west?");
    }
    assert_eq!(proxy.health(address), "ejected");
    proxy.counted("isthmus_endpoint_ejections_total", &["reviews"], 1).await;
    assert_eq!(
        proxy.count("isthmus_upstream_failures_total", &["cause=\"connect_refused\""]),
        2,
        "two failures ejected it; no later request tried it"
    );
    let _home = Server::at(address, Does::Echo("east")).await;
    let back = async {
        while who(&proxy).await != "east?" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), back).await.expect("it returns once it answers");
    assert_eq!(proxy.health(address), "healthy");
}

#[tokio::test]
async fn a_stopped_peer_is_caught_by_the_handshake_timeout() {
    let stopped = Server::start(Does::Hang).await;
    let abroad = Server::start(Does::Echo("west")).await;
    let proxy = two_regions(stopped.address, abroad.address, true, Duration::from_millis(200));
    assert_eq!(who(&proxy).await, "west?");
    assert_eq!(proxy.count("isthmus_upstream_failures_total", &["cause=\"tls_timeout\""]), 1);
    assert_eq!(who(&proxy).await, "west?");
    assert_eq!(proxy.health(stopped.address), "ejected");
    assert_eq!(who(&proxy).await, "west?");
    assert_eq!(
        proxy.count("isthmus_upstream_failures_total", &["cause=\"tls_timeout\""]),
        2,
        "an ejected endpoint is not tried"
    );
}

#[tokio::test]
async fn an_ejected_endpoint_that_stays_silent_is_probed_without_costing_requests() {
    let stopped = Server::start(Does::Hang).await;
    let abroad = Server::start(Does::Echo("west")).await;
    let proxy = two_regions(stopped.address, abroad.address, true, Duration::from_millis(100));
    for _ in 0..2 {
        assert_eq!(who(&proxy).await, "west?");
    }
    // Each time that a probe fails, the ejection is prolonged: what is left of it grows.
    let left = || {
        let all = proxy.proxy.endpoints_json();
        let found = all.as_array().unwrap().iter().find(|e| e["address"] == stopped.address.to_string());
        found.unwrap()["ejectedForMs"].as_u64().unwrap_or_default()
    };
    let three_probes = async {
        let (mut prolonged, mut before) = (0, left());
        while prolonged < 3 {
            assert_eq!(who(&proxy).await, "west?");
            let now = left();
            prolonged += u32::from(now > before);
            before = now;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), three_probes).await.unwrap();
    assert_eq!(
        proxy.count("isthmus_upstream_failures_total", &["cause=\"tls_timeout\""]),
        2,
        "no request was sent to it meanwhile"
    );
    assert_eq!(proxy.health(stopped.address), "ejected");
}

#[tokio::test]
async fn resets_before_the_first_byte_eject() {
    let broken = Server::start(Does::Reset).await;
    let abroad = Server::start(Does::Echo("west")).await;
    let proxy = two_regions(broken.address, abroad.address, false, Duration::from_secs(1));
    for _ in 0..2 {
        // Bytes were sent: these two cannot be repeated elsewhere.
        assert!(ask(proxy.capture(VIP.parse().unwrap()).await, "?").await.is_err());
    }
    proxy.counted("istio_tcp_connections_closed_total", &["response_flags=\"UC\""], 2).await;
    assert_eq!(who(&proxy).await, "west?");
}

#[tokio::test]
async fn endpoints_that_are_listed_as_unhealthy_get_nothing() {
    let home = Server::start(Does::Echo("east")).await;
    let abroad = Server::start(Does::Echo("west")).await;
    let proxy = two_regions(home.address, abroad.address, false, Duration::from_secs(1));
    let mut unhealthy = endpoint(home.address, false);
    unhealthy.health_status = 2;
    proxy.take(
        vec![],
        vec![assignment(HOST, vec![vec![unhealthy], vec![endpoint(abroad.address, false)]])],
        vec![],
    );
    assert_eq!(who(&proxy).await, "west?");
    assert_eq!(proxy.health(home.address), "unhealthy");
}

#[tokio::test]
async fn when_all_fail_the_client_is_told_and_the_log_says_how_often_it_was_tried() {
    let (a, b) = (Server::start(Does::Hang).await.kill().await, Server::start(Does::Hang).await.kill().await);
    let proxy = two_regions(a, b, false, Duration::from_secs(1));
    assert!(ask(proxy.capture(VIP.parse().unwrap()).await, "?").await.is_err());
    proxy.counted("istio_tcp_connections_closed_total", &["response_flags=\"UF\""], 1).await;
    assert_eq!(proxy.count("isthmus_upstream_failures_total", &["cause=\"connect_refused\""]), 2);
}

#[tokio::test]
async fn the_only_endpoint_serves_again_as_soon_as_it_answers() {
    let server = Server::start(Does::Echo("only")).await;
    let proxy = Running::new(MeshCa::new().workload("east", "default/productpage"));
    proxy.take(
        vec![with_outlier(plain_cluster(HOST), 1, Duration::from_secs(300))],
        vec![assignment(HOST, vec![vec![endpoint(server.address, false)]])],
        vec![virtual_outbound("BlackHoleCluster"), service_listener(VIP.parse().unwrap(), HOST)],
    );
    let address = server.kill().await;
    for _ in 0..2 {
        assert!(ask(proxy.capture(VIP.parse().unwrap()).await, "?").await.is_err());
    }
    assert_eq!(proxy.health(address), "ejected");
    let _server = Server::at(address, Does::Echo("only")).await;
    assert_eq!(who(&proxy).await, "only?", "no waiting for the end of an ejection");
    assert_eq!(proxy.health(address), "healthy");
}
