//! What is asked for, what the server was told of it, and what the client has: no I/O.

use std::collections::{BTreeSet, HashMap};

use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use envoy_types::pb::google::rpc;
use isthmus_proto::type_url;

use super::{Rejection, Update, Upsert};
use crate::server::HealthReport;
use crate::wire::DeltaResponse;

/// gRPC's code for internal errors: what Istio's agents put into health reports and refusals.
const INTERNAL: i32 = 13;
/// Bytes of a refusal's text.
const REASON: usize = 4096;

/// Names of one type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Interest {
    all: bool,
    names: BTreeSet<String>,
}

impl Interest {
    fn is_empty(&self) -> bool {
        !self.all && self.names.is_empty()
    }

    fn wants(&self, name: &str) -> bool {
        self.all || self.names.contains(name)
    }
}

/// What the caller asks for, in order of first mention.
#[derive(Debug, Default)]
pub(super) struct Desired {
    types: Vec<(String, Interest)>,
    health: Option<HealthReport>,
    reports: u64,
}

impl Desired {
    fn of(&mut self, type_url: &str) -> &mut Interest {
        let at = self.types.iter().position(|(url, _)| url == type_url).unwrap_or_else(|| {
            self.types.push((type_url.to_string(), Interest::default()));
            self.types.len() - 1
        });
        &mut self.types[at].1
    }

    pub(super) fn all(&mut self, type_url: &str) -> bool {
        !std::mem::replace(&mut self.of(type_url).all, true)
    }

    pub(super) fn add(&mut self, type_url: &str, names: impl Iterator<Item = String>) -> bool {
        let interest = self.of(type_url);
        let mut changed = false;
        for name in names {
            changed |= interest.names.insert(name);
        }
        changed
    }

    pub(super) fn drop_names(
        &mut self,
        type_url: &str,
        names: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> bool {
        let interest = self.of(type_url);
        let mut changed = false;
        for name in names {
            changed |= interest.names.remove(name.as_ref());
        }
        changed
    }

    pub(super) fn health(&mut self, report: HealthReport) -> bool {
        self.health = Some(report);
        self.reports += 1;
        true
    }

    fn find(&self, type_url: &str) -> Option<&Interest> {
        self.types.iter().find(|(url, _)| url == type_url).map(|(_, interest)| interest)
    }
}

/// What the server of the present stream was told.
#[derive(Debug, Default)]
pub(super) struct Told {
    types: HashMap<String, Interest>,
    answered: BTreeSet<String>,
    reports: u64,
}

/// Versions of what the handler accepted, by type and name.
#[derive(Debug, Default)]
pub(super) struct Have(HashMap<String, HashMap<String, String>>);

impl Told {
    /// Requests that make the server know what is desired.
    pub(super) fn catch_up(&mut self, desired: &Desired, have: &mut Have) -> Vec<DeltaDiscoveryRequest> {
        let mut requests = Vec::new();
        for (url, interest) in &desired.types {
            let request = match self.types.get(url) {
                Some(told) if told == interest => continue,
                None if interest.is_empty() => continue,
                Some(told) => change(url, told, interest),
                None => first(url, interest, have),
            };
            if !interest.all
                && let Some(known) = have.0.get_mut(url)
            {
                known.retain(|name, _| interest.names.contains(name));
            }
            self.types.insert(url.clone(), interest.clone());
            requests.push(request);
        }
        if let Some(health) = &desired.health
            && self.reports != desired.reports
            && self.types.contains_key(type_url::LISTENER)
        {
            self.reports = desired.reports;
            let error_detail = match health {
                HealthReport::Healthy => None,
                HealthReport::Unhealthy(message) => Some(status(message.clone())),
            };
            let type_url = type_url::HEALTH.to_string();
            requests.push(DeltaDiscoveryRequest { type_url, error_detail, ..Default::default() });
        }
        requests
    }

    /// The update in a response, without what is no longer asked for.
    pub(super) fn update(&mut self, response: DeltaResponse, desired: &Desired) -> Update {
        let nothing = Interest::default();
        let interest = desired.find(&response.type_url).unwrap_or(&nothing);
        let upserts = response.resources.into_iter().filter(|resource| interest.wants(&resource.name));
        let upserts = upserts.map(|resource| Upsert {
            name: resource.name,
            version: resource.version,
            body: resource.resource.unwrap_or_default().value,
        });
        let removed = response.removed_resources.into_iter().filter(|name| interest.wants(name));
        Update {
            first: self.answered.insert(response.type_url.clone()),
            upserts: upserts.collect(),
            removed: removed.collect(),
            type_url: response.type_url,
        }
    }
}

impl Have {
    /// From types, names and versions.
    pub(super) fn from_known(known: Vec<(String, String, String)>) -> Self {
        let mut have = Self::default();
        for (type_url, name, version) in known {
            have.0.entry(type_url).or_default().insert(name, version);
        }
        have
    }

    /// Takes note of what was applied. A rejected resource stays at the version in force, or unknown, so that a reconnect brings it
    /// again.
    pub(super) fn applied(
        &mut self,
        type_url: &str,
        upserts: Vec<(String, String)>,
        removed: &[String],
        rejections: &[Rejection],
    ) {
        let known = self.0.entry(type_url.to_string()).or_default();
        for name in removed {
            known.remove(name);
        }
        for (name, version) in upserts {
            if !rejections.iter().any(|rejection| rejection.name == name) {
                known.insert(name, version);
            }
        }
    }
}

/// An acknowledgement, or a refusal that names what cannot be used.
pub(super) fn answer(
    type_url: String,
    response_nonce: String,
    rejections: &[Rejection],
) -> DeltaDiscoveryRequest {
    let error_detail = (!rejections.is_empty()).then(|| {
        let all: Vec<String> =
            rejections.iter().map(|rejection| format!("{}: {}", rejection.name, rejection.reason)).collect();
        let mut text = all.join("; ");
        if text.len() > REASON {
            text.truncate(text.floor_char_boundary(REASON));
            text.push('…');
        }
        status(text)
    });
    DeltaDiscoveryRequest { type_url, response_nonce, error_detail, ..Default::default() }
}

fn status(message: String) -> rpc::Status {
    rpc::Status { code: INTERNAL, message, details: Vec::new() }
}

fn first(url: &str, interest: &Interest, have: &Have) -> DeltaDiscoveryRequest {
    let initial = have.0.get(url).into_iter().flatten().filter(|(name, _)| interest.wants(name));
    let star = (interest.all && !interest.names.is_empty()).then(|| "*".to_string());
    DeltaDiscoveryRequest {
        type_url: url.to_string(),
        // Nothing at all is everything, in the first request.
        resource_names_subscribe: star.into_iter().chain(interest.names.iter().cloned()).collect(),
        initial_resource_versions: initial.map(|(name, version)| (name.clone(), version.clone())).collect(),
        ..Default::default()
    }
}

fn change(url: &str, told: &Interest, interest: &Interest) -> DeltaDiscoveryRequest {
    let star = (interest.all && !told.all).then(|| "*".to_string());
    DeltaDiscoveryRequest {
        type_url: url.to_string(),
        resource_names_subscribe: star
            .into_iter()
            .chain(interest.names.difference(&told.names).cloned())
            .collect(),
        resource_names_unsubscribe: told.names.difference(&interest.names).cloned().collect(),
        ..Default::default()
    }
}
