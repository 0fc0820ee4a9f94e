//! What is looked for; a function for each kind of object.

mod destination_rule;
mod exports;
mod gateway;
mod network;
mod route;
mod security;
mod selector;
mod service;
mod virtual_service;

use isthmus_model::Hostname;
use isthmus_registry::MeshService;

use super::code::{self, Code};
use super::report::Report;
use super::world::{Found, World};
use crate::objects::Item;

/// Looks for everything.
pub(super) fn all(world: &World, report: &mut Report) {
    virtual_service::check(world, report);
    destination_rule::check(world, report);
    gateway::check(world, report);
    selector::check(world, report);
    security::check(world, report);
    service::check(world, report);
    network::check(world, report);
    exports::check(world, report);
}

/// The service that a field means; what is wrong is reported, as `missing` where it is not there.
fn service_of<'w>(
    world: &'w World,
    report: &mut Report,
    item: &Item,
    field: &str,
    text: &str,
    missing: &'static Code,
) -> Option<(Hostname, &'w MeshService)> {
    let namespace = item.object.meta().namespace.clone()?;
    let Some(host) = World::full_host(text, &namespace) else {
        report.add(
            missing,
            item,
            field,
            format!("{text:?} is no host"),
            "write a service's name or full host",
        );
        return None;
    };
    match world.find(&host, &namespace) {
        Found::Service(service) => return Some((host, service)),
        Found::Alias => {}
        Found::Hidden(service) => {
            let own = &service.service.namespace;
            let message =
                format!("host {text:?} is there, and its exportTo hides it from namespace {namespace}");
            let advice = format!("add {namespace} to exportTo of {own}/{}", service.service.name);
            report.add(&code::HIDDEN, item, field, message, advice);
        }
        Found::Missing => {
            let full = if host.as_str() == text { String::new() } else { format!(" ({host})") };
            let message = format!("host {text:?}{full} is not found");
            let advice = match world.near(&host) {
                Some(near) => format!("did you mean {near}?"),
                None => "create its Service or ServiceEntry, or correct the name".to_string(),
            };
            report.add(missing, item, field, message, advice);
        }
        Found::Unknown(why) => report.unchecked(why),
    }
    None
}

/// Names in a text: `a, b and c`.
fn listed<T: ToString>(all: impl IntoIterator<Item = T>) -> String {
    let all: Vec<String> = all.into_iter().map(|one| one.to_string()).collect();
    match all.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        Some((last, _)) => last.clone(),
        None => String::new(),
    }
}

/// `a=b,c=d`.
fn pairs(labels: &isthmus_model::Labels) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}
