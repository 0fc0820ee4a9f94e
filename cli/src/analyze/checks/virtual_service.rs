//! VirtualServices: where they lead, which gateways they are for, and whether they get in one another's way.

use std::collections::BTreeMap;

use isthmus_model::{Hostname, Namespace};
use isthmus_registry::MeshService;
use isthmus_resources::Resource;
use isthmus_resources::istio::{DestinationRule, Gateway, VirtualService};

use super::route::{Leads, destinations, is_anything, rules};
use super::{listed, service_of};
use crate::analyze::code;
use crate::analyze::report::Report;
use crate::analyze::world::{World, each};
use crate::objects::Item;

const MESH: &str = "mesh";

pub(super) fn check(world: &World, report: &mut Report) {
    for (item, service) in each!(world.items, VirtualService) {
        for leads in destinations(item, service) {
            destination(world, report, item, &leads);
        }
        gateways(world, report, item, service);
        delegates(world, report, item, service);
        order(report, item);
    }
    same_hosts(world, report);
}

/// Host, port and subset of a destination.
fn destination(world: &World, report: &mut Report, item: &Item, Leads { field, to }: &Leads) {
    let host_field = format!("{field}.host");
    let Some((host, service)) = service_of(world, report, item, &host_field, &to.host, &code::NOT_FOUND)
    else {
        return;
    };
    let numbers: Vec<u16> = service.service.ports.iter().map(|port| port.number).collect();
    match &to.port {
        Some(port) if service.service.port(port.number).is_none() => {
            let message =
                format!("host {:?} has no port {}; it has {}", to.host, port.number, listed(&numbers));
            report.add(
                &code::NOT_FOUND,
                item,
                format!("{field}.port.number"),
                message,
                "name one of its ports",
            );
        }
        None if numbers.len() > 1 => {
            let message = format!(
                "host {:?} has several ports ({}) and the route says none",
                to.host,
                listed(&numbers)
            );
            let advice = format!("add port: {{number: {}}} to the destination", numbers[0]);
            report.add(&code::PORT_NEEDED, item, field, message, advice);
        }
        _ => {}
    }
    if !to.subset.is_empty() {
        subset(world, report, item, field, &to.subset, &host, service);
    }
}

/// A subset is one of a DestinationRule that the client's, the service's or the root namespace has.
fn subset(
    world: &World,
    report: &mut Report,
    item: &Item,
    field: &str,
    wanted: &str,
    host: &Hostname,
    service: &MeshService,
) {
    let client = item.object.meta().namespace.clone();
    let root = &world.snapshot.root_namespace;
    let used = |rule: &Resource<DestinationRule>| {
        let Some(own) = &rule.meta.namespace else { return false };
        let looked_at = client.as_ref() == Some(own) || own == root || *own == service.service.namespace;
        looked_at
            && client.as_ref().is_some_and(|client| exported(&rule.spec.export_to, own, client))
            && World::full_host(&rule.spec.host, own).is_some_and(|own| own.covers(host.as_str()))
    };
    let rules: Vec<_> = each!(world.items, DestinationRule).filter(|(_, rule)| used(rule)).collect();
    let known: Vec<&str> =
        rules.iter().flat_map(|(_, rule)| &rule.spec.subsets).map(|subset| subset.name.as_str()).collect();
    if known.contains(&wanted) {
        return;
    }
    let has_rules = each!(world.items, DestinationRule).next().is_some();
    if !world.live && !has_rules {
        return report.unchecked("subsets, as the files have no DestinationRule");
    }
    let (message, advice) = match rules.first() {
        None => (
            format!(
                "subset {wanted:?} of {host} is not found: no DestinationRule for that host applies here"
            ),
            format!("create a DestinationRule for host {host} with subset {wanted}"),
        ),
        Some((_, rule)) => (
            format!("subset {wanted:?} of {host} is not found; {} has {}", rule.meta, listed(&known)),
            format!("add the subset to DestinationRule {}, or name one that it has", rule.meta),
        ),
    };
    report.add(&code::NOT_FOUND, item, format!("{field}.subset"), message, advice);
}

