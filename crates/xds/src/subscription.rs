//! What one stream has asked for, been sent and acknowledged: a state machine without I/O.
//!
//! The caller feeds requests with [`Subscriptions::heard`] and, whenever the client can take a message, asks for the next one
//! with [`Subscriptions::next`]. Types are sent in push order from one view until all of them have been said (a push in
//! progress is not interrupted); then the newest view is looked at. Between two messages a stream holds the last sent set of
//! each type, nothing else: a slow client costs a cursor.

mod delta;
mod watch;
mod world;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use isthmus_proto::resource::{ResourceSet, View};
use isthmus_proto::type_url;
use thiserror::Error;

use crate::cache::Cache;
use crate::flavour::Flavour;
use crate::payload::Payload;
use watch::Watch;

/// Types on one stream.
const MAX_TYPES: usize = 32;
/// Names of one type on one stream.
const MAX_NAMES: usize = 200_000;
/// Bytes of one name.
const MAX_NAME: usize = 4096;

/// One request, of either flavour.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// Type that it is about.
    pub type_url: String,
    /// Nonce of the response that it answers; empty when it answers none.
    pub nonce: String,
    /// Why that response was refused.
    pub error: Option<String>,
    /// What is wanted.
    pub names: Wanted,
}

/// Names in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// State of the world: all names, each time, as slices of the message: most requests repeat those of the one before, and are
    /// not read again.
    Exactly(Vec<Bytes>),
    /// Delta: what to add, what to drop, and what the client has from an earlier stream (name to version).
    Change {
        /// Names to add; `*` is everything.
        subscribe: Vec<String>,
        /// Names to drop.
        unsubscribe: Vec<String>,
        /// Versions from an earlier stream; first request of a type only.
        initial: HashMap<String, String>,
    },
}

impl Default for Wanted {
    fn default() -> Self {
        Self::Exactly(Vec::new())
    }
}

/// What a request meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// Something is wanted that was not before.
    Asked,
    /// The last response was accepted.
    Acked,
    /// A response was refused. It is not sent again until its type changes.
    Nacked,
    /// It answers a response that is not the last one and says nothing else.
    Stale,
    /// Something is no longer wanted.
    Dropped,
}

/// Why a stream must end.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadRequest {
    /// No type.
    #[error("a request carries no type_url; name the resource type it is about")]
    NoType,
    /// Too many types.
    #[error("a stream may watch at most {MAX_TYPES} resource types; {0:?} is one too many")]
    TooManyTypes(String),
    /// Too many names.
    #[error("a stream may ask for at most {MAX_NAMES} names of {0:?}")]
    TooManyNames(String),
    /// A name that is too long.
    #[error("a name of {0:?} has {1} bytes, above the limit of {MAX_NAME}")]
    LongName(String, usize),
    /// A name that is no text.
    #[error("a name of {0:?} is not UTF-8")]
    NotText(String),
}

/// One message to send.
#[derive(Debug, Clone)]
pub struct Response {
    /// Type.
    pub type_url: Arc<str>,
    /// Version of the view that it comes from.
    pub version: u64,
    /// Unique in its stream.
    pub nonce: String,
    /// Shared bytes.
    pub payload: Arc<Payload>,
    /// Which part of the payload.
    pub part: usize,
}

/// How far a type is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Asked for, nothing sent.
    NotSent,
    /// Sent and not answered yet.
    Stale,
    /// Accepted.
    Acked,
    /// Refused.
    Nacked,
}

/// One type of one stream, for status pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeReport {
    /// Type.
    pub type_url: Arc<str>,
    /// Whether everything is asked for.
    pub wildcard: bool,
    /// Names that are asked for one by one.
    pub names: usize,
    /// Resources that the client has been sent.
    pub resources: usize,
    /// Version of the view that the last response came from.
    pub version: u64,
    /// How far it is.
    pub standing: Standing,
    /// Why the client refused the last refused response.
    pub error: Option<String>,
}

/// A push in progress.
#[derive(Debug)]
struct Pass {
    number: u64,
    view: Arc<View>,
    /// The view's clusters, and those that leave only after this push.
    clusters: Option<Arc<ResourceSet>>,
}

impl Pass {
    fn set(&self, type_url: &str) -> Option<&Arc<ResourceSet>> {
        self.clusters.as_ref().filter(|_| type_url == type_url::CLUSTER).or_else(|| self.view.set(type_url))
    }
}

/// All types of one stream.
#[derive(Debug)]
pub struct Subscriptions {
    flavour: Flavour,
    /// In push order.
    watches: Vec<Watch>,
    passes: u64,
    pass: Option<Pass>,
    nonces: u64,
}

impl Subscriptions {
    /// Nothing is asked for yet.
    #[must_use]
    pub fn new(flavour: Flavour) -> Self {
        Self { flavour, watches: Vec::new(), passes: 0, pass: None, nonces: 0 }
    }

    /// Takes a request in. `view` only lends its names, so that equal names are stored once.
    ///
    /// # Errors
    /// When the stream must end because of it.
    pub fn heard(&mut self, request: Request, view: &View, cache: &Cache) -> Result<Heard, BadRequest> {
        if request.type_url.is_empty() {
            return Err(BadRequest::NoType);
        }
        let known = self.watches.iter().position(|watch| *watch.type_url == *request.type_url);
        if known.is_none() && self.watches.len() >= MAX_TYPES {
            return Err(BadRequest::TooManyTypes(request.type_url));
        }
        check_names(&request)?;
        match request.names {
            Wanted::Exactly(_) => self.heard_world(known, request, view, cache),
            Wanted::Change { .. } => self.heard_delta(known, request, view, cache),
        }
    }

