//! Delta: names are added and dropped; what is gone is told.

use std::collections::HashMap;
use std::sync::Arc;

use isthmus_proto::resource::{Resource, ResourceSet, View};

use super::watch::{Composed, Watch, lend, sorted};
use super::{BadRequest, Heard, MAX_NAMES, Request, Subscriptions, Wanted};
use crate::cache::Cache;
use crate::flavour::Flavour;
use crate::payload::version_text;

impl Subscriptions {
    pub(super) fn heard_delta(
        &mut self,
        known: Option<usize>,
        request: Request,
        view: &View,
        cache: &Cache,
    ) -> Result<Heard, BadRequest> {
        let Wanted::Change { subscribe, unsubscribe, initial } = request.names else {
            return Ok(Heard::Stale);
        };
        let Some(at) = known else {
            if request.error.is_some() && subscribe.is_empty() {
                return Ok(Heard::Stale);
            }
            let mut watch = Watch::new(&request.type_url);
            watch.wildcard = subscribe.is_empty() || subscribe.iter().any(|name| name == "*");
            let lent = |names: &[String]| lend(names, &request.type_url, view);
            watch.names = if watch.wildcard || initial.is_empty() {
                let heard = cache.fingerprint(&subscribe);
                cache.said(heard).unwrap_or_else(|| cache.share_said(heard, sorted(lent(&subscribe))))
            } else {
                // What the client still has is subscribed too, so that it hears of what vanished meanwhile.
                let held: Vec<String> = initial.keys().chain(&subscribe).cloned().collect();
                cache.share_names(sorted(lent(&held)))
            };
            watch.claimed = (!initial.is_empty()).then_some(initial);
            watch.owed.answer = true;
            self.insert(watch);
            return Ok(Heard::Asked);
        };
        let watch = &mut self.watches[at];
        let answered = match (watch.nonce(&request.nonce), request.error) {
            (Some(nonce), Some(error)) => {
                watch.refuse(nonce, error);
                Heard::Nacked
            }
            (Some(nonce), None) => {
                let last = nonce == watch.sent;
                watch.acknowledge(nonce);
                if last { Heard::Acked } else { Heard::Stale }
            }
            (None, _) => Heard::Stale,
        };
        // Some clients (Envoy among them) put changes of the subscription into an acknowledgement: they count always.
        let dropped = watch.unsubscribe(&unsubscribe, cache);
        let added = watch.subscribe(&subscribe, view, cache);
        if watch.names.len() > MAX_NAMES {
            return Err(BadRequest::TooManyNames(request.type_url));
        }
        Ok(match answered {
            Heard::Nacked => Heard::Nacked,
            _ if added => Heard::Asked,
            _ if dropped => Heard::Dropped,
            other => other,
        })
    }
}

impl Watch {
    /// Adds names. One that was subscribed already is answered again, as the protocol asks.
    fn subscribe(&mut self, names: &[String], view: &View, cache: &Cache) -> bool {
        if names.is_empty() {
            return false;
        }
        if names.iter().any(|name| name == "*") && !self.wildcard {
            self.wildcard = true;
            self.cursor = None;
            self.owed.answer = true;
        }
        let lent = lend(names, &self.type_url, view);
        if lent.iter().any(|name| !self.names.contains(name)) {
            self.names = cache.share_names(self.names.with(lent.clone()));
            self.recount = true;
        }
        self.owed.names.extend(lent);
        self.pass = 0;
        true
    }

    /// Drops names. While everything is subscribed too, the client is told again whether it still has them.
    fn unsubscribe(&mut self, names: &[String], cache: &Cache) -> bool {
        if names.is_empty() {
            return false;
        }
        if names.iter().any(|name| name == "*") && self.wildcard {
            self.wildcard = false;
            self.recount = true;
        }
        let kept = self.names.without(names);
        if kept.len() < self.names.len() {
            self.names = cache.share_names(kept);
            self.recount = true;
        }
        for name in names.iter().filter(|name| *name != "*") {
            if self.wildcard {
                self.owed.names.insert(name.as_str().into());
                self.pass = 0;
            } else {
                self.owed.names.remove(name.as_str());
            }
        }
        if self.recount
            && let Some(set) = self.cursor.clone()
        {
            self.move_to(&set, None);
        }
        true
    }

