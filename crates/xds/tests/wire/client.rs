//! The client against the server, over loopback sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{Event, Plane, view};
use envoy_types::pb::envoy::config::core::v3::Node;
use isthmus_lifecycle::{Backoff, Drain, TaskGroup};
use isthmus_proto::resource::View;
use isthmus_proto::type_url::{CLUSTER, ENDPOINTS, LISTENER};
use isthmus_xds::client::{Config, Connection, Connector};
use isthmus_xds::{Client, Handle, Handler, HealthReport, Limits, Rejection, Update};
use parking_lot::Mutex;
use tokio::io::DuplexStream;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

/// Passes updates on, refusing what it is told to.
struct Recorder {
    updates: mpsc::UnboundedSender<Update>,
    refuse: Arc<Mutex<Option<String>>>,
}

#[tonic::async_trait]
impl Handler for Recorder {
    async fn apply(&mut self, update: Update) -> Vec<Rejection> {
        let refuse = self.refuse.lock().clone();
        let bad = update.upserts.iter().filter(|upsert| refuse.as_deref() == Some(&*upsert.name));
        let rejections =
            bad.map(|upsert| Rejection { name: Arc::clone(&upsert.name), reason: "no such thing".into() });
        let rejections = rejections.collect();
        let _ = self.updates.send(update);
        rejections
    }
}

struct Peer {
    handle: Handle,
    updates: mpsc::UnboundedReceiver<Update>,
    refuse: Arc<Mutex<Option<String>>>,
    tasks: TaskGroup,
}

/// A client that connects to whatever address is current.
fn peer(address: &Arc<Mutex<std::net::SocketAddr>>) -> Peer {
    let address = Arc::clone(address);
    peer_that(Connector::new(move || TcpStream::connect(*address.lock())))
}

fn peer_that(connector: Connector) -> Peer {
    let node = Node { id: "sidecar~a".into(), ..Node::default() };
    let backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(20));
    let config = Config { backoff, ..Config::new(node, "default.east.federation.isthmus.internal") };
    let (sender, updates) = mpsc::unbounded_channel();
    let refuse = Arc::new(Mutex::new(None));
    let tasks = TaskGroup::new("client", Drain::new());
    let recorder = Recorder { updates: sender, refuse: Arc::clone(&refuse) };
    Peer { handle: Client::start(config, connector, recorder, &tasks), updates, refuse, tasks }
}

fn said(update: &Update) -> Vec<String> {
    let names = update.upserts.iter().map(|upsert| upsert.name.to_string());
    names.chain(update.removed.iter().map(|name| format!("-{name}"))).collect()
}

impl Peer {
    async fn next(&mut self) -> Vec<String> {
        said(&self.updates.recv().await.unwrap())
    }
}

/// Ends a plane and starts another one at another address, which the client finds by asking its connector.
async fn restart(plane: Plane, address: &Arc<Mutex<std::net::SocketAddr>>, first: Arc<View>) -> Plane {
    plane.tasks.drain().immediate();
    let next = Plane::start(first).await;
    *address.lock() = next.address;
    next
}

#[tokio::test]
async fn a_reconnect_resumes_from_what_was_accepted() {
    let plane = Plane::start(view(1, &[(CLUSTER, &[("a", "1"), ("b", "1")])])).await;
    let address = Arc::new(Mutex::new(plane.address));
    let mut peer = peer(&address);
    peer.handle.subscribe_all(CLUSTER);
    assert_eq!(peer.next().await, ["a", "b"]);
    plane.views.send_replace(view(2, &[(CLUSTER, &[("a", "1"), ("b", "2")])]));
    assert_eq!(peer.next().await, ["b"]);
    let mut plane = restart(plane, &address, view(1, &[(CLUSTER, &[("b", "2"), ("c", "1")])])).await;
    assert_eq!(peer.next().await, ["c", "-a"]);
    // Nothing is lost when there is nothing new either: the first answer says that all is there.
    plane = restart(plane, &address, view(1, &[(CLUSTER, &[("b", "2"), ("c", "1")])])).await;
    let update = peer.updates.recv().await.unwrap();
    assert!(update.first && update.upserts.is_empty() && update.removed.is_empty());
    drop(plane);
}

