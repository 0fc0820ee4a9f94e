//! What policies and machines refer to.

use isthmus_resources::Kind;

use crate::analyze::code;
use crate::analyze::report::Report;
use crate::analyze::world::{World, each};

pub(super) fn check(world: &World, report: &mut Report) {
    for (item, policy) in each!(world.items, AuthorizationPolicy) {
        for (at, rule) in policy.spec.rules.iter().enumerate() {
            for (from, one) in rule.from.iter().enumerate() {
                let lists =
                    [("namespaces", &one.source.namespaces), ("notNamespaces", &one.source.not_namespaces)];
                for (member, names) in lists {
                    for (which, name) in names.iter().enumerate().filter(|(_, name)| !name.contains('*')) {
                        if !namespace_known(world, report, name) {
                            let field = format!("spec.rules[{at}].from[{from}].source.{member}[{which}]");
                            let message = format!("namespace {name:?} is not found");
                            report.add(
                                &code::NOT_FOUND,
                                item,
                                field,
                                message,
                                "create it, or correct the name",
                            );
                        }
                    }
                }
            }
        }
    }
    accounts(world, report);
}

/// Whether a namespace is there, or may be.
pub(super) fn namespace_known(world: &World, report: &mut Report, name: &str) -> bool {
    world.has_namespace(name).unwrap_or_else(|| {
        report.unchecked("namespaces of which nothing was read");
        true
    })
}

/// A machine joins as its group's service account.
fn accounts(world: &World, report: &mut Report) {
    for (item, group) in each!(world.items, WorkloadGroup) {
        let namespace = group.meta.namespace_str();
        let account = group.spec.template.service_account.as_str();
        let of_namespace = || {
            world.items.iter().filter(|item| {
                item.object.kind() == Kind::ServiceAccount && item.object.meta().namespace_str() == namespace
            })
        };
        let named = if account.is_empty() { "default" } else { account };
        // Kubernetes makes the default one, so that files do not have it.
        let known = world.live || named != "default" && of_namespace().next().is_some();
        if known && !of_namespace().any(|item| *item.object.meta().name == *named) {
            let message = format!("ServiceAccount {namespace}/{named} is not found: no machine can join");
            let advice = format!("kubectl create serviceaccount {named} -n {namespace}");
            report.add(&code::NOT_FOUND, item, "spec.template.serviceAccount", message, advice);
        }
    }
}