    /// The next message, or none when the client has all that it asked for.
    pub fn next(&mut self, newest: &Arc<View>, cache: &Cache) -> Option<Response> {
        loop {
            let fresh = self.pass.is_none();
            if fresh {
                self.passes += 1;
                let clusters = self.clusters_that_stay(newest, cache);
                self.pass = Some(Pass { number: self.passes, view: Arc::clone(newest), clusters });
            }
            if let Some(response) = self.advance(cache) {
                return Some(response);
            }
            let whole = self.pass.take().is_none_or(|pass| pass.clusters.is_none());
            if fresh && whole {
                return None;
            }
        }
    }

    /// The state of every type, in push order.
    #[must_use]
    pub fn report(&self) -> Vec<TypeReport> {
        self.watches.iter().map(Watch::report).collect()
    }

    /// Whether this type is asked for.
    #[must_use]
    pub fn watches(&self, url: &str) -> bool {
        self.watches.iter().any(|watch| *watch.type_url == *url)
    }

    /// The next message of the push in progress.
    fn advance(&mut self, cache: &Cache) -> Option<Response> {
        let pass = self.pass.as_ref()?;
        for at in 0..self.watches.len() {
            let watch = &mut self.watches[at];
            if let Some((payload, part)) = watch.unfinished() {
                return Some(respond(&mut self.nonces, watch, pass, payload, part));
            }
            if watch.pass == pass.number {
                continue;
            }
            watch.pass = pass.number;
            // A type that the view does not serve is unknown, which is not the same as empty: nothing is said.
            let Some(set) = pass.set(&watch.type_url) else { continue };
            let first = watch.cursor.is_none();
            let composed = match self.flavour {
                Flavour::World => watch.compose_world(set, cache),
                Flavour::Delta => watch.compose_delta(set, cache),
            };
            let Some(composed) = composed else { continue };
            let payload = watch.start(composed.payload);
            let response = respond(&mut self.nonces, watch, pass, payload, 0);
            if *response.type_url == *type_url::CLUSTER && !first {
                self.warm_endpoints(&composed.changed, composed.asked);
            }
            return Some(response);
        }
        None
    }

    /// Make before break: a cluster that goes together with a change of what leads to it goes after that change, in a push of its own.
    /// Until then a connection finds it.
    fn clusters_that_stay(&self, newest: &View, cache: &Cache) -> Option<Arc<ResourceSet>> {
        let changing = |url: &str| {
            let watch = self.watches.iter().find(|watch| *watch.type_url == *url)?;
            let (old, new) = (watch.cursor.as_ref()?, newest.set(url)?);
            (!Arc::ptr_eq(old, new)).then_some((old, new))
        };
        let (old, new) = changing(type_url::CLUSTER)?;
        if changing(type_url::LISTENER).is_none() && changing(type_url::ROUTE).is_none() {
            return None;
        }
        let diff = cache.diff(old, new);
        (!diff.removed.is_empty()).then(|| diff.with_removed(old, new))
    }

    /// Clusters that were sent again warm up only when their endpoints are sent again too, though these did not change.
    fn warm_endpoints(&mut self, changed: &[Arc<str>], all: bool) {
        let Some(endpoints) = self.watches.iter_mut().find(|watch| *watch.type_url == *type_url::ENDPOINTS)
        else {
            return;
        };
        if endpoints.wildcard || endpoints.cursor.is_none() {
            return;
        }
        endpoints.owed.everything |= all;
        let named = changed.iter().filter(|name| endpoints.names.contains(name)).cloned();
        endpoints.owed.names.extend(named);
        endpoints.pass = 0;
    }

    fn insert(&mut self, watch: Watch) {
        let at = self
            .watches
            .partition_point(|known| (known.rank, &known.type_url) < (watch.rank, &watch.type_url));
        self.watches.insert(at, watch);
    }
}

fn respond(nonces: &mut u64, watch: &mut Watch, pass: &Pass, payload: Arc<Payload>, part: usize) -> Response {
    *nonces += 1;
    watch.sent = *nonces;
    watch.version = pass.view.version;
    if part == 0 {
        watch.sent_from = *nonces;
    }
    Response {
        type_url: Arc::clone(&watch.type_url),
        version: pass.view.version,
        nonce: format!("{nonces:x}"),
        payload,
        part,
    }
}

fn check_names(request: &Request) -> Result<(), BadRequest> {
    let check = |lengths: &mut dyn Iterator<Item = usize>| {
        let mut count = 0;
        for length in lengths {
            count += 1;
            if length > MAX_NAME {
                return Err(BadRequest::LongName(request.type_url.clone(), length));
            }
        }
        if count > MAX_NAMES { Err(BadRequest::TooManyNames(request.type_url.clone())) } else { Ok(()) }
    };
    match &request.names {
        Wanted::Exactly(names) => check(&mut names.iter().map(Bytes::len)),
        Wanted::Change { subscribe, initial, .. } => {
            check(&mut subscribe.iter().map(String::len))?;
            check(&mut initial.keys().map(String::len))
        }
    }
}

#[cfg(test)]
mod tests;
