//! What the control plane sent, as the view of an Envoy beside this agent.
//!
//! The agent alone speaks to the control plane. What it was sent is kept here, and on disk once Envoy has accepted it, so that Envoy
//! can come, go and restart with every control plane gone. What Envoy refuses by name goes back to the form that it had accepted.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use isthmus_proto::resource::{Resource, ResourceSet, View};
use isthmus_proto::type_url;
use isthmus_xds::StreamEvents;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::cache::{Entry, ResourceCache};

/// Types that are passed on. A type that never came is unknown, which is not the same as empty: it is not served.
const TYPES: [&str; 4] = [type_url::CLUSTER, type_url::ENDPOINTS, type_url::LISTENER, type_url::ROUTE];

/// Forms of one resource that wait for Envoy's word; of more the oldest is forgotten.
const FORMS: usize = 8;

/// The resources of one Envoy. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Mirror(Arc<Shared>);

/// What is refused at present, by type.
pub type Refusals = BTreeMap<&'static str, Refusal>;

#[derive(Debug)]
struct Shared {
    cache: ResourceCache,
    state: Mutex<State>,
    views: watch::Sender<Arc<View>>,
    refusals: watch::Sender<Refusals>,
}

#[derive(Debug, Default)]
struct State {
    version: u64,
    types: BTreeMap<&'static str, Kind>,
}

#[derive(Debug, Default)]
struct Kind {
    now: BTreeMap<Arc<str>, Resource>,
    set: Arc<ResourceSet>,
    /// Names whose newest form was not accepted yet.
    pending: BTreeMap<Arc<str>, Pending>,
}

/// What became of a name since Envoy last accepted it.
#[derive(Debug)]
struct Pending {
    /// The form that it accepted; none when it had none.
    good: Option<Resource>,
    /// Those since, each with the version of the view that had it first. The last one is in force.
    forms: VecDeque<(u64, Option<Resource>)>,
}

impl Pending {
    /// Forgets the forms up to this version. Returns the last of them: the one that was sent with it.
    fn settle(&mut self, version: u64) -> Option<Option<Resource>> {
        let newer = self.forms.partition_point(|(since, _)| *since <= version);
        self.forms.drain(..newer).next_back().map(|(_, form)| form)
    }
}

/// What Envoy refused, until it accepts something newer in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Why, in Envoy's words.
    pub error: Arc<str>,
    /// The names in it that went back to their last good form.
    pub names: Vec<Arc<str>>,
    /// Which version of the view came of it: tells one refusal from the next.
    pub version: u64,
}

impl Mirror {
    /// Nothing yet. What Envoy accepts goes to `cache`, what it refuses leaves it.
    #[must_use]
    pub fn new(cache: ResourceCache) -> Self {
        Self(Arc::new(Shared {
            cache,
            state: Mutex::default(),
            views: watch::Sender::new(Arc::default()),
            refusals: watch::Sender::new(Refusals::new()),
        }))
    }

    /// Whether a type is Envoy's.
    #[must_use]
    pub fn holds(type_url: &str) -> bool {
        known(type_url).is_some()
    }

    /// Takes in a change of one type; types that are not Envoy's are passed over.
    pub fn apply(&self, type_url: &str, upserts: &[(Arc<str>, Bytes)], removed: &[Arc<str>]) {
        let Some(url) = known(type_url) else { return };
        let mut state = self.0.state.lock();
        state.version += 1;
        let version = state.version;
        let kind = state.types.entry(url).or_default();
        for name in removed {
            kind.change(name, version, None);
        }
        for (name, body) in upserts {
            kind.change(name, version, Some(Resource::new(Arc::clone(name), body.clone())));
        }
        self.publish(&mut state, url);
        drop(state);
        // Another form is tried: what was refused is past.
        self.0.refusals.send_if_modified(|refusals| {
            let Some(refusal) = refusals.get_mut(url) else { return false };
            let before = refusal.names.len();
            refusal
                .names
                .retain(|name| !removed.contains(name) && !upserts.iter().any(|(new, _)| new == name));
            refusal.names.len() < before
        });
    }

