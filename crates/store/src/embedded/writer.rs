//! The one writer: takes what waits, checks it, commits it with one sync, then shows it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::State;
use super::disk::{Changes, Disk};
use crate::error::StoreError;
use crate::types::{Event, Expect, KeyValue, LeaseId, Write};

/// Requests in one commit at most.
const GROUP: usize = 512;

/// What a caller wants.
#[derive(Debug)]
pub(super) enum Request {
    Put { key: String, value: Bytes, expect: Expect, lease: Option<LeaseId> },
    Delete { key: String, expect: Expect },
    Grant { ttl: Duration },
    KeepAlive { lease: LeaseId },
    Revoke { lease: LeaseId },
}

/// What it gets.
#[derive(Debug)]
pub(super) enum Answer {
    Write(Write),
    Lease(LeaseId),
    Lives(bool),
}

/// One request and where its answer goes.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) request: Request,
    pub(super) reply: oneshot::Sender<Result<Answer, StoreError>>,
}

/// The writer's own state; `State` is what readers see.
pub(super) struct Writer {
    disk: Disk,
    state: Arc<RwLock<State>>,
    published: watch::Sender<u64>,
    /// When each lease ends.
    deadlines: BTreeMap<LeaseId, Instant>,
    last_lease: LeaseId,
}

/// Changes that are checked and not yet committed.
#[derive(Default)]
struct Group {
    revision: u64,
    events: Vec<Event>,
    overlay: HashMap<String, Option<KeyValue>>,
    leases: HashMap<LeaseId, Option<Duration>>,
}

impl Writer {
    pub(super) fn new(disk: Disk, state: Arc<RwLock<State>>, published: watch::Sender<u64>) -> Self {
        let last_lease = state.read().leases.keys().last().copied().unwrap_or(0);
        Self { disk, state, published, deadlines: BTreeMap::new(), last_lease }
    }