#[tokio::test]
async fn a_refused_resource_is_told_and_sent_again_after_a_reconnect() {
    let mut plane = Plane::start(view(1, &[(CLUSTER, &[("bad", "1"), ("good", "1")])])).await;
    let address = Arc::new(Mutex::new(plane.address));
    let mut peer = peer(&address);
    *peer.refuse.lock() = Some("bad".into());
    peer.handle.subscribe_all(CLUSTER);
    assert_eq!(peer.next().await, ["bad", "good"]);
    assert_eq!(plane.event().await, Event::Connected("sidecar~a".into()));
    assert_eq!(plane.event().await, Event::Refused("bad: no such thing".into()));
    *peer.refuse.lock() = None;
    let _plane = restart(plane, &address, view(1, &[(CLUSTER, &[("bad", "1"), ("good", "1")])])).await;
    assert_eq!(peer.next().await, ["bad"]);
}

#[tokio::test]
async fn names_can_be_added_and_dropped_while_it_runs() {
    let all: &[(&str, &str)] = &[("a", "1"), ("b", "1")];
    let plane = Plane::start(view(1, &[(ENDPOINTS, all)])).await;
    let address = Arc::new(Mutex::new(plane.address));
    let mut peer = peer(&address);
    peer.handle.subscribe(ENDPOINTS, ["a"]);
    assert_eq!(peer.next().await, ["a"]);
    peer.handle.subscribe(ENDPOINTS, ["b", "absent"]);
    assert_eq!(peer.next().await, ["b", "-absent"]);
    peer.handle.unsubscribe(ENDPOINTS, ["a"]);
    peer.handle.subscribe(ENDPOINTS, ["late"]);
    assert_eq!(peer.next().await, ["-late"]);
    plane.views.send_replace(view(2, &[(ENDPOINTS, &[("a", "2"), ("b", "2")])]));
    assert_eq!(peer.next().await, ["b"]);
    // A new stream asks for what is wanted now.
    let _plane =
        restart(plane, &address, view(1, &[(ENDPOINTS, &[("a", "3"), ("b", "3"), ("late", "1")])])).await;
    assert_eq!(peer.next().await, ["b", "late", "-absent"]);
}

#[tokio::test]
async fn a_name_that_is_dropped_and_asked_for_again_at_once_is_answered_again() {
    let plane = Plane::start(view(1, &[(ENDPOINTS, &[("a", "1")])])).await;
    let mut peer = peer(&Arc::new(Mutex::new(plane.address)));
    peer.handle.subscribe(ENDPOINTS, ["a", "absent"]);
    assert_eq!(peer.next().await, ["a", "-absent"]);
    // One request tells both, or two of them; the answer is the same.
    peer.handle.unsubscribe(ENDPOINTS, ["absent"]);
    peer.handle.subscribe(ENDPOINTS, ["absent"]);
    assert_eq!(peer.next().await, ["-absent"]);
    plane.views.send_replace(view(2, &[(ENDPOINTS, &[("a", "1"), ("absent", "1")])]));
    assert_eq!(peer.next().await, ["absent"], "what appears later is told");
}

#[tokio::test]
async fn a_type_of_which_names_alone_are_asked_for_never_brings_others() {
    let plane = Plane::start(view(1, &[(CLUSTER, &[("a", "1"), ("b", "1")])])).await;
    let mut peer = peer(&Arc::new(Mutex::new(plane.address)));
    peer.handle.subscribe(CLUSTER, ["b"]);
    assert_eq!(peer.next().await, ["b"]);
    peer.handle.unsubscribe(CLUSTER, ["b"]);
    plane.views.send_replace(view(2, &[(CLUSTER, &[("a", "2"), ("b", "2")])]));
    peer.handle.subscribe(CLUSTER, ["c"]);
    // A change of b that was under way when it was dropped is left out of its update.
    let mut said = Vec::new();
    while said.is_empty() {
        said = peer.next().await;
    }
    assert_eq!(said, ["-c"]);
}

