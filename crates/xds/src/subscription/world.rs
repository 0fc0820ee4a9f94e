//! State of the world: every request repeats all names; answers of full-state types replace everything.

use std::sync::Arc;

use isthmus_proto::resource::{Resource, ResourceSet, View};
use isthmus_proto::type_url;

use super::watch::{Composed, Owed, Watch, lend, sorted};
use super::{BadRequest, Heard, Request, Subscriptions, Wanted};
use crate::cache::Cache;
use crate::flavour::{Flavour, empty_means_all, full_state};

impl Subscriptions {
    pub(super) fn heard_world(
        &mut self,
        known: Option<usize>,
        request: Request,
        view: &View,
        cache: &Cache,
    ) -> Result<Heard, BadRequest> {
        let Wanted::Exactly(names) = &request.names else { return Ok(Heard::Stale) };
        let all = empty_means_all(&request.type_url);
        let Some(at) = known else {
            if request.error.is_some() {
                return Ok(Heard::Stale);
            }
            if names.is_empty() && !all {
                return Ok(Heard::Dropped);
            }
            let mut watch = Watch::new(&request.type_url);
            watch.wildcard = names.is_empty() || names.iter().any(|name| name == "*");
            watch.names = cache.share_names(watch.names.with(lend(names, &request.type_url, view)));
            watch.owed.everything = true;
            self.insert(watch);
            self.clusters_asked_for(&request.type_url);
            return Ok(Heard::Asked);
        };
        let watch = &mut self.watches[at];
        // Any nonce drops a type that is asked for by name.
        if names.is_empty() && !watch.wildcard && request.error.is_none() {
            self.watches.remove(at);
            return Ok(Heard::Dropped);
        }
        let anew = request.nonce.is_empty();
        let refused = request.error.is_some();
        match (watch.nonce(&request.nonce).filter(|nonce| *nonce == watch.sent), request.error) {
            (Some(nonce), Some(error)) => watch.refuse(nonce, error),
            (Some(nonce), None) => watch.acknowledge(nonce),
            (None, None) if anew => {}
            (None, _) => return Ok(Heard::Stale),
        }
        let asked = !refused && (anew || std::mem::take(&mut watch.owed.next_request));
        let wildcard = if names.is_empty() { watch.wildcard } else { names.iter().any(|name| name == "*") };
        let same = wildcard == watch.wildcard && same_names(names, watch.names.as_slice());
        let mut added = wildcard && !watch.wildcard;
        if !same {
            let lent = cache.share_names(sorted(lend(names, &request.type_url, view)));
            added |= lent.iter().any(|name| !watch.names.contains(name));
            watch.names = lent;
            watch.wildcard = wildcard;
            watch.recount = true;
        }
        if asked || added || (all && !same) {
            watch.owed.everything = true;
            watch.pass = 0;
        }
        if anew {
            self.clusters_asked_for(&request.type_url);
        }
        Ok(match (refused, asked || added, same) {
            (true, _, _) => Heard::Nacked,
            (false, true, _) => Heard::Asked,
            (false, false, true) => Heard::Acked,
            (false, false, false) => Heard::Dropped,
        })
    }

    /// A client that asks for clusters anew warms them with its next request for endpoints, which may repeat old names.
    fn clusters_asked_for(&mut self, url: &str) {
        if url != type_url::CLUSTER {
            return;
        }
        let endpoints = self.watches.iter_mut().find(|watch| *watch.type_url == *type_url::ENDPOINTS);
        if let Some(endpoints) = endpoints.filter(|endpoints| endpoints.cursor.is_some()) {
            endpoints.owed.next_request = true;
        }
    }
}

impl Watch {
    pub(super) fn compose_world(&mut self, set: &Arc<ResourceSet>, cache: &Cache) -> Option<Composed> {
        let owed: Owed = self.owed.take();
        let diff = self.diff(set, cache);
        let asked = owed.everything || self.cursor.is_none();
        let changed: Vec<Arc<str>> =
            diff.iter().flat_map(|diff| &diff.upserts).map(|(r, _)| Arc::clone(&r.name)).collect();
        let touched = |name: &str| self.visible(name) || owed.names.contains(name);
        let relevant = changed.iter().any(|name| touched(name))
            || !owed.names.is_empty()
            || (full_state(&self.type_url)
                && diff.iter().any(|diff| diff.removed.iter().any(|name| touched(name))));
        let payload = if !asked && !relevant {
            None
        } else if self.wildcard {
            Some(cache.full(Flavour::World, &self.type_url, set))
        } else if asked || full_state(&self.type_url) {
            Some(cache.encode(Flavour::World, &self.type_url, &self.subscribed(set), &[]))
        } else {
            let said = |resource: &&Resource| {
                owed.names.contains(&resource.name) || changed.binary_search(&resource.name).is_ok()
            };
            let some: Vec<&Resource> = self.subscribed(set).into_iter().filter(said).collect();
            Some(cache.encode(Flavour::World, &self.type_url, &some, &[]))
        };
        self.move_to(set, diff.as_deref());
        Some(Composed { payload: payload?, changed, asked })
    }
}

/// Whether a request's names are these; most clients send them sorted.
fn same_names(names: &[String], known: &[Arc<str>]) -> bool {
    let listed = names.iter().filter(|name| *name != "*");
    if listed.clone().map(String::as_str).eq(known.iter().map(|name| &**name)) {
        return true;
    }
    let mut sorted: Vec<&str> = listed.map(String::as_str).collect();
    sorted.sort_unstable();
    sorted.dedup();
    sorted.into_iter().eq(known.iter().map(|name| &**name))
}
