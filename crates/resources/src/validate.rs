//! Istio's rules for what an object may say, beyond what its schema checks.

use std::fmt;

use crate::object::Object;

mod destination_rule;
mod gateway;
mod names;
mod security;
mod service_entry;
mod sidecar;
mod virtual_service;
mod workload;

/// One thing that is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path such as `spec.ports[0].number`.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// Collects problems.
#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(Problem { field: field.into(), message: message.into() });
    }

    /// Adds a problem unless the rule holds.
    fn require(&mut self, holds: bool, field: impl Into<String>, message: impl Into<String>) {
        if !holds {
            self.add(field, message);
        }
    }

    /// Adds what a check found wrong.
    fn check(&mut self, field: impl Into<String>, outcome: Result<(), String>) {
        if let Err(message) = outcome {
            self.add(field, message);
        }
    }
}

/// Everything that is wrong with an object; empty when it may be applied.
#[must_use]
pub fn validate(object: &Object) -> Vec<Problem> {
    let mut problems = Problems::default();
    match object {
        Object::DestinationRule(rule) => destination_rule::check(&rule.spec, &mut problems),
        Object::VirtualService(service) => virtual_service::check(&service.spec, &mut problems),
        Object::Gateway(gateway) => gateway::check(&gateway.spec, &mut problems),
        Object::ServiceEntry(entry) => service_entry::check(&entry.spec, &mut problems),
        Object::WorkloadEntry(entry) => workload::check_entry("spec", &entry.spec, &mut problems),
        Object::WorkloadGroup(group) => workload::check_group(&group.spec, &mut problems),
        Object::Sidecar(sidecar) => sidecar::check(&sidecar.spec, &mut problems),
        Object::PeerAuthentication(policy) => security::peer(&policy.spec, &mut problems),
        Object::RequestAuthentication(policy) => security::request(&policy.spec, &mut problems),
        Object::AuthorizationPolicy(policy) => security::authorization(&policy.spec, &mut problems),
        Object::Peer(peer) => names::gateways(&peer.spec.gateways, &mut problems),
        _ => {}
    }
    problems.0
}

#[cfg(test)]
mod tests;
