//! What the client has of each type.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::interest::Interest;
use super::{Rejection, Version};

/// Versions of what the handler accepted, by type and name: one entry for each name, which shares its name with what is asked for and
/// with the handler.
#[derive(Debug, Default)]
pub(super) struct Have(HashMap<String, HashMap<Arc<str>, Version>>);

impl Have {
    /// From types, names and versions.
    pub(super) fn from_known(known: Vec<(&'static str, Arc<str>, Version)>) -> Self {
        let mut have = Self::default();
        for (type_url, name, version) in known {
            if let Some(of_type) = have.0.get_mut(type_url) {
                of_type.insert(name, version);
            } else {
                have.0.insert(type_url.to_string(), HashMap::from([(name, version)]));
            }
        }
        have
    }

    /// All of a type.
    pub(super) fn of(&self, type_url: &str) -> impl Iterator<Item = (&Arc<str>, &Version)> {
        self.0.get(type_url).into_iter().flatten()
    }

    /// The name as it is kept already.
    pub(super) fn name(&self, type_url: &str, name: &str) -> Option<&Arc<str>> {
        self.0.get(type_url)?.get_key_value(name).map(|(name, _)| name)
    }

    /// What was dropped is unknown: it is asked for anew some day.
    pub(super) fn forget<'a>(&mut self, type_url: &str, names: impl IntoIterator<Item = &'a Arc<str>>) {
        if let Some(known) = self.0.get_mut(type_url) {
            for name in names {
                known.remove(name);
            }
        }
    }

    /// Nothing but what is asked for is known.
    pub(super) fn keep_wanted(&mut self, type_url: &str, interest: &Interest) {
        if let Some(known) = self.0.get_mut(type_url) {
            known.retain(|name, _| interest.wants(name));
        }
    }

    /// Takes note of what was applied. A rejected resource stays at the version in force, or unknown, so that a reconnect brings it
    /// again; what is no longer desired is not noted.
    pub(super) fn applied(
        &mut self,
        type_url: &str,
        upserts: Vec<(Arc<str>, Version)>,
        removed: &[Arc<str>],
        rejections: &[Rejection],
        interest: Option<&Interest>,
    ) {
        let known = self.0.entry(type_url.to_string()).or_default();
        for name in removed {
            known.remove(name);
        }
        let Some(interest) = interest else { return };
        let rejected: HashSet<&str> = rejections.iter().map(|rejection| &*rejection.name).collect();
        for (name, version) in upserts {
            if !rejected.contains(&*name) && interest.wants(&name) {
                known.insert(name, version);
            }
        }
    }
}
