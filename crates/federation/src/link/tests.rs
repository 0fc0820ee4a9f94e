use super::*;
use crate::imports::Limits;
use crate::record::tests::{export, gateway, owner};
use isthmus_model::export::ServiceExport;

/// One control plane: its log and its table of the other.
struct Side {
    me: Me,
    peer: PeerConfig,
    log: Log,
    imports: Imports,
}

fn side(me: &str, peer: &str) -> Side {
    let me = Me {
        mesh_id: "mesh1".into(),
        cluster: me.parse().unwrap(),
        revision: "default".into(),
        network: "net".parse().unwrap(),
    };
    let peer = PeerConfig {
        cluster: peer.parse().unwrap(),
        mesh_id: "mesh1".into(),
        revision: "default".into(),
        gateways: vec![],
        secret: None,
        secret_sha256: None,
    };
    let imports = Imports::new(peer.cluster.clone(), peer.owner(), Limits::default());
    Side { log: Log::new(me.owner(), 1), me, peer, imports }
}

impl Side {
    fn link(&self, role: Role) -> Link {
        let names = vec![self.peer.name().to_string()];
        Link::new(role, self.me.clone(), self.peer.clone(), names, Timing::default(), Limits::default(), 0)
    }

    fn hosts(&self) -> Vec<String> {
        let service = |change| match change {
            PeerChange::Service(service) => Some(service.name.to_string()),
            _ => None,
        };
        self.imports.replay().into_iter().filter_map(service).collect()
    }
}

/// East exports, west imports; both ends of one stream.
struct Pair {
    east: Side,
    west: Side,
    e: Link,
    w: Link,
    now: u64,
    ended: Vec<Ended>,
    /// Changes that west was told of.
    changes: Vec<PeerChange>,
}

impl Pair {
    fn new() -> Self {
        let (east, west) = (side("east", "west"), side("west", "east"));
        let (e, w) = (east.link(Role::Dialing), west.link(Role::Accepting));
        Self { east, west, e, w, now: 0, ended: vec![], changes: vec![] }
    }

    fn export(&mut self, services: &[ServiceExport]) {
        self.east.log.state(services, &[]);
    }

    /// One frame each way at most; whether there was one.
    fn step(&mut self) -> bool {
        let mut moved = false;
        if let Some(frame) = self.e.next(&self.east.log, &self.east.imports, self.now) {
            let heard = self.w.frame(frame, &mut self.west.imports, self.now);
            self.changes.extend(heard.changes);
            self.ended.extend(heard.ended);
            moved = true;
        }
        if let Some(frame) = self.w.next(&self.west.log, &self.west.imports, self.now) {
            let heard = self.e.frame(frame, &mut self.east.imports, self.now);
            self.ended.extend(heard.ended);
            moved = true;
        }
        moved
    }

    fn settle(&mut self) {
        while self.step() {}
    }

    /// The stream breaks and another one opens.
    fn reconnect(&mut self) {
        (self.e, self.w) = (self.east.link(Role::Dialing), self.west.link(Role::Accepting));
    }

    /// East's process starts again, with nothing but its epoch.
    fn restart_east(&mut self) {
        self.east.log = Log::new(self.east.me.owner(), self.east.log.epoch() + 1);
        self.reconnect();
    }

    fn pass(&mut self, ms: u64) {
        self.now += ms;
        self.ended.extend(self.e.tick(self.now));
        self.ended.extend(self.w.tick(self.now));
        self.settle();
    }
}

#[test]
fn exports_arrive_then_changes_then_withdrawals() {
    let mut pair = Pair::new();
    pair.export(&[export("a", 1), export("b", 1)]);
    pair.settle();
    assert_eq!(pair.west.hosts(), ["a", "b"]);
    assert_eq!(pair.changes.last(), Some(&PeerChange::Synced));
    pair.changes.clear();
    pair.export(&[export("a", 2)]);
    pair.settle();
    let host = "b.default.svc.cluster.local".parse().unwrap();
    assert_eq!(pair.changes, [PeerChange::ServiceRemoved(host), PeerChange::Service(export("a", 2))]);
    pair.pass(4000);
    assert_eq!(pair.e.acknowledged(), pair.east.log.cursor());
    assert_eq!(pair.ended, []);
}

