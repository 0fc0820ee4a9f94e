//! Hubs over loopback sockets. TLS is the program's; here the client's name comes from the port's test double.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use isthmus_federation::hub::Parts;
use isthmus_federation::last_good::{LastGood, Memory};
use isthmus_federation::link::Timing;
use isthmus_federation::{Connector, Federation, Metrics, Options, PeerConfig, Service};
use isthmus_lifecycle::{Backoff, Drain, ManualClock, TaskGroup};
use isthmus_model::export::{PeerChange, ServiceExport};
use isthmus_model::name::ClusterId;
use isthmus_model::status::PeerStatus;
use isthmus_proto::federation::federation_client::FederationClient;
use isthmus_proto::federation::federation_server::FederationServer;
use isthmus_proto::federation::{Change, Frame, Hello, change, frame::Body};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};

use crate::words::{export, gateway, me, peer};

/// Far above what anything here takes.
const LONG: Duration = Duration::from_secs(20);

struct Hub {
    federation: Federation,
    changes: mpsc::Receiver<(ClusterId, PeerChange)>,
    address: SocketAddr,
    tasks: TaskGroup,
}

/// A control plane that takes every client for `client`. It calls its peers at `target`.
async fn hub(cluster: &str, client: &str, target: &Arc<Mutex<SocketAddr>>, store: Arc<dyn LastGood>) -> Hub {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let target = Arc::clone(target);
    let tasks = TaskGroup::new("test", Drain::new());
    let parts = Parts {
        me: me(cluster),
        options: Options {
            timing: Timing { heartbeat: 50, silence: 60_000, hello: 5_000 },
            backoff: Backoff::new(Duration::from_millis(1), Duration::from_millis(20)),
            save: Duration::ZERO,
            ..Options::default()
        },
        last_good: store,
        clock: Arc::new(ManualClock::new(UNIX_EPOCH + Duration::from_secs(1_000_000))),
        connector: Connector::new(move |_| TcpStream::connect(*target.lock())),
        metrics: Metrics::default(),
        tasks: tasks.clone(),
    };
    let (federation, changes) = Federation::new(parts);
    let name = format!("default.{client}.federation.isthmus.internal");
    let service = Service::new(federation.clone(), move |_| vec![name.clone()]);
    let server = tonic::transport::Server::builder().add_service(FederationServer::new(service));
    let signal = tasks.signal();
    tasks.spawn_infallible("server", async move {
        tokio::select! {
            served = server.serve_with_incoming(TcpListenerStream::new(listener)) => served.unwrap(),
            () = signal.cut() => {}
        }
    });
    Hub { federation, changes, address, tasks }
}

impl Hub {
    async fn next(&mut self) -> PeerChange {
        timeout(LONG, self.changes.recv()).await.expect("a change in time").unwrap().1
    }

    /// Changes until the peer has said everything, the mark included.
    async fn until_synced(&mut self) -> Vec<PeerChange> {
        let mut changes = vec![];
        while changes.last() != Some(&PeerChange::Synced) {
            changes.push(self.next().await);
        }
        changes
    }

    /// Looks until the status is as wanted.
    async fn status(&self, wanted: impl Fn(&PeerStatus) -> bool) -> PeerStatus {
        let found = async {
            let mut moved = self.federation.status_moved();
            loop {
                moved.borrow_and_update();
                if let Some(status) = self.federation.status().into_iter().find(|status| wanted(status)) {
                    return status;
                }
                moved.changed().await.unwrap();
            }
        };
        timeout(LONG, found).await.unwrap_or_else(|_| panic!("status stays {:?}", self.federation.status()))
    }
}

fn calling(cluster: &str) -> PeerConfig {
    PeerConfig { gateways: vec!["192.0.2.1:15012".into()], ..peer(cluster) }
}

fn nowhere() -> Arc<Mutex<SocketAddr>> {
    Arc::new(Mutex::new("127.0.0.1:1".parse().unwrap()))
}

