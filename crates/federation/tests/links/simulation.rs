//! Two control planes and a wire that breaks, driven by chance: once it is quiet, the importer has what the exporter exports; and on
//! the way nothing went away that its owner had not withdrawn.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use isthmus_federation::imports::{Imports, Limits};
use isthmus_federation::link::{Link, Role, Timing};
use isthmus_federation::log::Log;
use isthmus_federation::{Me, PeerConfig, record};
use isthmus_model::export::PeerChange;
use isthmus_proto::federation::{Change, Frame, Owner, Tombstone, change, frame::Body};
use proptest::prelude::*;

use crate::words::{export, me, peer};

/// What may happen.
#[derive(Debug, Clone)]
enum Event {
    /// Side 0 or 1 states these exports: name number to capacity.
    State(usize, BTreeMap<u8, u32>),
    /// Up to this many frames travel each way.
    Travel(u8),
    /// Only frames from this side travel: the other one is slow.
    OneWay(usize, u8),
    /// This side puts frames on the wire that do not arrive yet.
    Say(usize, u8),
    /// The stream breaks; frames on their way are lost.
    Break,
    /// This side's process starts again with what it saved last, and states its exports later.
    Restart(usize),
    /// This side writes its table to disk.
    Save(usize),
    /// A frame from this side is lost though the stream goes on: a bug that digests must find.
    Drop(usize),
    /// This side sends a record and a tombstone in another's name.
    Lie(usize, u8),
    /// Time passes.
    Pass(u16),
}

fn event() -> impl Strategy<Value = Event> {
    let side = 0..2usize;
    prop_oneof![
        4 => (side.clone(), proptest::collection::btree_map(0..8u8, 1..4u32, 0..6)).prop_map(|(s, e)| Event::State(s, e)),
        6 => (1..12u8).prop_map(Event::Travel),
        2 => (side.clone(), 1..12u8).prop_map(|(s, n)| Event::OneWay(s, n)),
        3 => (side.clone(), 1..6u8).prop_map(|(s, n)| Event::Say(s, n)),
        2 => Just(Event::Break),
        1 => side.clone().prop_map(Event::Restart),
        2 => side.clone().prop_map(Event::Save),
        1 => side.clone().prop_map(Event::Drop),
        1 => (side, 0..8u8).prop_map(|(s, n)| Event::Lie(s, n)),
        2 => (1..5000u16).prop_map(Event::Pass),
    ]
}

struct Side {
    me: Me,
    peer: PeerConfig,
    log: Log,
    imports: Imports,
    saved: Vec<u8>,
    link: Link,
    wire: VecDeque<Frame>,
    /// What its users see of the other side: the changes applied.
    table: BTreeMap<String, u32>,
    exports: BTreeMap<u8, u32>,
    stated: bool,
    /// Names that it has withdrawn by its own word at least once.
    withdrawn: BTreeSet<String>,
}

fn link(me: &Me, peer: &PeerConfig, role: Role, now: u64) -> Link {
    let names = vec![peer.name().to_string()];
    Link::new(role, me.clone(), peer.clone(), names, Timing::default(), Limits::default(), now)
}

struct World {
    sides: [Side; 2],
    now: u64,
    epoch: u64,
}

fn name(number: u8) -> String {
    format!("s{number}")
}

impl World {
    fn new() -> Self {
        let side = |cluster: &str, other: &str, role, epoch| {
            let (me, peer) = (me(cluster), peer(other));
            let mut imports = Imports::new(peer.cluster.clone(), peer.owner(), Limits::default());
            Side {
                log: Log::new(me.owner(), epoch),
                saved: imports.save(),
                imports,
                link: link(&me, &peer, role, 0),
                wire: VecDeque::new(),
                table: BTreeMap::new(),
                exports: BTreeMap::new(),
                stated: false,
                withdrawn: BTreeSet::new(),
                me,
                peer,
            }
        };
        let sides = [side("east", "west", Role::Dialing, 1), side("west", "east", Role::Accepting, 2)];
        Self { sides, now: 0, epoch: 3 }
    }

    fn reconnect(&mut self) {
        let roles = [Role::Dialing, Role::Accepting];
        for (side, role) in self.sides.iter_mut().zip(roles) {
            side.wire.clear();
            side.link = link(&side.me, &side.peer, role, self.now);
        }
    }

    fn state(&mut self, at: usize, exports: BTreeMap<u8, u32>) {
        let side = &mut self.sides[at];
        for gone in (0..8).filter(|number| !exports.contains_key(number)) {
            side.withdrawn.insert(name(gone));
        }
        let list: Vec<_> = exports.iter().map(|(number, ready)| export(&name(*number), *ready)).collect();
        side.log.state(&list, &[]);
        (side.exports, side.stated) = (exports, true);
    }