    /// What these names are, and what they may go back to.
    pub(crate) fn forms<'a>(
        &self,
        type_url: &str,
        names: impl IntoIterator<Item = &'a Arc<str>>,
    ) -> Vec<(Arc<str>, Vec<Bytes>)> {
        let state = self.0.state.lock();
        let Some(kind) = state.types.get(type_url) else { return Vec::new() };
        let forms = |name| {
            let pending = kind.pending.get(name).into_iter();
            let earlier = pending.flat_map(|one| {
                one.good.iter().chain(one.forms.iter().filter_map(|(_, form)| form.as_ref()))
            });
            earlier.chain(kind.now.get(name)).map(|resource| resource.body.clone()).collect()
        };
        names.into_iter().map(|name| (Arc::clone(name), forms(name))).collect()
    }

    /// The newest view, and those after it.
    #[must_use]
    pub fn views(&self) -> watch::Receiver<Arc<View>> {
        self.0.views.subscribe()
    }

    /// What is refused at present.
    #[must_use]
    pub fn refusals(&self) -> watch::Receiver<Refusals> {
        self.0.refusals.subscribe()
    }

    fn publish(&self, state: &mut State, url: &'static str) {
        if let Some(kind) = state.types.get_mut(url) {
            kind.set = Arc::new(ResourceSet::new(kind.now.values().cloned().collect()));
        }
        let sets = state.types.iter().map(|(url, kind)| (*url, Arc::clone(&kind.set))).collect();
        self.0.views.send_replace(Arc::new(View { version: state.version, sets }));
    }
}

impl Kind {
    fn change(&mut self, name: &Arc<str>, version: u64, new: Option<Resource>) {
        let old = match &new {
            Some(new) => self.now.insert(Arc::clone(name), new.clone()),
            None => self.now.remove(name),
        };
        // Of what stays as it is nothing is sent, so that no word would ever come.
        if old.as_ref().map(|old| &old.body) == new.as_ref().map(|new| &new.body) {
            return;
        }
        let unseen = || Pending { good: old, forms: VecDeque::new() };
        let forms = &mut self.pending.entry(Arc::clone(name)).or_insert_with(unseen).forms;
        forms.push_back((version, new));
        if forms.len() > FORMS {
            forms.pop_front();
        }
    }

    /// Puts a name back to what it was when it was last accepted. Returns what that is.
    fn put_back(&mut self, name: &Arc<str>) -> Option<Resource> {
        let good = self.pending.remove(name).and_then(|pending| pending.good);
        match &good {
            Some(good) => drop(self.now.insert(Arc::clone(name), good.clone())),
            None => drop(self.now.remove(name)),
        }
        good
    }
}

impl StreamEvents for Mirror {
    fn accepted(&self, type_url: &str, version: u64) {
        let Some(url) = known(type_url) else { return };
        if let Some(kind) = self.0.state.lock().types.get_mut(url) {
            let (mut kept, mut gone) = (Vec::new(), Vec::new());
            kind.pending.retain(|name, pending| {
                let Some(form) = pending.settle(version) else { return true };
                match &form {
                    Some(form) => kept.push(entry(form)),
                    None => gone.push(Arc::clone(name)),
                }
                pending.good = form;
                !pending.forms.is_empty()
            });
            if !kept.is_empty() || !gone.is_empty() {
                self.0.cache.change(url, kept, &gone);
            }
        }
        self.0.refusals.send_if_modified(|refusals| {
            // What was put back is accepted, and is still not what the control plane wants.
            let stands = refusals.get(url).is_some_and(|refusal| !refusal.names.is_empty());
            !stands && refusals.remove(url).is_some()
        });
    }

    fn refused(&self, type_url: &str, version: u64, error: &str) {
        let Some(url) = known(type_url) else { return };
        let mut state = self.0.state.lock();
        let kind = state.types.entry(url).or_default();
        let mut named = Vec::new();
        for (name, pending) in kind.pending.iter_mut().filter(|(name, _)| says(error, name)) {
            pending.settle(version);
            // One that has changed since is heard of again.
            if pending.forms.is_empty() {
                named.push(Arc::clone(name));
            }
        }
        for name in &named {
            match kind.put_back(name) {
                Some(good) => self.0.cache.change(url, vec![entry(&good)], &[]),
                None => self.0.cache.change(url, Vec::new(), &[Arc::clone(name)]),
            }
        }
        state.version += 1;
        let now = state.version;
        self.publish(&mut state, url);
        drop(state);
        tracing::warn!(r#type = url, names = ?named, error, "Envoy refuses it, the last good stays");
        self.0.refusals.send_modify(|refusals| {
            let earlier = refusals.remove(url).map(|refusal| refusal.names).unwrap_or_default();
            let mut names = [earlier, named].concat();
            names.sort_unstable();
            names.dedup();
            refusals.insert(url, Refusal { error: error.into(), names, version: now });
        });
    }
}

/// As the control plane would send it.
fn entry(resource: &Resource) -> Entry {
    Entry { name: Arc::clone(&resource.name), version: resource.version.into(), body: resource.body.clone() }
}

fn known(type_url: &str) -> Option<&'static str> {
    TYPES.into_iter().find(|url| *url == type_url)
}