/// Gateways that it is for, and whether they let its hosts in.
fn gateways(world: &World, report: &mut Report, item: &Item, service: &Resource<VirtualService>) {
    let Some(own) = &service.meta.namespace else { return };
    for (at, text) in service.spec.gateways.iter().enumerate().filter(|(_, text)| *text != MESH) {
        let field = format!("spec.gateways[{at}]");
        let (namespace, name) = text.split_once('/').unwrap_or((own.as_str(), text));
        let named = |gateway: &Resource<Gateway>| {
            gateway.meta.namespace_str() == namespace && *gateway.meta.name == *name
        };
        let Some((_, gateway)) = each!(world.items, Gateway).find(|(_, gateway)| named(gateway)) else {
            if !world.live
                && !each!(world.items, Gateway).any(|(_, one)| one.meta.namespace_str() == namespace)
            {
                report.unchecked(format!(
                    "gateways of namespace {namespace}, of which the files have no Gateway"
                ));
                continue;
            }
            let others = each!(world.items, Gateway).map(|(_, gateway)| gateway.meta.to_string());
            let others: Vec<String> = others.collect();
            let there =
                if others.is_empty() { String::new() } else { format!("; there are {}", listed(others)) };
            let message = format!("gateway {text:?} is not found{there}");
            report.add(
                &code::NOT_FOUND,
                item,
                field,
                message,
                "write NAMESPACE/NAME for one of another namespace",
            );
            continue;
        };
        let hosts: Vec<&String> = gateway.spec.servers.iter().flat_map(|server| &server.hosts).collect();
        let let_in = |wanted: &String| hosts.iter().any(|text| lets_in(text, namespace, wanted, own));
        if !service.spec.hosts.iter().any(let_in) {
            let message = format!(
                "no server of gateway {namespace}/{name} lets in {}; its hosts are {}",
                listed(&service.spec.hosts),
                listed(&hosts)
            );
            report.add(
                &code::HOST_NOT_IN_GATEWAY,
                item,
                field,
                message,
                "add the host to a server of the gateway",
            );
        }
    }
}

/// Whether a server's host lets in a host of a VirtualService of namespace `own`.
fn lets_in(text: &str, of_gateway: &str, wanted: &str, own: &Namespace) -> bool {
    let (namespace, host) = text.split_once('/').unwrap_or(("*", text));
    let namespace = if namespace == "." { of_gateway } else { namespace };
    let meets = |host: &str| {
        let (Ok(host), Ok(wanted)) = (Hostname::new(host), Hostname::new(wanted)) else { return false };
        host.as_str() == "*" || host.covers(wanted.as_str()) || wanted.covers(host.as_str())
    };
    (namespace == "*" || namespace == own.as_str()) && (host == "*" || wanted == "*" || meets(host))
}

/// VirtualServices whose routes it takes over.
fn delegates(world: &World, report: &mut Report, item: &Item, service: &Resource<VirtualService>) {
    for (at, rule) in service.spec.http.iter().enumerate() {
        let Some(delegate) = &rule.delegate else { continue };
        let name = delegate["name"].as_str().unwrap_or_default();
        let namespace = delegate["namespace"].as_str().filter(|text| !text.is_empty());
        let namespace = namespace.unwrap_or_else(|| service.meta.namespace_str());
        let there = each!(world.items, VirtualService)
            .any(|(_, one)| one.meta.namespace_str() == namespace && *one.meta.name == *name);
        if !there {
            let message = format!("VirtualService {namespace}/{name} is not found");
            report.add(
                &code::NOT_FOUND,
                item,
                format!("spec.http[{at}].delegate"),
                message,
                "create it, or correct the name",
            );
        }
    }
}

