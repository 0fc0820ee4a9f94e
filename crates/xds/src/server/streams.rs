//! All open streams, to be looked at from outside.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::Status;

use crate::flavour::Flavour;
use crate::subscription::TypeReport;

/// One stream, at the moment of asking.
#[derive(Debug, Clone)]
pub struct StreamStatus {
    /// Number, unique in this process.
    pub stream: u64,
    /// Who is at the other end.
    pub identity: Arc<str>,
    /// Its node id.
    pub node_id: Arc<str>,
    /// Dialect.
    pub flavour: Flavour,
    /// How long it has been open.
    pub age: Duration,
    /// By resource type, in push order.
    pub types: Vec<TypeReport>,
}

#[derive(Debug)]
struct Open {
    identity: Arc<str>,
    node_id: Arc<str>,
    flavour: Flavour,
    since: Instant,
    types: Mutex<Vec<TypeReport>>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    open: BTreeMap<u64, Arc<Open>>,
    by_identity: HashMap<Arc<str>, usize>,
    total: usize,
}

/// The open streams of one server. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Streams(Arc<Mutex<Table>>);

/// A place among the streams; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) stream: u64,
    identity: Arc<str>,
    open: Option<Arc<Open>>,
    of: Streams,
}

impl Streams {
    /// How many are open, those that have not introduced themselves included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.lock().total
    }

    /// Whether none is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All streams whose client has introduced itself, oldest first.
    #[must_use]
    pub fn snapshot(&self) -> Vec<StreamStatus> {
        let open: Vec<(u64, Arc<Open>)> =
            self.0.lock().open.iter().map(|(stream, open)| (*stream, Arc::clone(open))).collect();
        let status = |(stream, open): (u64, Arc<Open>)| StreamStatus {
            stream,
            identity: Arc::clone(&open.identity),
            node_id: Arc::clone(&open.node_id),
            flavour: open.flavour,
            age: open.since.elapsed(),
            types: open.types.lock().clone(),
        };
        open.into_iter().map(status).collect()
    }

    pub(super) fn enter(&self, identity: &Arc<str>, total: usize, each: usize) -> Result<Place, Status> {
        let mut table = self.0.lock();
        if table.total >= total {
            let problem = format!("this control plane serves {total} streams already; try another one");
            return Err(Status::resource_exhausted(problem));
        }
        let own = table.by_identity.entry(Arc::clone(identity)).or_default();
        if *own >= each {
            let problem = format!("{identity} has {each} streams open already; close some first");
            return Err(Status::resource_exhausted(problem));
        }
        *own += 1;
        table.total += 1;
        table.next += 1;
        Ok(Place { stream: table.next, identity: Arc::clone(identity), open: None, of: self.clone() })
    }
}

impl Place {
    /// The client has introduced itself and was let in.
    pub(super) fn introduced(&mut self, node_id: &str, flavour: Flavour) {
        let open = Arc::new(Open {
            identity: Arc::clone(&self.identity),
            node_id: node_id.into(),
            flavour,
            since: Instant::now(),
            types: Mutex::default(),
        });
        self.of.0.lock().open.insert(self.stream, Arc::clone(&open));
        self.open = Some(open);
    }

    pub(super) fn report(&self, types: Vec<TypeReport>) {
        if let Some(open) = &self.open {
            *open.types.lock() = types;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.of.0.lock();
        table.open.remove(&self.stream);
        table.total = table.total.saturating_sub(1);
        if let Some(own) = table.by_identity.get_mut(&self.identity) {
            *own -= 1;
            if *own == 0 {
                table.by_identity.remove(&self.identity);
            }
        }
    }
}
