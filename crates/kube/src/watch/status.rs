//! What the watches say of themselves.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use isthmus_resources::Kind;
use parking_lot::Mutex;
use tokio::time::Instant;

/// How long a problem that was told is not told again, whichever kind has it.
const TOLD: Duration = Duration::from_secs(60);

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
    told: Mutex<HashMap<String, Instant>>,
}

impl WatchStatus {
    pub(super) fn new(kinds: &[Kind]) -> Self {
        let kinds = kinds.iter().map(|kind| (*kind, OfKind::default())).collect();
        Self { kinds: Mutex::new(kinds), told: Mutex::default() }
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

    /// True when this is news: an API server that is away is one problem, not one for each kind and attempt.
    pub(super) fn failed(&self, kind: Kind, problem: &str) -> bool {
        self.kinds.lock().entry(kind).or_default().error = Some(problem.to_string());
        let mut told = self.told.lock();
        told.retain(|_, at| at.elapsed() < TOLD);
        if told.contains_key(problem) {
            return false;
        }
        told.insert(problem.to_string(), Instant::now());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_problem_of_many_kinds_is_told_once_a_minute() {
        let status = WatchStatus::new(&[Kind::Pod, Kind::Service]);
        assert!(status.failed(Kind::Pod, "connection refused"));
        assert!(!status.failed(Kind::Service, "connection refused"));
        assert!(status.failed(Kind::Service, "forbidden"));
        assert_eq!(status.errors().len(), 2);
        tokio::time::advance(TOLD).await;
        assert!(status.failed(Kind::Service, "connection refused"));
    }
}