#[tokio::test]
async fn the_last_health_report_is_repeated_on_a_new_stream_after_listeners() {
    let mut plane = Plane::start(view(1, &[(LISTENER, &[])])).await;
    let address = Arc::new(Mutex::new(plane.address));
    let mut peer = peer(&address);
    peer.handle.report_health(HealthReport::Unhealthy("probe failed".into()));
    peer.handle.subscribe_all(LISTENER);
    assert_eq!(plane.event().await, Event::Connected("sidecar~a".into()));
    assert_eq!(plane.event().await, Event::Health(HealthReport::Unhealthy("probe failed".into())));
    peer.handle.report_health(HealthReport::Healthy);
    assert_eq!(plane.event().await, Event::Health(HealthReport::Healthy));
    peer.next().await;
    let mut plane = restart(plane, &address, view(1, &[(LISTENER, &[])])).await;
    assert_eq!(plane.event().await, Event::Connected("sidecar~a".into()));
    assert_eq!(plane.event().await, Event::Health(HealthReport::Healthy));
}

#[tokio::test]
async fn the_connection_says_why_it_is_lost_and_comes_back() {
    let plane = Plane::start(view(1, &[(CLUSTER, &[])])).await;
    let address = Arc::new(Mutex::new(plane.address));
    let mut peer = peer(&address);
    let mut connection = peer.handle.connection();
    peer.handle.subscribe_all(CLUSTER);
    peer.next().await;
    connection.wait_for(|state| *state == Connection::Connected).await.unwrap();
    // An address where nobody listens.
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    *address.lock() = nobody;
    plane.tasks.drain().immediate();
    let refused =
        |state: &Connection| matches!(state, Connection::Lost { error } if error.contains("cannot connect"));
    connection.wait_for(refused).await.unwrap();
    let plane = Plane::start(view(1, &[(CLUSTER, &[])])).await;
    *address.lock() = plane.address;
    connection.wait_for(|state| *state == Connection::Connected).await.unwrap();
}

#[tokio::test]
async fn a_refusal_by_the_control_plane_is_told_in_its_words() {
    let plane = Plane::start_with(view(1, &[]), Limits { streams: 0, ..Limits::default() }).await;
    let peer = peer(&Arc::new(Mutex::new(plane.address)));
    peer.handle.subscribe_all(CLUSTER);
    let mut connection = peer.handle.connection();
    let full = |state: &Connection| matches!(state, Connection::Lost { error } if error.contains("serves 0 streams"));
    connection.wait_for(full).await.unwrap();
}

#[tokio::test]
async fn a_client_ends_with_its_group() {
    let plane = Plane::start(view(1, &[(CLUSTER, &[])])).await;
    let mut peer = peer(&Arc::new(Mutex::new(plane.address)));
    peer.handle.subscribe_all(CLUSTER);
    peer.next().await;
    peer.tasks.drain().immediate();
    peer.tasks.finished().await;
    assert!(peer.updates.recv().await.is_none());
}

