//! What the watches say of themselves.

use std::collections::BTreeMap;

use isthmus_resources::Kind;
use parking_lot::Mutex;

/// An object that was refused; its last good state, if it had one, is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// `NAMESPACE/NAME`, or `NAME`.
    pub object: String,
    /// Field and what is wrong with it.
    pub problem: String,
}

#[derive(Debug, Default)]
struct OfKind {
    listed: bool,
    error: Option<String>,
    rejected: BTreeMap<String, String>,
    rejections: u64,
}

/// State of all watches of a cluster.
#[derive(Debug)]
pub struct WatchStatus {
    kinds: Mutex<BTreeMap<Kind, OfKind>>,
}

impl WatchStatus {
    pub(super) fn new(kinds: &[Kind]) -> Self {
        Self { kinds: Mutex::new(kinds.iter().map(|kind| (*kind, OfKind::default())).collect()) }
    }

    /// Kinds whose complete list is still awaited.
    #[must_use]
    pub fn awaited(&self) -> Vec<Kind> {
        self.kinds.lock().iter().filter(|(_, of)| !of.listed).map(|(kind, _)| *kind).collect()
    }

    /// Objects that are refused at present.
    #[must_use]
    pub fn rejections(&self) -> Vec<(Kind, Rejection)> {
        let kinds = self.kinds.lock();
        let each = |(kind, of): (&Kind, &OfKind)| {
            let list = of.rejected.iter().map(|(object, problem)| {
                (*kind, Rejection { object: object.clone(), problem: problem.clone() })
            });
            list.collect::<Vec<_>>()
        };
        kinds.iter().flat_map(each).collect()
    }

    /// How many objects of a kind were refused, ever.
    #[must_use]
    pub fn rejected_total(&self, kind: Kind) -> u64 {
        self.kinds.lock().get(&kind).map_or(0, |of| of.rejections)
    }

    /// Watches that are broken, with reasons.
    #[must_use]
    pub fn errors(&self) -> Vec<(Kind, String)> {
        let kinds = self.kinds.lock();
        kinds.iter().filter_map(|(kind, of)| Some((*kind, of.error.clone()?))).collect()
    }

    pub(super) fn is_listed(&self, kind: Kind) -> bool {
        self.kinds.lock().get(&kind).is_some_and(|of| of.listed)
    }

    pub(super) fn listed(&self, kind: Kind, rejected: &[Rejection]) {
        let mut kinds = self.kinds.lock();
        let of = kinds.entry(kind).or_default();
        of.listed = true;
        of.error = None;
        of.rejections += rejected.len() as u64;
        of.rejected = rejected.iter().map(|entry| (entry.object.clone(), entry.problem.clone())).collect();
    }

    pub(super) fn accepted(&self, kind: Kind, object: &str) {
        let mut kinds = self.kinds.lock();
        let of = kinds.entry(kind).or_default();
        of.error = None;
        of.rejected.remove(object);
    }

    pub(super) fn rejected(&self, kind: Kind, rejection: Rejection) {
        let mut kinds = self.kinds.lock();
        let of = kinds.entry(kind).or_default();
        of.rejections += 1;
        of.rejected.insert(rejection.object, rejection.problem);
    }

    pub(super) fn failed(&self, kind: Kind, problem: &str) {
        self.kinds.lock().entry(kind).or_default().error = Some(problem.to_string());
    }
}
