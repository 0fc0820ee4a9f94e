//! State of the world: every request repeats all names; answers of full-state types replace everything.

use std::sync::Arc;

use bytes::Bytes;
use isthmus_proto::resource::{Resource, ResourceSet, View};
use isthmus_proto::type_url;

use super::watch::{Composed, Owed, Watch, lend, sorted};
use super::{BadRequest, Heard, Request, Subscriptions, Wanted};
use crate::cache::Cache;
use crate::flavour::{Flavour, empty_means_all, full_state};
use crate::names::Names;

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
            watch.wildcard = names.is_empty() || everything(names);
            watch.heard = cache.fingerprint(names);
            watch.names = named(watch.heard, names, &request.type_url, view, cache)?;
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
        let heard = cache.fingerprint(names);
        let mut same = heard == watch.heard;
        let mut added = false;
        if !same {
            let wildcard = if names.is_empty() { watch.wildcard } else { everything(names) };
            added = wildcard && !watch.wildcard;
            let lent = named(heard, names, &request.type_url, view, cache)?;
            added |= lent.iter().any(|name| !watch.names.contains(name));
            same = wildcard == watch.wildcard && lent == watch.names;
            watch.recount |= !same;
            watch.names = lent;
            watch.wildcard = wildcard;
            watch.heard = heard;
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
            let payload = cache.subscribed(Flavour::World, &self.type_url, set, &self.names);
            self.has_all(set, &payload);
            return Some(Composed { payload, changed, asked });
        } else {
            // What is said grows with what changed, not with what is asked for.
            let mut said: Vec<&Arc<str>> = changed.iter().chain(&owed.names).collect();
            said.sort_unstable();
            said.dedup();
            let some: Vec<&Resource> = said
                .into_iter()
                .filter(|name| self.names.contains(name))
                .filter_map(|name| set.get(name))
                .collect();
            Some(cache.encode(Flavour::World, &self.type_url, &some, &[]))
        };
        self.move_to(set, diff.as_deref());
        Some(Composed { payload: payload?, changed, asked })
    }
}

/// Whether everything is asked for.
fn everything(names: &[Bytes]) -> bool {
    names.iter().any(|name| *name == "*")
}

/// The list of names that were said.
fn named(
    heard: u64,
    names: &[Bytes],
    type_url: &str,
    view: &View,
    cache: &Cache,
) -> Result<Names, BadRequest> {
    if let Some(known) = cache.said(heard) {
        return Ok(known);
    }
    let texts: Option<Vec<&str>> = names.iter().map(|name| std::str::from_utf8(name).ok()).collect();
    let texts = texts.ok_or_else(|| BadRequest::NotText(type_url.to_string()))?;
    Ok(cache.share_said(heard, sorted(lend(&texts, type_url, view))))
}
