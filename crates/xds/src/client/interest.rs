//! What is asked for, what the server was told of it, and what the client has: no I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::str::Utf8Error;
use std::sync::Arc;

use bytes::Bytes;

use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use envoy_types::pb::google::rpc;
use isthmus_proto::type_url;

use super::have::Have;
use super::{Rejection, Update, Upsert, Version};
use crate::server::HealthReport;
use crate::wire::{DeltaResource, DeltaResponse};

/// gRPC's code for internal errors: what Istio's agents put into health reports and refusals.
const INTERNAL: i32 = 13;
/// Bytes of a refusal's text.
const REASON: usize = 4096;

/// Names of one type.
#[derive(Debug, Default)]
pub(super) struct Interest {
    all: bool,
    names: HashSet<Arc<str>>,
    /// Names that were added or dropped since the server was last told; in one order, so that requests are alike.
    touched: BTreeSet<Arc<str>>,
}

impl Interest {
    fn is_empty(&self) -> bool {
        !self.all && self.names.is_empty()
    }

    pub(super) fn wants(&self, name: &str) -> bool {
        self.all || self.names.contains(name)
    }
}

/// What the caller asks for, in order of first mention.
#[derive(Debug, Default)]
pub(super) struct Desired {
    types: Vec<(String, Interest)>,
    health: Option<HealthReport>,
    reports: u64,
    /// What was accepted and is refused after all: names and reason by type.
    refusals: BTreeMap<String, (BTreeSet<Arc<str>>, String)>,
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

    pub(super) fn add(&mut self, type_url: &str, names: impl Iterator<Item = Arc<str>>) -> bool {
        let interest = self.of(type_url);
        let mut changed = false;
        for name in names {
            if interest.names.insert(Arc::clone(&name)) {
                interest.touched.insert(name);
                changed = true;
            }
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
            if let Some(name) = interest.names.take(name.as_ref()) {
                interest.touched.insert(name);
                changed = true;
            }
        }
        changed
    }

    pub(super) fn refuse(&mut self, type_url: &str, names: &[Arc<str>], reason: &str) -> bool {
        let (known, text) = self.refusals.entry(type_url.to_string()).or_default();
        known.extend(names.iter().cloned());
        *text = short(reason.to_string());
        true
    }

    pub(super) fn health(&mut self, report: HealthReport) -> bool {
        self.health = Some(report);
        self.reports += 1;
        true
    }

    pub(super) fn find(&self, type_url: &str) -> Option<&Interest> {
        self.types.iter().find(|(url, _)| url == type_url).map(|(_, interest)| interest)
    }
}

/// What the server of the present stream was told.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Types, and whether everything of them was asked for. Their names are what is desired, without what was touched since.
    types: HashMap<String, bool>,
    /// The last response of each type.
    answered: HashMap<String, String>,
    reports: u64,
}

impl Told {
    /// Requests that make the server know what is desired.
    pub(super) fn catch_up(&mut self, desired: &mut Desired, have: &mut Have) -> Vec<DeltaDiscoveryRequest> {
        let mut requests = Vec::new();
        for (url, interest) in &mut desired.types {
            let touched = std::mem::take(&mut interest.touched);
            if !interest.all {
                let dropped = touched.iter().filter(|name| !interest.names.contains(*name));
                have.forget(url, dropped);
            }
            let request = match self.types.get(url) {
                Some(told) if touched.is_empty() && *told == interest.all => continue,
                None if interest.is_empty() => continue,
                Some(told) => change(url, *told, interest, touched),
                None => {
                    have.keep_wanted(url, interest);
                    first(url, interest, have)
                }
            };
            self.types.insert(url.clone(), interest.all);
            requests.push(request);
        }
        for (url, (names, reason)) in std::mem::take(&mut desired.refusals) {
            have.forget(&url, &names);
            // On a new stream there is nothing to refuse yet.
            if let Some(nonce) = self.answered.get(&url) {
                let (response_nonce, error_detail) = (nonce.clone(), Some(status(reason)));
                let request = DeltaDiscoveryRequest {
                    type_url: url,
                    response_nonce,
                    error_detail,
                    ..Default::default()
                };
                requests.push(request);
            }
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
    ///
    /// # Errors
    /// When a name or a version is no text.
    pub(super) fn update(
        &mut self,
        response: DeltaResponse,
        length: usize,
        desired: &Desired,
        have: &Have,
    ) -> Result<Update, Utf8Error> {
        let nothing = Interest::default();
        let url = response.type_url;
        let interest = desired.find(&url).unwrap_or(&nothing);
        // One text for each name, whoever holds it.
        let shared = |name: &str| {
            let known = interest.names.get(name).or_else(|| have.name(&url, name));
            known.map_or_else(|| Arc::from(name), Arc::clone)
        };
        let mut upserts = Vec::with_capacity(response.resources.len());
        for DeltaResource { version, resource, name } in response.resources {
            let name = std::str::from_utf8(&name)?;
            if interest.wants(name) {
                let version = Version::from(std::str::from_utf8(&version)?);
                let body = apart(resource.unwrap_or_default().value, length);
                upserts.push(Upsert { name: shared(name), version, body });
            }
        }
        let removed = response.removed_resources.iter().filter(|name| interest.wants(name));
        let removed = removed.map(|name| shared(name)).collect();
        let first = self.answered.insert(url.clone(), response.nonce).is_none();
        Ok(Update { first, upserts, removed, type_url: url })
    }
}

/// A body that does not hold the whole response that it came in, unless that is little more.
fn apart(body: Bytes, response: usize) -> Bytes {
    if body.len() >= response / 8 * 7 { body } else { Bytes::copy_from_slice(&body) }
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
        status(short(all.join("; ")))
    });
    DeltaDiscoveryRequest { type_url, response_nonce, error_detail, ..Default::default() }
}

fn short(mut text: String) -> String {
    if text.len() > REASON {
        text.truncate(text.floor_char_boundary(REASON));
        text.push('…');
    }
    text
}

fn status(message: String) -> rpc::Status {
    rpc::Status { code: INTERNAL, message, details: Vec::new() }
}

fn first(url: &str, interest: &Interest, have: &Have) -> DeltaDiscoveryRequest {
    let initial = have.of(url).filter(|(name, _)| interest.wants(name));
    let star = (interest.all && !interest.names.is_empty()).then(|| "*".to_string());
    let mut names: Vec<String> = interest.names.iter().map(ToString::to_string).collect();
    names.sort_unstable();
    DeltaDiscoveryRequest {
        type_url: url.to_string(),
        // Nothing at all is everything, in the first request.
        resource_names_subscribe: star.into_iter().chain(names).collect(),
        initial_resource_versions: initial
            .map(|(name, version)| (name.to_string(), version.to_string()))
            .collect(),
        ..Default::default()
    }
}

/// A name that was dropped and added again is asked for again: the server answers it once more, and whoever asked anew waits for
/// that.
fn change(
    url: &str,
    all_told: bool,
    interest: &Interest,
    touched: BTreeSet<Arc<str>>,
) -> DeltaDiscoveryRequest {
    let star = (interest.all && !all_told).then(|| "*".to_string());
    let (added, dropped): (Vec<_>, Vec<_>) =
        touched.into_iter().partition(|name| interest.names.contains(name));
    let added = added.iter().map(ToString::to_string);
    DeltaDiscoveryRequest {
        type_url: url.to_string(),
        resource_names_subscribe: star.into_iter().chain(added).collect(),
        resource_names_unsubscribe: dropped.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}
