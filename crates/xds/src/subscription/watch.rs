//! One type on one stream.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use isthmus_proto::resource::{Resource, ResourceSet, View};

use super::{Standing, TypeReport};
use crate::cache::{Cache, Diff};
use crate::flavour::rank;
use crate::names::Names;
use crate::payload::Payload;

/// What must be said although it did not change.
#[derive(Debug, Default)]
pub(super) struct Owed {
    /// An answer, be it empty.
    pub(super) answer: bool,
    /// Everything subscribed.
    pub(super) everything: bool,
    /// These names.
    pub(super) names: BTreeSet<Arc<str>>,
    /// Everything, as soon as the client's next request comes, though that may look like an acknowledgement.
    pub(super) next_request: bool,
}

impl Owed {
    pub(super) fn take(&mut self) -> Self {
        let taken = std::mem::take(self);
        self.next_request = taken.next_request;
        taken
    }
}

/// A message that was composed.
pub(super) struct Composed {
    pub(super) payload: Arc<Payload>,
    /// Names that changed.
    pub(super) changed: Vec<Arc<str>>,
    /// Whether a request asked for it, so that it is sent changed or not.
    pub(super) asked: bool,
}

#[derive(Debug)]
pub(super) struct Watch {
    pub(super) type_url: Arc<str>,
    pub(super) rank: u8,
    pub(super) wildcard: bool,
    pub(super) names: Names,
    /// State of the world: fingerprint of what was said.
    pub(super) heard: u64,
    /// The set that the client's state comes from; none until something was sent.
    pub(super) cursor: Option<Arc<ResourceSet>>,
    /// What the client says it has from an earlier stream.
    pub(super) claimed: Option<HashMap<String, String>>,
    pub(super) owed: Owed,
    /// The push in which it was last looked at.
    pub(super) pass: u64,
    /// Resources that the client has.
    pub(super) present: usize,
    /// Names changed since `present` was counted.
    pub(super) recount: bool,
    parts: Option<(Arc<Payload>, usize)>,
    /// Nonce of the last response, and of the first one of its payload.
    pub(super) sent: u64,
    pub(super) sent_from: u64,
    /// Version of the view that the last response came from.
    pub(super) version: u64,
    acked: u64,
    nacked: Option<(u64, String)>,
}

impl Watch {
    pub(super) fn new(type_url: &str) -> Self {
        Self {
            type_url: type_url.into(),
            rank: rank(type_url),
            wildcard: false,
            names: Names::default(),
            heard: 0,
            cursor: None,
            claimed: None,
            owed: Owed::default(),
            pass: 0,
            present: 0,
            recount: true,
            parts: None,
            sent: 0,
            sent_from: 0,
            version: 0,
            acked: 0,
            nacked: None,
        }
    }

    /// Nonce of a request, when it is one that this type was sent.
    pub(super) fn nonce(&self, text: &str) -> Option<u64> {
        u64::from_str_radix(text, 16).ok().filter(|nonce| *nonce > 0 && *nonce <= self.sent)
    }

    pub(super) fn acknowledge(&mut self, nonce: u64) {
        self.acked = self.acked.max(nonce);
        // A refusal stands until a later payload is accepted; an accepted part of the same payload does not heal it.
        if self
            .nacked
            .as_ref()
            .is_some_and(|(refused, _)| *refused < self.sent_from && nonce >= self.sent_from)
        {
            self.nacked = None;
        }
    }

    pub(super) fn refuse(&mut self, nonce: u64, error: String) {
        self.nacked = Some((nonce, error));
    }

    /// Begins a payload; its first part is sent at once.
    pub(super) fn start(&mut self, payload: Arc<Payload>) -> Arc<Payload> {
        self.parts = (payload.parts.len() > 1).then(|| (Arc::clone(&payload), 1));
        payload
    }

    /// The next part of a payload that was begun.
    pub(super) fn unfinished(&mut self) -> Option<(Arc<Payload>, usize)> {
        let (payload, part) = self.parts.take()?;
        if part + 1 < payload.parts.len() {
            self.parts = Some((Arc::clone(&payload), part + 1));
        }
        Some((payload, part))
    }

    /// Whether the client gets the resource of this name.
    pub(super) fn visible(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// All resources of the set that are asked for.
    pub(super) fn subscribed<'a>(&self, set: &'a ResourceSet) -> Vec<&'a Resource> {
        if self.wildcard {
            return set.iter().collect();
        }
        self.names.iter().filter_map(|name| set.get(name)).collect()
    }

    /// The change from the cursor to this set.
    pub(super) fn diff(&self, set: &Arc<ResourceSet>, cache: &Cache) -> Option<Arc<Diff>> {
        let old = self.cursor.as_ref()?;
        (!Arc::ptr_eq(old, set)).then(|| cache.diff(old, set)).filter(|diff| !diff.is_empty())
    }

    /// Moves the cursor and keeps the count.
    pub(super) fn move_to(&mut self, set: &Arc<ResourceSet>, diff: Option<&Diff>) {
        if self.wildcard {
            self.present = set.len();
        } else if self.recount {
            self.present = self.names.iter().filter(|name| set.get(name).is_some()).count();
            self.recount = false;
        } else if let Some(diff) = diff {
            let seen = |name: &str| self.names.contains(name);
            let added = diff.upserts.iter().filter(|(resource, new)| *new && seen(&resource.name)).count();
            let removed = diff.removed.iter().filter(|name| seen(name)).count();
            self.present = (self.present + added).saturating_sub(removed);
        }
        self.cursor = Some(Arc::clone(set));
    }

    /// Moves the cursor to a set of which the client is sent all that it asked for.
    pub(super) fn has_all(&mut self, set: &Arc<ResourceSet>, payload: &Payload) {
        self.present = payload.resources();
        self.recount = false;
        self.cursor = Some(Arc::clone(set));
    }

    pub(super) fn report(&self) -> TypeReport {
        let standing = match &self.nacked {
            _ if self.sent == 0 => Standing::NotSent,
            Some((nonce, _)) if *nonce >= self.sent_from => Standing::Nacked,
            _ if self.acked == self.sent => Standing::Acked,
            _ => Standing::Stale,
        };
        TypeReport {
            type_url: Arc::clone(&self.type_url),
            wildcard: self.wildcard,
            names: self.names.len(),
            resources: self.present,
            version: self.version,
            standing,
            error: self.nacked.as_ref().map(|(_, error)| error.clone()),
        }
    }
}

/// The names as the view writes them, so that a name that many streams ask for is stored once.
pub(super) fn lend(names: &[impl AsRef<str>], type_url: &str, view: &View) -> Vec<Arc<str>> {
    let set = view.set(type_url);
    let known = |name: &str| set.and_then(|set| set.get(name)).map(|resource| Arc::clone(&resource.name));
    names
        .iter()
        .map(AsRef::as_ref)
        .filter(|name| *name != "*")
        .map(|name| known(name).unwrap_or_else(|| name.into()))
        .collect()
}

/// Sorted, without duplicates.
pub(super) fn sorted(mut names: Vec<Arc<str>>) -> Vec<Arc<str>> {
    names.sort_unstable();
    names.dedup();
    names
}
