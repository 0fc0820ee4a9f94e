//! One stream to one peer: a state machine without I/O or clock.
//!
//! The caller feeds frames ([`Link::frame`]) and time ([`Link::tick`]), and takes frames to send while there is room for them
//! ([`Link::next`]): changes are read from the log as they can be sent, so a slow peer costs a cursor.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use isthmus_model::export::PeerChange;
use isthmus_proto::federation::{
    Ack, Change, Digest, Frame, Goodbye, Heartbeat, Held, Hello, Record, Refusal, Synced, change, frame::Body,
};
use prost::Message;

use crate::imports::Imports;
use crate::log::Log;
use crate::peer::{self, Me, PeerConfig};
use crate::record::{Key, check_owner};

/// Keys in one question.
const KEYS: usize = 500;
/// Refusals that wait to be told.
const REFUSALS: usize = 1000;
/// Changes that are acknowledged together; fewer wait for the next heartbeat.
const ACKNOWLEDGE: usize = 256;
/// Keys that one stream may ask about.
const ASKED: usize = 200_000;

/// Times, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Between heartbeats.
    pub heartbeat: u64,
    /// Without any frame, after which the stream counts as dead.
    pub silence: u64,
    /// From the start of a stream to the peer's hello.
    pub hello: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self { heartbeat: 3_000, silence: 15_000, hello: 10_000 }
    }
}

/// Which side called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// We did.
    Dialing,
    /// The peer did.
    Accepting,
}

/// Why a stream is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// One side does not accept the other. Trying again helps only after someone has changed something.
    Refused(String),
    /// It may be tried again at once.
    Closed(String),
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(reason) => write!(f, "refused: {reason}"),
            Self::Closed(reason) => f.write_str(reason),
        }
    }
}

/// What a frame led to.
#[derive(Debug, Default, PartialEq)]
pub struct Heard {
    /// To be applied, in order.
    pub changes: Vec<PeerChange>,
    /// The stream is over: send what [`Link::next`] still gives, then close it.
    pub ended: Option<Ended>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    AwaitHello,
    Open,
    Ended,
}

/// A new epoch of the peer's, until it has been said in full.
#[derive(Debug, Default)]
struct Staging {
    records: BTreeMap<Key, Option<Record>>,
    bytes: usize,
}

/// One stream.
#[derive(Debug)]
pub struct Link {
    role: Role,
    me: Me,
    peer: PeerConfig,
    /// DNS names in the peer's certificate.
    presented: Vec<String>,
    timing: Timing,
    limits: crate::imports::Limits,
    phase: Phase,
    opened_ms: u64,
    heard_ms: u64,
    // What we hear.
    their_epoch: u64,
    staging: Option<Staging>,
    their_synced: bool,
    // What we say.
    hello_said: bool,
    our_epoch: Option<u64>,
    resume: (u64, u64),
    said: u64,
    synced_said: bool,
    ack_due: bool,
    unacknowledged: usize,
    refusals: Vec<Refusal>,
    heartbeat_ms: u64,
    heartbeat_due: bool,
    questions: VecDeque<Key>,
    answers: VecDeque<Key>,
    goodbye: Option<String>,
    acknowledged: u64,
}

impl Link {
    /// A stream that has just opened. `presented` are the DNS names that TLS has verified.
    #[must_use]
    pub fn new(
        role: Role,
        me: Me,
        peer: PeerConfig,
        presented: Vec<String>,
        timing: Timing,
        limits: crate::imports::Limits,
        now_ms: u64,
    ) -> Self {
        Self {
            role,
            me,
            peer,
            presented,
            timing,
            limits,
            phase: Phase::AwaitHello,
            opened_ms: now_ms,
            heard_ms: now_ms,
            their_epoch: 0,
            staging: None,
            their_synced: false,
            hello_said: false,
            our_epoch: None,
            resume: (0, 0),
            said: 0,
            synced_said: false,
            ack_due: false,
            unacknowledged: 0,
            refusals: Vec::new(),
            heartbeat_ms: now_ms,
            heartbeat_due: false,
            questions: VecDeque::new(),
            answers: VecDeque::new(),
            goodbye: None,
            acknowledged: 0,
        }
    }

