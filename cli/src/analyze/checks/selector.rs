//! Selectors that select nothing, and Sidecars that select the same.

use std::collections::BTreeMap;

use isthmus_model::{Labels, Selector};
use isthmus_resources::{Kind, Object, Resource, istio};

use super::{listed, pairs};
use crate::analyze::code;
use crate::analyze::report::Report;
use crate::analyze::world::{World, each};
use crate::objects::Item;

pub(super) fn check(world: &World, report: &mut Report) {
    for item in &world.items {
        nothing(world, report, item);
    }
    sidecars(world, report);
}

/// The selector of an object, with its path.
fn selector(object: &Object) -> Option<(&'static str, &Labels)> {
    let found = match object {
        Object::Sidecar(one) => {
            ("spec.workloadSelector", one.spec.workload_selector.as_ref().map(|one| &one.labels))
        }
        Object::ServiceEntry(one) => {
            ("spec.workloadSelector", one.spec.workload_selector.as_ref().map(|one| &one.labels))
        }
        Object::DestinationRule(one) => {
            ("spec.workloadSelector", one.spec.workload_selector.as_ref().map(|one| &one.labels))
        }
        Object::PeerAuthentication(one) => {
            ("spec.selector", one.spec.selector.as_ref().map(|one| &one.match_labels))
        }
        Object::AuthorizationPolicy(one) => {
            ("spec.selector", one.spec.selector.as_ref().map(|one| &one.match_labels))
        }
        Object::RequestAuthentication(one) => {
            ("spec.selector", one.spec.selector.as_ref().map(|one| &one.match_labels))
        }
        _ => return None,
    };
    Some((found.0, found.1.filter(|labels| !labels.is_empty())?))
}

fn nothing(world: &World, report: &mut Report, item: &Item) {
    let Some((field, labels)) = selector(&item.object) else { return };
    let own = item.object.meta().namespace_str();
    let everywhere =
        own == world.snapshot.root_namespace.as_str() && item.object.kind() == Kind::AuthorizationPolicy;
    let namespace = (!everywhere).then_some(own);
    if world.selected(namespace, labels).next().is_some() {
        return;
    }
    if !world.knows_workloads(namespace) {
        return report
            .unchecked(format!("selectors of namespace {own}, of which the workloads are not known"));
    }
    let message = format!("no workload of namespace {own} has {}", pairs(labels));
    report.add(&code::SELECTS_NOTHING, item, field, message, "correct the labels, or remove the object");
}

fn sidecars(world: &World, report: &mut Report) {
    let mut by_namespace: BTreeMap<&str, Vec<(&Item, &Resource<istio::Sidecar>)>> = BTreeMap::new();
    for (item, sidecar) in each!(world.items, Sidecar) {
        by_namespace.entry(sidecar.meta.namespace_str()).or_default().push((item, sidecar));
    }
    for (namespace, mut all) in by_namespace {
        all.sort_by(|(_, a), (_, b)| a.meta.age_key().cmp(&b.meta.age_key()));
        let labels = |one: &Resource<istio::Sidecar>| {
            one.spec
                .workload_selector
                .as_ref()
                .map(|one| one.labels.clone())
                .filter(|labels| !labels.is_empty())
        };
        let (whole, chosen): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, one)| labels(one).is_none());
        if whole.len() > 1 {
            for (item, one) in &whole {
                let others = whole.iter().filter(|(_, other)| other.meta.name != one.meta.name);
                let others = listed(others.map(|(_, other)| &other.meta));
                let message = format!("Sidecar {others} has no workloadSelector either; the oldest counts");
                report.add(&code::SIDECARS_OF_ONE_NAMESPACE, item, "", message, "keep one for the namespace");
            }
        }
        for (at, (item, one)) in chosen.iter().enumerate() {
            let selects = |one: &Resource<istio::Sidecar>| Selector(labels(one).unwrap_or_default());
            let (own, rest) = (selects(one), chosen.iter().enumerate());
            let mut clashes = rest.filter(|(other, _)| *other != at).filter(|(_, (_, other))| {
                let mut workloads = world.workloads.iter().filter(|workload| workload.namespace == namespace);
                workloads
                    .any(|workload| own.matches(&workload.labels) && selects(other).matches(&workload.labels))
            });
            if let Some((_, (_, other))) = clashes.next() {
                let message =
                    format!("Sidecar {} selects some of the same workloads; the oldest counts", other.meta);
                report.add(
                    &code::SIDECARS_OF_ONE_WORKLOAD,
                    item,
                    "spec.workloadSelector",
                    message,
                    "make the selectors disjoint",
                );
            }
        }
    }
}