#[tokio::test]
async fn a_name_is_one_text_however_often_it_is_said() {
    let plane = Plane::start(view(1, &[(CLUSTER, &[("a", "1")]), (ENDPOINTS, &[("a", "1")])])).await;
    let mut peer = peer(&Arc::new(Mutex::new(plane.address)));
    peer.handle.subscribe_all(CLUSTER);
    let first = Arc::clone(&peer.updates.recv().await.unwrap().upserts[0].name);
    peer.handle.subscribe(ENDPOINTS, [Arc::clone(&first)]);
    let endpoints = peer.updates.recv().await.unwrap();
    assert!(Arc::ptr_eq(&endpoints.upserts[0].name, &first));
    plane.views.send_replace(view(2, &[(CLUSTER, &[("a", "2")]), (ENDPOINTS, &[("a", "1")])]));
    let again = peer.updates.recv().await.unwrap();
    assert!(Arc::ptr_eq(&again.upserts[0].name, &first));
}

#[tokio::test]
async fn a_large_view_arrives_whole() {
    let body = "x".repeat(1000);
    let names: Vec<String> =
        (0..20_000).map(|at| format!("outbound|80||s{at}.default.svc.cluster.local")).collect();
    let list: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), body.as_str())).collect();
    let plane = Plane::start(view(1, &[(CLUSTER, &list)])).await;
    let mut peer = peer(&Arc::new(Mutex::new(plane.address)));
    peer.handle.subscribe_all(CLUSTER);
    let mut got = 0;
    while got < names.len() {
        got += peer.updates.recv().await.unwrap().upserts.len();
    }
    assert_eq!(got, names.len());
}

/// A control plane in memory, by cables that can be cut: then nothing moves any longer, and neither end hears of it.
struct Cables {
    /// How many have been laid.
    laid: AtomicUsize,
    /// So many of the first are cut.
    cut: watch::Sender<usize>,
    served: mpsc::Sender<DuplexStream>,
    tasks: TaskGroup,
}

impl Cables {
    fn new(plane: &Plane) -> Arc<Self> {
        let (served, incoming) = mpsc::channel(8);
        let routes = tonic::transport::Server::builder().add_service(plane.service.clone());
        plane.tasks.spawn_infallible("server in memory", async move {
            routes.serve_with_incoming(ReceiverStream::new(incoming).map(std::io::Result::Ok)).await.unwrap();
        });
        Arc::new(Self {
            laid: AtomicUsize::new(0),
            cut: watch::Sender::new(0),
            served,
            tasks: plane.tasks.clone(),
        })
    }

    async fn lay(self: Arc<Self>) -> std::io::Result<DuplexStream> {
        let number = self.laid.fetch_add(1, Ordering::Relaxed);
        let ((near, mut wire), (mut other, far)) = (tokio::io::duplex(1 << 16), tokio::io::duplex(1 << 16));
        self.served.send(far).await.unwrap();
        let mut cut = self.cut.subscribe();
        self.tasks.spawn_infallible("cable", async move {
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut wire, &mut other) => return,
                _ = cut.wait_for(|cut| *cut > number) => {}
            }
            std::future::pending::<()>().await;
        });
        Ok(near)
    }
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_falls_silent_is_noticed_within_two_pings() {
    let plane = Plane::start(view(1, &[(CLUSTER, &[("a", "1")])])).await;
    let cables = Cables::new(&plane);
    let laying = Arc::clone(&cables);
    let mut peer = peer_that(Connector::new(move || Arc::clone(&laying).lay()));
    peer.handle.subscribe_all(CLUSTER);
    assert_eq!(peer.next().await, ["a"]);
    // An idle stream is kept: its pings are answered.
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(cables.laid.load(Ordering::Relaxed), 1);
    let silent_since = Instant::now();
    cables.cut.send_replace(1);
    plane.views.send_replace(view(2, &[(CLUSTER, &[("a", "2")])]));
    let again = tokio::time::timeout(Duration::from_secs(3600), peer.next()).await;
    assert_eq!(again.expect("it is noticed"), ["a"]);
    let ping = Duration::from_secs(10);
    assert!(
        (ping..=2 * ping + Duration::from_millis(100)).contains(&silent_since.elapsed()),
        "{:?}",
        silent_since.elapsed()
    );
    assert_eq!(cables.laid.load(Ordering::Relaxed), 2);
}