    /// Whether both sides have accepted each other.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Which side called.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Cursor of ours that the peer has applied.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Takes a frame in.
    pub fn frame(&mut self, frame: Frame, imports: &mut Imports, now_ms: u64) -> Heard {
        if self.phase == Phase::Ended {
            return Heard::default();
        }
        self.heard_ms = now_ms;
        match (self.phase, frame.body) {
            (Phase::AwaitHello, Some(Body::Hello(hello))) => self.greeted(&hello, imports, now_ms),
            (Phase::AwaitHello, Some(Body::Goodbye(goodbye))) => self.end(Ended::Refused(goodbye.reason)),
            (Phase::AwaitHello, _) => self.refuse("the first frame must be a hello".into()),
            (_, Some(body)) => {
                imports.heard(now_ms);
                self.told(body, imports)
            }
            // A body of a newer release.
            (_, None) => Heard::default(),
        }
    }

    /// Takes the time in. Ends a stream on which nothing comes.
    pub fn tick(&mut self, now_ms: u64) -> Option<Ended> {
        let silent = now_ms.saturating_sub(self.heard_ms);
        match self.phase {
            Phase::Ended => None,
            Phase::AwaitHello if now_ms.saturating_sub(self.opened_ms) >= self.timing.hello => {
                self.refuse(format!("no hello within {} ms", self.timing.hello)).ended
            }
            Phase::AwaitHello => None,
            Phase::Open if silent >= self.timing.silence => {
                self.close(format!("nothing heard for {silent} ms")).ended
            }
            Phase::Open => {
                if now_ms >= self.heartbeat_ms {
                    self.heartbeat_ms = now_ms + self.timing.heartbeat;
                    self.heartbeat_due = true;
                    self.ack_due |= self.unacknowledged > 0;
                }
                None
            }
        }
    }

    /// Says goodbye: the caller has a reason to end the stream.
    pub fn leave(&mut self, reason: impl Into<String>) {
        self.close(reason.into());
    }

    /// The next frame to send, if there is one.
    pub fn next(&mut self, log: &Log, imports: &Imports, now_ms: u64) -> Option<Frame> {
        let body = self.next_body(log, imports, now_ms)?;
        Some(Frame { body: Some(body) })
    }

    fn next_body(&mut self, log: &Log, imports: &Imports, now_ms: u64) -> Option<Body> {
        if let Some(reason) = self.goodbye.take() {
            return Some(Body::Goodbye(Goodbye { reason }));
        }
        if self.phase == Phase::Ended {
            return None;
        }
        if !self.hello_said && (self.role == Role::Dialing || self.phase == Phase::Open) {
            self.hello_said = true;
            self.our_epoch = Some(log.epoch());
            return Some(Body::Hello(self.hello(log, imports)));
        }
        if self.phase != Phase::Open {
            return None;
        }
        if self.our_epoch != Some(log.epoch()) {
            self.leave("the log began a new epoch");
            return self.next_body(log, imports, now_ms);
        }
        if self.resume == (log.epoch(), self.resume.1) && self.resume.1 <= log.cursor() {
            self.said = self.said.max(self.resume.1);
        }
        if std::mem::take(&mut self.ack_due) {
            self.unacknowledged = 0;
            let cursor = imports.position().1;
            return Some(Body::Ack(Ack { cursor, refusals: std::mem::take(&mut self.refusals) }));
        }
        if !self.questions.is_empty() {
            let count = self.questions.len().min(KEYS);
            let keys = self.questions.drain(..count).map(|key| key.to_wire()).collect();
            return Some(Body::Held(Held { keys }));
        }
        if let Some(key) = self.answers.pop_front() {
            // Either way by its owner's word, and at no position of its own.
            return Some(Body::Change(Change { cursor: self.said, change: Some(log.answer(&key)) }));
        }
        if let Some(change) = log.after(self.said) {
            self.said = change.cursor;
            return Some(Body::Change(change));
        }
        if log.is_complete() && !self.synced_said {
            self.synced_said = true;
            return Some(Body::Synced(Synced { epoch: log.epoch(), cursor: log.cursor() }));
        }
        if std::mem::take(&mut self.heartbeat_due) {
            let (mut cursor, mut digests) = (0, Vec::new());
            if self.synced_said {
                (cursor, digests) = (log.cursor(), log.digests().to_vec());
                if digests.is_empty() {
                    // Truly none, which is not the same as not known yet.
                    digests.push(Digest::default());
                }
            }
            return Some(Body::Heartbeat(Heartbeat { sent_ms: now_ms, cursor, digests }));
        }
        None
    }