    /// Puts one frame of this side on the wire.
    fn say(&mut self, at: usize) -> bool {
        let side = &mut self.sides[at];
        let Some(frame) = side.link.next(&side.log, &side.imports, self.now) else { return false };
        side.wire.push_back(frame);
        true
    }

    /// Lets one frame of this side arrive.
    fn arrive(&mut self, at: usize) -> bool {
        let Some(frame) = self.sides[at].wire.pop_front() else { return false };
        let hearer = &mut self.sides[1 - at];
        let heard = hearer.link.frame(frame, &mut hearer.imports, self.now);
        let (changes, ended) = (heard.changes, heard.ended.is_some());
        changes.into_iter().for_each(|change| self.apply(1 - at, change));
        if ended {
            self.reconnect();
        }
        true
    }

    fn apply(&mut self, at: usize, change: PeerChange) {
        let withdrawn = self.sides[1 - at].withdrawn.clone();
        let table = &mut self.sides[at].table;
        match change {
            PeerChange::Service(service) => {
                table.insert(service.name.to_string(), service.capacity[0].ready);
            }
            PeerChange::ServiceRemoved(host) => {
                let gone = host.as_str().split('.').next().unwrap().to_string();
                assert!(withdrawn.contains(&gone), "{gone} went away without its owner's word");
                table.remove(&gone);
            }
            PeerChange::Synced => {}
            other => panic!("unexpected {other:?}"),
        }
    }

    fn travel(&mut self, at: usize) -> bool {
        let said = self.say(at);
        self.arrive(at) || said
    }

    fn pass(&mut self, ms: u64) {
        self.now += ms;
        let mut ended = false;
        for side in &mut self.sides {
            ended |= side.link.tick(self.now).is_some();
        }
        if ended {
            self.reconnect();
        }
    }

    fn restart(&mut self, at: usize) {
        self.epoch += 1;
        let side = &mut self.sides[at];
        side.log = Log::new(side.me.owner(), self.epoch);
        side.stated = false;
        side.imports =
            Imports::load(side.peer.cluster.clone(), side.peer.owner(), Limits::default(), &side.saved)
                .unwrap();
        side.table.clear();
        for change in side.imports.replay() {
            if let PeerChange::Service(service) = change {
                side.table.insert(service.name.to_string(), service.capacity[0].ready);
            }
        }
        self.reconnect();
    }

    fn lie(&mut self, at: usize, number: u8) {
        let owner = Owner { mesh_id: "mesh1".into(), cluster: "north".into(), revision: "default".into() };
        let record = record::service(&owner, &export(&name(number), 99));
        let key = record.key.clone();
        let tombstone = Tombstone { owner: Some(owner), r#type: record.r#type, key };
        let side = &mut self.sides[at];
        // Only a peer that was let in can lie about records.
        if side.link.is_open() {
            for change in [change::Change::Upsert(record), change::Change::Tombstone(tombstone)] {
                let change = Change { cursor: 0, change: Some(change) };
                side.wire.push_back(Frame { body: Some(Body::Change(change)) });
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::State(at, exports) => self.state(at, exports),
            Event::Travel(frames) => {
                for _ in 0..frames {
                    self.travel(0);
                    self.travel(1);
                }
            }
            Event::OneWay(at, frames) => {
                for _ in 0..frames {
                    self.travel(at);
                }
            }
            Event::Say(at, frames) => {
                for _ in 0..frames {
                    self.say(at);
                }
            }
            Event::Break => self.reconnect(),
            Event::Restart(at) => self.restart(at),
            Event::Save(at) => self.sides[at].saved = self.sides[at].imports.save(),
            Event::Drop(at) => {
                self.say(at);
                self.sides[at].wire.pop_back();
            }
            Event::Lie(at, number) => self.lie(at, number),
            Event::Pass(ms) => self.pass(u64::from(ms)),
        }
    }

    /// Trouble ends: everyone states its exports, and time passes until digests have been compared often enough.
    fn quiet(&mut self) {
        for at in [0, 1] {
            if !self.sides[at].stated {
                let exports = self.sides[at].exports.clone();
                self.state(at, exports);
            }
        }
        for _ in 0..20 {
            while self.travel(0) | self.travel(1) {}
            self.pass(3_000);
        }
        while self.travel(0) | self.travel(1) {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_importer_ends_with_what_the_exporter_exports(events in proptest::collection::vec(event(), 0..80)) {
        let mut world = World::new();
        for event in events {
            world.happen(event);
        }
        world.quiet();
        for at in [0, 1] {
            let exported: BTreeMap<String, u32> =
                world.sides[1 - at].exports.iter().map(|(number, ready)| (name(*number), *ready)).collect();
            prop_assert_eq!(&world.sides[at].table, &exported);
            prop_assert!(world.sides[at].imports.is_synced());
        }
    }
}