/// Whether a text has this name as a word of its own: Envoy writes `NAME: problem`, or the name in quotes.
fn says(text: &str, name: &str) -> bool {
    let apart = |next: Option<char>| next.is_none_or(|next| " :,;'\"()\n".contains(next));
    !name.is_empty()
        && text.match_indices(name).any(|(at, _)| {
            apart(text[..at].chars().next_back()) && apart(text[at + name.len()..].chars().next())
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::DataDir;

    fn body(name: &str, body: &'static str) -> (Arc<str>, Bytes) {
        (name.into(), Bytes::from_static(body.as_bytes()))
    }

    fn kept(name: &str, text: &'static str) -> Entry {
        let (name, body) = body(name, text);
        entry(&Resource::new(name, body))
    }

    fn mirror() -> (tempfile::TempDir, ResourceCache, Mirror) {
        let temporary = tempfile::tempdir().unwrap();
        let cache = ResourceCache::open(&DataDir::open(temporary.path()).unwrap(), "reviews").unwrap();
        (temporary, cache.clone(), Mirror::new(cache))
    }

    fn seen(mirror: &Mirror, url: &str) -> Vec<(String, Bytes)> {
        let view = Arc::clone(&mirror.views().borrow());
        let all = view.set(url).unwrap().iter();
        all.map(|resource| (resource.name.to_string(), resource.body.clone())).collect()
    }

    #[test]
    fn what_envoy_refuses_goes_back_to_what_it_had_accepted() {
        let (_data, cache, mirror) = mirror();
        let url = type_url::CLUSTER;
        mirror.apply(url, &[body("a|b", "1"), body("a|bc", "1")], &[]);
        mirror.accepted(url, 1);
        mirror.apply(url, &[body("a|b", "2"), body("a|bc", "2"), body("new", "2")], &[]);
        // Two bad forms in a row: the last good is older than both.
        mirror.apply(url, &[body("a|b", "3")], &[]);
        mirror.refused(url, 3, "Error adding/updating cluster(s) a|b: bad, new: bad too");
        let found = [("a|b".to_string(), Bytes::from("1")), ("a|bc".to_string(), Bytes::from("2"))];
        assert_eq!(seen(&mirror, url), found);
        assert_eq!(cache.entries(url), [kept("a|b", "1"), kept("a|bc", "1")]);
        let refusal = mirror.refusals().borrow()[url].clone();
        assert_eq!(refusal.names, ["a|b".into(), "new".into()]);
        // It stands until something else is tried under those names.
        mirror.accepted(url, 4);
        assert_eq!(cache.entries(url), [kept("a|b", "1"), kept("a|bc", "2")]);
        mirror.apply(url, &[body("a|b", "4")], &["new".into()]);
        mirror.accepted(url, 5);
        assert!(mirror.refusals().borrow().is_empty());
    }

    #[test]
    fn the_disk_has_what_envoy_has_accepted_and_nothing_else() {
        let (_data, cache, mirror) = mirror();
        let url = type_url::CLUSTER;
        mirror.apply(url, &[body("a", "1")], &[]);
        mirror.apply(url, &[body("a", "1"), body("b", "1")], &[]);
        assert!(cache.is_empty());
        // The word on the first form comes when the second is under way, and the word on that names it.
        mirror.accepted(url, 1);
        mirror.apply(url, &[body("a", "2")], &[]);
        mirror.accepted(url, 3);
        assert_eq!(cache.entries(url), [kept("a", "2"), kept("b", "1")]);
        mirror.apply(url, &[body("a", "3")], &["b".into()]);
        mirror.apply(url, &[body("a", "4")], &[]);
        assert_eq!(cache.entries(url), [kept("a", "2"), kept("b", "1")]);
        mirror.accepted(url, 4);
        assert_eq!(cache.entries(url), [kept("a", "3")]);
        mirror.refused(url, 5, "a: bad");
        assert_eq!(seen(&mirror, url), [("a".to_string(), Bytes::from("3"))]);
        assert_eq!(cache.entries(url), [kept("a", "3")]);
    }

    #[test]
    fn a_refusal_of_an_older_form_leaves_the_newer_one() {
        let (_data, _cache, mirror) = mirror();
        mirror.apply(type_url::LISTENER, &[body("l", "1")], &[]);
        mirror.apply(type_url::LISTENER, &[body("l", "2")], &[]);
        mirror.refused(type_url::LISTENER, 1, "l: bad");
        assert_eq!(seen(&mirror, type_url::LISTENER), [("l".to_string(), Bytes::from("2"))]);
    }

    #[test]
    fn a_type_that_never_came_is_not_served_and_an_empty_one_is() {
        let (_data, _cache, mirror) = mirror();
        mirror.apply(type_url::CLUSTER, &[], &[]);
        mirror.apply(type_url::NAME_TABLE, &[body("", "1")], &[]);
        let view = Arc::clone(&mirror.views().borrow());
        assert!(view.set(type_url::CLUSTER).unwrap().is_empty());
        assert!(view.set(type_url::LISTENER).is_none() && view.set(type_url::NAME_TABLE).is_none());
    }
}