    fn hello(&self, log: &Log, imports: &Imports) -> Hello {
        let (resume_epoch, resume_cursor) = imports.position();
        let secret = self.peer.secret.as_ref().filter(|_| self.role == Role::Dialing);
        Hello {
            mesh_id: self.me.mesh_id.to_string(),
            cluster: self.me.cluster.to_string(),
            revision: self.me.revision.to_string(),
            network: self.me.network.to_string(),
            epoch: log.epoch(),
            resume_epoch,
            resume_cursor,
            link_secret: secret.map(ToString::to_string).unwrap_or_default(),
            software: concat!("isthmus/", env!("CARGO_PKG_VERSION")).to_string(),
        }
    }

    fn greeted(&mut self, hello: &Hello, imports: &mut Imports, now_ms: u64) -> Heard {
        let accepting = self.role == Role::Accepting;
        if let Err(mismatch) = peer::check(&self.peer, &self.presented, hello, accepting, imports.proven()) {
            return self.refuse(mismatch.to_string());
        }
        if hello.epoch == 0 {
            return self.refuse("hello carries no epoch".into());
        }
        if let Some(issued) = self.peer.secret_sha256.as_ref().filter(|_| accepting) {
            imports.prove(issued);
        }
        imports.heard(now_ms);
        self.phase = Phase::Open;
        self.their_epoch = hello.epoch;
        self.resume = (hello.resume_epoch, hello.resume_cursor);
        // Only a peer that still has the log which we know can go on where we are.
        self.staging = (imports.position().0 != hello.epoch).then(Staging::default);
        self.heartbeat_ms = now_ms + self.timing.heartbeat;
        Heard::default()
    }

    fn told(&mut self, body: Body, imports: &mut Imports) -> Heard {
        let mut heard = Heard::default();
        match body {
            Body::Hello(_) => return self.close("a second hello on one stream".into()),
            Body::Change(change) => {
                heard.changes.extend(self.change(change, imports));
                let most = self.limits.records.saturating_mul(2);
                if self.staging.as_ref().is_some_and(|staging| staging.records.len() > most) {
                    return self.close(format!("more than {most} records are more than this side takes"));
                }
            }
            Body::Synced(synced) => return self.synced(&synced, imports),
            Body::Ack(ack) => {
                self.acknowledged = self.acknowledged.max(ack.cursor);
                for refusal in &ack.refusals {
                    tracing::warn!(
                        peer = %self.peer.cluster, key = refusal.key, reason = refusal.reason,
                        "the peer refuses a record of ours"
                    );
                }
            }
            Body::Heartbeat(heartbeat) => return self.compare(&heartbeat.digests, heartbeat.cursor, imports),
            Body::Goodbye(goodbye) => return self.end(Ended::Closed(goodbye.reason)),
            Body::Held(held) => {
                if self.answers.len() + held.keys.len() > ASKED {
                    return self.close(format!("asked about more than {ASKED} records"));
                }
                self.answers.extend(held.keys.iter().map(Key::from));
            }
        }
        heard
    }