    pub(super) fn compose_delta(&mut self, set: &Arc<ResourceSet>, cache: &Cache) -> Option<Composed> {
        if !self.wildcard && self.names.is_empty() {
            self.cursor = Some(Arc::clone(set));
            return None;
        }
        let owed = self.owed.take();
        if let Some(claimed) = self.claimed.take() {
            let composed = self.resume(&claimed, set, cache);
            self.move_to(set, None);
            return Some(composed);
        }
        if self.cursor.is_none() || owed.everything {
            let changed = Vec::new();
            if !self.wildcard {
                let payload = cache.subscribed(Flavour::Delta, &self.type_url, set, &self.names);
                self.has_all(set, &payload);
                return Some(Composed { payload, changed, asked: true });
            }
            let absent: Vec<Arc<str>> =
                self.names.iter().filter(|name| set.get(name).is_none()).cloned().collect();
            let payload = if absent.is_empty() {
                cache.full(Flavour::Delta, &self.type_url, set)
            } else {
                cache.encode(Flavour::Delta, &self.type_url, &self.subscribed(set), &absent)
            };
            self.move_to(set, None);
            return Some(Composed { payload, changed, asked: true });
        }
        let diff = self.diff(set, cache);
        let mut upserts: Vec<&Resource> = Vec::new();
        let mut removed: Vec<Arc<str>> = Vec::new();
        let mut whole = owed.names.is_empty();
        if let Some(diff) = &diff {
            let seen = |name: &str| self.visible(name) && !owed.names.contains(name);
            upserts.extend(
                diff.upserts.iter().map(|(resource, _)| resource).filter(|resource| seen(&resource.name)),
            );
            removed.extend(diff.removed.iter().filter(|name| seen(name)).cloned());
            whole &= upserts.len() == diff.upserts.len() && removed.len() == diff.removed.len();
        }
        for name in &owed.names {
            match set.get(name) {
                Some(resource) => upserts.push(resource),
                None => removed.push(Arc::clone(name)),
            }
        }
        let changed: Vec<Arc<str>> = upserts.iter().map(|resource| Arc::clone(&resource.name)).collect();
        let payload = if upserts.is_empty() && removed.is_empty() && !owed.answer {
            None
        } else if let Some(diff) = diff.as_deref().filter(|_| whole) {
            Some(cache.change(&self.type_url, diff))
        } else {
            upserts.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            Some(cache.encode(Flavour::Delta, &self.type_url, &upserts, &removed))
        };
        self.move_to(set, diff.as_deref());
        Some(Composed { payload: payload?, changed, asked: owed.answer })
    }

    /// What differs from what the client brought along from an earlier stream.
    fn resume(&self, claimed: &HashMap<String, String>, set: &ResourceSet, cache: &Cache) -> Composed {
        let has = |resource: &Resource| {
            claimed.get(&*resource.name).is_some_and(|version| *version == version_text(resource.version))
        };
        let upserts: Vec<&Resource> =
            self.subscribed(set).into_iter().filter(|resource| !has(resource)).collect();
        let mut removed: Vec<Arc<str>> =
            claimed.keys().filter(|name| set.get(name).is_none()).map(|name| name.as_str().into()).collect();
        let unknown =
            self.names.iter().filter(|name| set.get(name).is_none() && !claimed.contains_key(&***name));
        removed.extend(unknown.cloned());
        removed.sort_unstable();
        let changed = upserts.iter().map(|resource| Arc::clone(&resource.name)).collect();
        let payload = cache.encode(Flavour::Delta, &self.type_url, &upserts, &removed);
        Composed { payload, changed, asked: false }
    }
}