    /// Runs until every sender is gone.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_time().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(%error, "the store's writer cannot start; all writes will be refused");
                return;
            }
        };
        runtime.block_on(async {
            let now = Instant::now();
            self.deadlines =
                self.state.read().leases.iter().map(|(lease, ttl)| (*lease, now + *ttl)).collect();
            let mut jobs = Vec::with_capacity(GROUP);
            loop {
                let next_end = self.deadlines.values().min().copied();
                tokio::select! {
                    taken = queue.recv_many(&mut jobs, GROUP) => {
                        if taken == 0 {
                            return;
                        }
                        self.work(&mut jobs);
                    }
                    () = until(next_end) => self.expire(),
                }
            }
        });
    }

    fn work(&mut self, jobs: &mut Vec<Job>) {
        let mut group = Group { revision: self.state.read().revision, ..Group::default() };
        let answers: Vec<_> =
            jobs.drain(..).map(|job| (self.check(&mut group, job.request), job.reply)).collect();
        let committed = self.commit(group);
        for (answer, reply) in answers {
            // A caller that is gone does not want to know.
            let _ = reply.send(match &committed {
                Ok(()) => answer,
                Err(error) => Err(error.clone()),
            });
        }
    }

    fn expire(&mut self) {
        let now = Instant::now();
        let ended: Vec<LeaseId> =
            self.deadlines.iter().filter(|(_, end)| **end <= now).map(|(lease, _)| *lease).collect();
        let mut group = Group { revision: self.state.read().revision, ..Group::default() };
        for lease in &ended {
            self.end_lease(&mut group, *lease);
        }
        if let Err(error) = self.commit(group) {
            tracing::error!(%error, "leases that ended could not be removed, trying again");
            for lease in ended {
                self.deadlines.insert(lease, now + Duration::from_secs(1));
            }
        }
    }

    fn check(&mut self, group: &mut Group, request: Request) -> Result<Answer, StoreError> {
        match request {
            Request::Put { key, value, expect, lease } => {
                let previous = self.current(group, &key);
                if !holds(expect, previous.as_ref()) {
                    return Ok(Answer::Write(Write::Conflict(previous)));
                }
                if let Some(lease) = lease
                    && !self.lives(group, lease)
                {
                    return Err(StoreError::NoLease(lease));
                }
                group.revision += 1;
                let revision = group.revision;
                let create_revision = previous.as_ref().map_or(revision, |kv| kv.create_revision);
                let kv = KeyValue { key: key.clone(), value, create_revision, mod_revision: revision, lease };
                group.record(key, Some(kv), previous.clone());
                Ok(Answer::Write(Write::Done { revision, previous }))
            }
            Request::Delete { key, expect } => {
                let previous = self.current(group, &key);
                if previous.is_none() || !holds(expect, previous.as_ref()) {
                    return Ok(Answer::Write(Write::Conflict(previous)));
                }
                group.revision += 1;
                group.record(key, None, previous.clone());
                Ok(Answer::Write(Write::Done { revision: group.revision, previous }))
            }
            Request::Grant { ttl } => {
                let ttl = Duration::from_secs(ttl.as_secs().max(1));
                self.last_lease += 1;
                let lease = self.last_lease;
                group.leases.insert(lease, Some(ttl));
                self.deadlines.insert(lease, Instant::now() + ttl);
                Ok(Answer::Lease(lease))
            }
            Request::KeepAlive { lease } => {
                let ttl = match group.leases.get(&lease) {
                    Some(ttl) => *ttl,
                    None => self.state.read().leases.get(&lease).copied(),
                };
                if let Some(ttl) = ttl {
                    self.deadlines.insert(lease, Instant::now() + ttl);
                }
                Ok(Answer::Lives(ttl.is_some()))
            }
            Request::Revoke { lease } => {
                let lives = self.lives(group, lease);
                if lives {
                    self.end_lease(group, lease);
                }
                Ok(Answer::Lives(lives))
            }
        }
    }

    fn current(&self, group: &Group, key: &str) -> Option<KeyValue> {
        match group.overlay.get(key) {
            Some(value) => value.clone(),
            None => self.state.read().keys.get(key).cloned(),
        }
    }

    fn lives(&self, group: &Group, lease: LeaseId) -> bool {
        match group.leases.get(&lease) {
            Some(ttl) => ttl.is_some(),
            None => self.state.read().leases.contains_key(&lease),
        }
    }

    /// Deletes a lease and its keys, all at one revision.
    fn end_lease(&mut self, group: &mut Group, lease: LeaseId) {
        self.deadlines.remove(&lease);
        group.leases.insert(lease, None);
        let mut attached: BTreeMap<String, KeyValue> = self
            .state
            .read()
            .keys
            .values()
            .filter(|kv| kv.lease == Some(lease) && !group.overlay.contains_key(&kv.key))
            .map(|kv| (kv.key.clone(), kv.clone()))
            .collect();
        let fresh = group.overlay.values().flatten().filter(|kv| kv.lease == Some(lease));
        attached.extend(fresh.map(|kv| (kv.key.clone(), kv.clone())));
        if attached.is_empty() {
            return;
        }
        group.revision += 1;
        for (key, previous) in attached {
            group.record(key, None, Some(previous));
        }
    }

    /// Makes a group durable, then visible. On an error nothing has happened.
    fn commit(&mut self, group: Group) -> Result<(), StoreError> {
        if group.events.is_empty() && group.leases.is_empty() {
            return Ok(());
        }
        let changes = Changes {
            keys: group.overlay.into_iter().collect(),
            leases: group.leases.into_iter().collect(),
            revision: group.revision,
        };
        self.disk.commit(&changes)?;
        let mut state = self.state.write();
        state.revision = group.revision;
        for (key, value) in changes.keys {
            match value {
                Some(kv) => state.keys.insert(key, kv),
                None => state.keys.remove(&key),
            };
        }
        for (lease, ttl) in changes.leases {
            match ttl {
                Some(ttl) => state.leases.insert(lease, ttl),
                None => state.leases.remove(&lease),
            };
        }
        for event in group.events {
            state.history.push(event);
        }
        drop(state);
        self.published.send_replace(group.revision);
        Ok(())
    }
}

impl Group {
    fn record(&mut self, key: String, current: Option<KeyValue>, previous: Option<KeyValue>) {
        let event = Event { revision: self.revision, key: key.clone(), current: current.clone(), previous };
        self.events.push(event);
        self.overlay.insert(key, current);
    }
}

fn holds(expect: Expect, current: Option<&KeyValue>) -> bool {
    match expect {
        Expect::Any => true,
        Expect::Absent => current.is_none(),
        Expect::Revision(revision) => current.is_some_and(|kv| kv.mod_revision == revision),
    }
}

async fn until(end: Option<Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}