    fn change(&mut self, change: Change, imports: &mut Imports) -> Option<PeerChange> {
        self.unacknowledged += 1;
        self.ack_due |= self.unacknowledged >= ACKNOWLEDGE;
        let mut applied = None;
        match change.change {
            Some(change::Change::Upsert(record)) => {
                let key = Key { kind: record.r#type, key: record.key.as_str().into() };
                match &mut self.staging {
                    // A record in another's name would take the place of the owner's own under its key.
                    Some(staging) if record.owner.as_ref() == Some(imports.owner()) => {
                        staging.put(key, Some(record), self.limits);
                    }
                    _ => match imports.upsert(record) {
                        Ok(change) => applied = change,
                        Err(reason) => self.refusal(&key, reason.to_string()),
                    },
                }
            }
            Some(change::Change::Tombstone(tombstone)) => {
                let key = Key { kind: tombstone.r#type, key: tombstone.key.as_str().into() };
                if let Err(reason) = check_owner(tombstone.owner.as_ref(), imports.owner()) {
                    self.refusal(&key, reason.to_string());
                } else if let Some(staging) = &mut self.staging {
                    staging.put(key, None, self.limits);
                } else {
                    applied = imports.remove(&key);
                }
            }
            // A change of a newer release.
            None => {}
        }
        if self.staging.is_none() {
            imports.reach(change.cursor);
        }
        applied
    }

    fn synced(&mut self, synced: &Synced, imports: &mut Imports) -> Heard {
        if synced.epoch != self.their_epoch {
            return self
                .close(format!("synced says epoch {}, hello said {}", synced.epoch, self.their_epoch));
        }
        let mut heard = Heard::default();
        self.ack_due = true;
        self.their_synced = true;
        match self.staging.take() {
            None => imports.reach(synced.cursor),
            Some(staging) => {
                let mentioned: BTreeSet<Key> = staging.records.keys().cloned().collect();
                imports.begin(synced.epoch, synced.cursor, &mentioned);
                for (key, record) in staging.records {
                    match record.map(|record| imports.upsert(record)) {
                        None => heard.changes.extend(imports.remove(&key)),
                        Some(Ok(change)) => heard.changes.extend(change),
                        Some(Err(reason)) => self.refusal(&key, reason.to_string()),
                    }
                }
            }
        }
        self.questions = imports.unconfirmed().iter().cloned().collect();
        imports.synced();
        heard.changes.push(PeerChange::Synced);
        heard
    }

    /// Compares what the peer says that it told with what we have of it.
    fn compare(&mut self, digests: &[Digest], cursor: u64, imports: &mut Imports) -> Heard {
        if self.questions.is_empty() && !imports.unconfirmed().is_empty() {
            // Answers come before the heartbeat that follows a question: what is still open was lost, or is just on its way.
            self.questions = imports.unconfirmed().iter().cloned().collect();
        }
        // Without digests the peer has not said everything yet; with digests it believes that it has.
        let Some(ours) = imports.digests().filter(|_| !digests.is_empty()) else { return Heard::default() };
        let theirs = digests.iter().filter(|digest| digest.count > 0);
        if self.their_synced && cursor == imports.position().1 && theirs.eq(&ours) {
            return Heard::default();
        }
        imports.ask_for_everything();
        tracing::error!(
            peer = %self.peer.cluster, cursor, ours = ?ours, theirs = ?digests,
            "what we hold differs from what the peer told, asking for everything"
        );
        self.close("records differ from the digest; asking for everything".into())
    }

    fn refusal(&mut self, key: &Key, reason: String) {
        tracing::warn!(peer = %self.peer.cluster, %key, reason, "refused a record");
        self.ack_due = true;
        if self.refusals.len() < REFUSALS {
            self.refusals.push(Refusal { r#type: key.kind, key: key.key.to_string(), reason });
        }
    }

    fn refuse(&mut self, reason: String) -> Heard {
        self.goodbye = Some(reason.clone());
        self.end(Ended::Refused(reason))
    }

    fn close(&mut self, reason: String) -> Heard {
        self.goodbye = Some(reason.clone());
        self.end(Ended::Closed(reason))
    }

    fn end(&mut self, ended: Ended) -> Heard {
        self.phase = Phase::Ended;
        self.staging = None;
        Heard { changes: Vec::new(), ended: Some(ended) }
    }
}

impl Staging {
    /// Keeps a record until the epoch has been said in full. Above the limits the key counts as mentioned and its record, which
    /// the table would refuse for the same reason, is cut down to its envelope.
    fn put(&mut self, key: Key, record: Option<Record>, limits: crate::imports::Limits) {
        let size = record.as_ref().map_or(0, Message::encoded_len);
        let full = self.records.len() >= limits.records || self.bytes + size > limits.bytes;
        let record = if full { record.map(|record| Record { body: None, ..record }) } else { record };
        self.bytes += if full { 0 } else { size };
        self.records.insert(key, record);
    }
}

#[cfg(test)]
mod tests;