#[test]
fn nothing_is_said_of_exports_that_were_not_stated() {
    let mut pair = Pair::new();
    pair.settle();
    assert!(pair.e.is_open() && pair.w.is_open());
    assert!(!pair.west.imports.is_synced());
    pair.export(&[]);
    pair.settle();
    assert!(pair.west.imports.is_synced(), "stated to be none, which is not unknown");
}

#[test]
fn a_broken_stream_resumes_at_its_cursor() {
    let mut pair = Pair::new();
    pair.export(&[export("a", 1), export("b", 1)]);
    pair.settle();
    pair.changes.clear();
    pair.reconnect();
    pair.export(&[export("a", 1), export("b", 2)]);
    pair.settle();
    assert_eq!(pair.changes, [PeerChange::Service(export("b", 2)), PeerChange::Synced]);
}

#[test]
fn a_restarted_owner_replaces_nothing_until_it_has_said_everything() {
    let mut pair = Pair::new();
    pair.export(&[export("a", 1), export("b", 1)]);
    pair.settle();
    pair.restart_east();
    pair.settle();
    assert_eq!(pair.west.hosts(), ["a", "b"], "it knows nothing yet");
    pair.changes.clear();
    pair.export(&[export("a", 2), export("c", 1)]);
    // Hello both ways, then the first record alone.
    pair.step();
    assert_eq!(pair.changes, []);
    pair.reconnect();
    pair.step();
    pair.step();
    assert_eq!(pair.changes, [], "cut off half-way");
    pair.settle();
    assert_eq!(pair.west.hosts(), ["a", "c"], "what it withdrew while it was down is told by its own word");
}

#[test]
fn an_owner_that_comes_back_deletes_nothing_that_it_still_exports() {
    let mut pair = Pair::new();
    pair.export(&[export("a", 1), export("b", 1)]);
    pair.settle();
    pair.changes.clear();
    pair.restart_east();
    pair.export(&[export("a", 1), export("b", 1)]);
    pair.settle();
    assert_eq!(pair.changes, [PeerChange::Synced]);
}

#[test]
fn records_of_another_owner_are_refused_and_the_rest_goes_on() {
    let mut pair = Pair::new();
    pair.export(&[export("mine", 1)]);
    pair.settle();
    let lie = |export: &ServiceExport| {
        let record = crate::record::service(&owner("north"), export);
        Frame { body: Some(Body::Change(Change { cursor: 0, change: Some(change::Change::Upsert(record)) })) }
    };
    for frame in [lie(&export("theirs", 1)), lie(&export("mine", 9))] {
        assert_eq!(pair.w.frame(frame, &mut pair.west.imports, 0), Heard::default());
    }
    let tombstone = change::Change::Tombstone(isthmus_proto::federation::Tombstone {
        owner: Some(owner("north")),
        r#type: 1,
        key: "mine.default.svc.cluster.local".into(),
    });
    let frame = Frame { body: Some(Body::Change(Change { cursor: 0, change: Some(tombstone) })) };
    assert_eq!(pair.w.frame(frame, &mut pair.west.imports, 0), Heard::default());
    let Some(Body::Ack(ack)) = pair.w.next_body(&pair.west.log, &pair.west.imports, 0) else {
        panic!("refusals are told at once");
    };
    assert_eq!(ack.refusals.len(), 3);
    assert!(ack.refusals[0].reason.contains("mesh1/north/default"), "{}", ack.refusals[0].reason);
    pair.export(&[export("mine", 2)]);
    pair.settle();
    assert_eq!(pair.west.imports.replay()[0], PeerChange::Service(export("mine", 2)));
    pair.pass(4000);
    assert_eq!(pair.ended, [], "a lie is no divergence");
}