fn memory() -> Arc<Memory> {
    Arc::default()
}

fn services(changes: &[PeerChange]) -> Vec<ServiceExport> {
    let service = |change: &PeerChange| match change {
        PeerChange::Service(service) => Some(service.clone()),
        _ => None,
    };
    changes.iter().filter_map(service).collect()
}

/// East waits, west calls.
async fn pair(east_store: Arc<Memory>, west_store: Arc<Memory>) -> (Hub, Hub, Arc<Mutex<SocketAddr>>) {
    let east = hub("east", "west", &nowhere(), east_store).await;
    let target = Arc::new(Mutex::new(east.address));
    let west = hub("west", "east", &target, west_store).await;
    east.federation.set_peers(vec![peer("west")]);
    west.federation.set_peers(vec![calling("east")]);
    (east, west, target)
}

#[tokio::test]
async fn two_hubs_tell_each_other_what_they_export() {
    let (mut east, mut west, _) = pair(memory(), memory()).await;
    east.federation.set_exports(&[export("a", 1)], &[gateway("east", "192.0.2.1")]);
    west.federation.set_exports(&[export("b", 2)], &[]);
    let heard = west.until_synced().await;
    assert!(heard.contains(&PeerChange::Gateway(gateway("east", "192.0.2.1"))));
    assert_eq!(services(&heard), [export("a", 1)]);
    assert_eq!(services(&east.until_synced().await), [export("b", 2)]);
    east.federation.set_exports(&[export("a", 3)], &[]);
    assert_eq!(west.next().await, PeerChange::GatewayRemoved(gateway("east", "192.0.2.1")));
    assert_eq!(west.next().await, PeerChange::Service(export("a", 3)));
    let status = west.status(|status| status.state == "Connected" && status.services == 1).await;
    assert!(status.synced && status.age_ms == Some(0), "{status:?}");
    east.status(|status| status.state == "Connected" && status.synced).await;
}

#[tokio::test]
async fn a_restarted_hub_serves_its_last_good_imports_while_the_peer_is_away() {
    let store = memory();
    let (east, mut west, target) = pair(memory(), Arc::clone(&store)).await;
    east.federation.set_exports(&[export("a", 1)], &[]);
    west.until_synced().await;
    east.tasks.drain().immediate();
    west.tasks.drain().immediate();
    west.tasks.finished().await;
    let mut again = hub("west", "east", &target, store).await;
    again.federation.set_peers(vec![calling("east")]);
    assert_eq!(again.until_synced().await, [PeerChange::Service(export("a", 1)), PeerChange::Synced]);
    let status = again.status(|status| status.error.is_some()).await;
    assert_eq!((status.state.as_str(), status.synced, status.services), ("Connecting", true, 1));
    assert!(status.age_ms.is_some());

    // The peer comes back with other exports: the difference is told, the withdrawal by its own word.
    let east = hub("east", "west", &nowhere(), memory()).await;
    *target.lock() = east.address;
    east.federation.set_peers(vec![peer("west")]);
    east.federation.set_exports(&[export("b", 1)], &[]);
    assert_eq!(again.until_synced().await, [PeerChange::Service(export("b", 1)), PeerChange::Synced]);
    let host = "a.default.svc.cluster.local".parse().unwrap();
    assert_eq!(again.next().await, PeerChange::ServiceRemoved(host));
}

#[tokio::test]
async fn a_removed_link_takes_its_records_along_and_a_new_one_starts_anew() {
    let store = memory();
    let (east, mut west, _) = pair(memory(), Arc::clone(&store)).await;
    east.federation.set_exports(&[export("a", 1)], &[]);
    west.until_synced().await;
    west.federation.set_peers(vec![]);
    assert_eq!(west.next().await, PeerChange::Unlinked);
    assert!(store.load("peer-east").unwrap().is_none());
    assert!(west.federation.status().is_empty());
    west.federation.set_peers(vec![calling("east")]);
    assert_eq!(services(&west.until_synced().await), [export("a", 1)]);
}