/// Rules that come after one which takes everything, and matches that come twice.
fn order(report: &mut Report, item: &Item) {
    for rules in rules(item) {
        // Where others take over, their matches count too.
        let rules: Vec<_> = rules.into_iter().filter(|rule| !rule.delegates).collect();
        let mut everything: Option<&str> = None;
        let mut seen: Vec<(&serde_json::Value, &str)> = Vec::new();
        for rule in &rules {
            if let Some(before) = everything {
                let message = format!("no connection reaches it: {before} takes everything");
                report.add(
                    &code::UNREACHABLE_ROUTE,
                    item,
                    &rule.field,
                    message,
                    format!("move it before {before}"),
                );
                continue;
            }
            let doubled: Vec<_> =
                rule.matches.iter().filter_map(|one| seen.iter().find(|(known, _)| *known == one)).collect();
            match doubled.first() {
                Some((_, before)) if doubled.len() == rule.matches.len() => {
                    let message = format!("no connection reaches it: {before} has the same matches");
                    report.add(
                        &code::UNREACHABLE_ROUTE,
                        item,
                        &rule.field,
                        message,
                        "remove one of the two, or tell them apart",
                    );
                }
                Some((_, before)) => {
                    let message = format!("a match that {before} has too is not used here");
                    report.add(
                        &code::SAME_MATCH,
                        item,
                        format!("{}.match", rule.field),
                        message,
                        "remove it",
                    );
                }
                None => {}
            }
            seen.extend(rule.matches.iter().map(|one| (one, rule.field.as_str())));
            if rule.matches.is_empty() || rule.matches.iter().any(is_anything) {
                everything = Some(&rule.field);
            }
        }
    }
}

/// Whether an object with this exportTo, of namespace `own`, counts in namespace `seen`.
pub(super) fn exported(export_to: &[String], own: &Namespace, seen: &Namespace) -> bool {
    export_to.is_empty()
        || export_to.iter().any(|to| match to.as_str() {
            "*" => true,
            "." => own == seen,
            name => name == seen.as_str(),
        })
}

/// Several for one host, seen by the same sidecars.
fn same_hosts(world: &World, report: &mut Report) {
    let mut by_host: BTreeMap<Hostname, Vec<(&Item, &Resource<VirtualService>)>> = BTreeMap::new();
    for (item, service) in each!(world.items, VirtualService) {
        let Some(own) = &service.meta.namespace else { continue };
        let for_mesh =
            service.spec.gateways.is_empty() || service.spec.gateways.iter().any(|name| name == MESH);
        if for_mesh {
            for host in service.spec.hosts.iter().filter_map(|text| World::full_host(text, own)) {
                by_host.entry(host).or_default().push((item, service));
            }
        }
    }
    for (host, mut all) in by_host {
        all.sort_by(|(_, a), (_, b)| a.meta.age_key().cmp(&b.meta.age_key()));
        for (at, (item, service)) in all.iter().enumerate() {
            let others =
                all.iter().enumerate().filter(|(other, (_, one))| *other != at && meet(service, one));
            let others: Vec<String> = others.map(|(_, (_, one))| one.meta.to_string()).collect();
            if others.is_empty() {
                continue;
            }
            let field = service.spec.hosts.iter().position(|text| {
                service.meta.namespace.as_ref().and_then(|own| World::full_host(text, own)).as_ref()
                    == Some(&host)
            });
            let field = format!("spec.hosts[{}]", field.unwrap_or(0));
            let message = format!(
                "host {host} is in VirtualService {} too; sidecars obey the oldest alone",
                listed(others)
            );
            report.add(&code::MESH_HOST_TWICE, item, field, message, "merge them into one VirtualService");
        }
    }
}

/// Whether some namespace sees both.
fn meet(one: &Resource<VirtualService>, two: &Resource<VirtualService>) -> bool {
    let seen = |service: &Resource<VirtualService>| -> Option<Vec<String>> {
        let to = &service.spec.export_to;
        let everywhere = to.is_empty() || to.iter().any(|to| to == "*");
        let own = || service.meta.namespace_str().to_string();
        (!everywhere).then(|| to.iter().map(|to| if to == "." { own() } else { to.clone() }).collect())
    };
    match (seen(one), seen(two)) {
        (Some(one), Some(two)) => one.iter().any(|namespace| two.contains(namespace)),
        _ => true,
    }
}