#[test]
fn a_peer_that_is_someone_else_is_refused_in_both_directions() {
    let mut pair = Pair::new();
    pair.east.me.cluster = "north".parse().unwrap();
    pair.reconnect();
    pair.settle();
    let reason = r#"hello says cluster "north", the link is with cluster "east""#.to_string();
    assert_eq!(pair.ended, [Ended::Refused(reason.clone()), Ended::Refused(reason)]);

    let mut pair = Pair::new();
    pair.w.presented = vec!["default.north.federation.isthmus.internal".into()];
    pair.settle();
    assert!(matches!(&pair.ended[0], Ended::Refused(reason) if reason.contains("default.east.federation")));
}

#[test]
fn silence_ends_the_stream_and_changes_nothing() {
    let mut pair = Pair::new();
    pair.export(&[export("a", 1)]);
    pair.settle();
    for _ in 0..10 {
        pair.pass(3000);
    }
    assert_eq!(pair.ended, [], "heartbeats keep it");
    pair.now += 15_000;
    assert!(matches!(pair.w.tick(pair.now), Some(Ended::Closed(reason)) if reason.contains("15000 ms")));
    assert_eq!(pair.west.hosts(), ["a"]);
}

#[test]
fn a_peer_that_never_says_hello_is_let_go() {
    let mut pair = Pair::new();
    assert_eq!(pair.w.tick(9_999), None);
    assert!(matches!(pair.w.tick(10_000), Some(Ended::Refused(_))));
}

#[test]
fn a_lost_change_is_found_by_the_next_heartbeat_and_healed() {
    let mut pair = Pair::new();
    pair.export(&[export("a", 1), export("b", 1)]);
    pair.settle();
    pair.export(&[export("a", 2), export("b", 1)]);
    // This frame never arrives.
    assert!(pair.e.next(&pair.east.log, &pair.east.imports, 0).is_some());
    pair.pass(4000);
    assert!(matches!(&pair.ended[0], Ended::Closed(reason) if reason.contains("digest")), "{:?}", pair.ended);
    assert_eq!(pair.west.hosts(), ["a", "b"], "nothing is lost meanwhile");
    pair.ended.clear();
    pair.reconnect();
    pair.settle();
    assert_eq!(pair.west.imports.replay()[0], PeerChange::Service(export("a", 2)));
    pair.pass(8000);
    assert_eq!(pair.ended, []);
}

#[test]
fn gateways_come_and_go_as_services_do() {
    let mut pair = Pair::new();
    pair.east.log.state(&[], &[gateway("192.0.2.1"), gateway("192.0.2.2")]);
    pair.settle();
    pair.changes.clear();
    pair.east.log.state(&[], &[gateway("192.0.2.2")]);
    pair.settle();
    assert_eq!(pair.changes, [PeerChange::GatewayRemoved(gateway("192.0.2.1"))]);
}

#[test]
fn a_tombstone_answers_only_what_is_not_exported() {
    let mut pair = Pair::new();
    pair.export(&[export("a", 1)]);
    pair.settle();
    pair.restart_east();
    pair.export(&[]);
    while !pair.w.questions.is_empty() || pair.e.answers.is_empty() {
        assert!(pair.step());
        if pair.west.imports.unconfirmed().is_empty() && pair.west.imports.is_empty() {
            panic!("answered before the question");
        }
    }
    // It is exported again before the answer was sent.
    pair.export(&[export("a", 1)]);
    pair.changes.clear();
    pair.settle();
    assert!(
        !pair.changes.iter().any(|change| matches!(change, PeerChange::ServiceRemoved(_))),
        "{:?}",
        pair.changes
    );
    assert_eq!(pair.west.hosts(), ["a"]);
    assert!(pair.west.imports.unconfirmed().is_empty());
}