#[tokio::test]
async fn a_refusal_tells_both_sides_why() {
    let east = hub("east", "west", &nowhere(), memory()).await;
    let west = hub("west", "east", &Arc::new(Mutex::new(east.address)), memory()).await;
    west.federation.set_peers(vec![calling("east")]);
    let status = west.status(|status| status.state == "Refused").await;
    assert!(status.error.as_deref().unwrap().contains("has no Peer west"), "{status:?}");
    // Consent needs the secret.
    let hash = "41ef4bb0b23661e66301aac36066912dac037827b4ae63a7b1165a5aa93ed4eb";
    east.federation.set_peers(vec![PeerConfig { secret_sha256: Some(hash.into()), ..peer("west") }]);
    let wants = |status: &PeerStatus| {
        status.error.as_deref().is_some_and(|error| error.contains("needs the link's secret"))
    };
    west.status(wants).await;
    east.status(wants).await;
    west.federation.set_peers(vec![PeerConfig { secret: Some("open sesame".into()), ..calling("east") }]);
    west.status(|status| status.state == "Connected").await;
    // Later contacts need it no more.
    west.federation.set_peers(vec![calling("east")]);
    west.status(|status| status.state != "Connected").await;
    west.status(|status| status.state == "Connected").await;
}

#[tokio::test]
async fn when_both_sides_call_one_stream_stays() {
    let (to_east, to_west) = (nowhere(), nowhere());
    let mut east = hub("east", "west", &to_west, memory()).await;
    let mut west = hub("west", "east", &to_east, memory()).await;
    (*to_east.lock(), *to_west.lock()) = (east.address, west.address);
    east.federation.set_peers(vec![calling("west")]);
    west.federation.set_peers(vec![calling("east")]);
    for round in 1..20 {
        east.federation.set_exports(&[export("a", round)], &[]);
        west.federation.set_exports(&[export("b", round)], &[]);
        while west.next().await != PeerChange::Service(export("a", round)) {}
        while east.next().await != PeerChange::Service(export("b", round)) {}
    }
}

#[tokio::test]
async fn a_peer_that_exports_in_another_clusters_name_is_refused_and_counted() {
    let mut east = hub("east", "west", &nowhere(), memory()).await;
    east.federation.set_peers(vec![peer("west")]);
    let channel = tonic::transport::Channel::from_shared(format!("http://{}", east.address)).unwrap();
    let (frames, outgoing) = mpsc::channel(8);
    let mut client = FederationClient::new(channel.connect().await.unwrap());
    let mut answers = client.link(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
    let send = |body| frames.send(Frame { body: Some(body) });
    let hello = Hello {
        mesh_id: "mesh1".into(),
        cluster: "west".into(),
        revision: "default".into(),
        epoch: 5,
        ..Hello::default()
    };
    send(Body::Hello(hello)).await.unwrap();
    let upsert = |cluster: &str, name: &str| {
        let record = isthmus_federation::record::service(&me(cluster).owner(), &export(name, 1));
        Body::Change(Change { cursor: 1, change: Some(change::Change::Upsert(record)) })
    };
    send(upsert("north", "stolen")).await.unwrap();
    send(upsert("west", "own")).await.unwrap();
    let synced = isthmus_proto::federation::Synced { epoch: 5, cursor: 1 };
    send(Body::Synced(synced)).await.unwrap();
    assert_eq!(services(&east.until_synced().await), [export("own", 1)]);
    let ack = loop {
        if let Some(Body::Ack(ack)) = answers.message().await.unwrap().unwrap().body {
            break ack;
        }
    };
    assert!(ack.refusals[0].reason.contains("mesh1/north/default"), "{ack:?}");
    let status = east.status(|status| !status.refusals.is_empty()).await;
    assert!(status.refusals[0].contains("north"), "{status:?}");
}
