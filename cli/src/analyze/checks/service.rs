//! Services and ServiceEntries.

use std::collections::{BTreeMap, BTreeSet};

use isthmus_model::Protocol;
use isthmus_resources::Resource;
use isthmus_resources::kubernetes::{Service, ServiceType};

use super::{listed, pairs};
use crate::analyze::code;
use crate::analyze::report::Report;
use crate::analyze::world::{World, each};
use crate::objects::Item;

/// Namespaces whose Services are Kubernetes' own.
const OF_KUBERNETES: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

pub(super) fn check(world: &World, report: &mut Report) {
    for (item, service) in each!(world.items, Service) {
        let namespace = service.meta.namespace_str();
        let of_kubernetes = OF_KUBERNETES.contains(&namespace)
            || (namespace == "default" && &*service.meta.name == "kubernetes");
        if !of_kubernetes {
            workloads(world, report, item, service);
            ports(report, item, service);
        }
    }
    clusters(world, report);
    protocols(world, report);
}

fn workloads(world: &World, report: &mut Report, item: &Item, service: &Resource<Service>) {
    let selector = &service.spec.selector;
    let namespace = service.meta.namespace_str();
    // A gateway can run without a Pod.
    let of_gateway = selector.get("istio").is_some_and(|value| value.ends_with("gateway"));
    if selector.is_empty() || of_gateway || !world.knows_workloads(Some(namespace)) {
        return;
    }
    if world.selected(Some(namespace), selector).next().is_none() {
        let message =
            format!("it selects no workload: none of namespace {namespace} has {}", pairs(selector));
        report.add(
            &code::NO_WORKLOADS,
            item,
            "spec.selector",
            message,
            "correct the selector, or start the workload",
        );
    }
}

fn ports(report: &mut Report, item: &Item, service: &Resource<Service>) {
    if service.spec.kind == ServiceType::ExternalName {
        return;
    }
    for (at, port) in
        service.spec.ports.iter().enumerate().filter(|(_, port)| port.protocol == Protocol::Auto)
    {
        let (field, named) = match port.name.is_empty() {
            true => (format!("spec.ports[{at}].port"), "has no name".to_string()),
            false => (format!("spec.ports[{at}].name"), format!("is named {:?}", port.name)),
        };
        let message = format!("port {} {named}, which does not say its protocol", port.number);
        report.add(
            &code::PORT_NAME,
            item,
            field,
            message,
            "name it tcp-…, http-…, tls-…, or set appProtocol",
        );
    }
}

/// One Service of several clusters is one service of the mesh.
fn clusters(world: &World, report: &mut Report) {
    for (item, own) in each!(world.items, Service) {
        let mut differ: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
        for (cluster, items) in &world.others {
            let same = each!(items, Service).find(|(_, other)| {
                other.meta.name == own.meta.name && other.meta.namespace == own.meta.namespace
            });
            let Some((_, other)) = same else { continue };
            let shape = |service: &Service| {
                let ports = service.ports.iter().map(|port| (port.number, port.protocol, port.name.clone()));
                ports.collect::<BTreeSet<_>>()
            };
            let parts = [
                ("ports", shape(&own.spec) != shape(&other.spec)),
                ("headless in one only", own.spec.headless != other.spec.headless),
                (
                    "type ExternalName in one only",
                    (own.spec.kind == ServiceType::ExternalName)
                        != (other.spec.kind == ServiceType::ExternalName),
                ),
            ];
            let parts: BTreeSet<&str> =
                parts.iter().filter(|(_, differs)| *differs).map(|(what, _)| *what).collect();
            if !parts.is_empty() {
                differ.insert(cluster.to_string(), parts);
            }
        }
        for (cluster, parts) in differ {
            let message =
                format!("it differs between clusters {} and {cluster}: {}", world.cluster, listed(parts));
            report.add(
                &code::CLUSTERS_DISAGREE,
                item,
                "spec",
                message,
                "make both the same: clients see one service",
            );
        }
    }
}

/// A ServiceEntry, which of its ports, and that port's protocol.
type Declared<'w> = (&'w Item, usize, String);

/// One port of one host has one protocol.
fn protocols(world: &World, report: &mut Report) {
    let mut by_port: BTreeMap<(String, u16), Vec<Declared<'_>>> = BTreeMap::new();
    for (item, entry) in each!(world.items, ServiceEntry) {
        for host in &entry.spec.hosts {
            for (at, port) in entry.spec.ports.iter().enumerate() {
                let protocol = port.protocol.to_ascii_uppercase();
                by_port
                    .entry((host.to_ascii_lowercase(), port.number))
                    .or_default()
                    .push((item, at, protocol));
            }
        }
    }
    for ((host, number), all) in by_port {
        let known: BTreeSet<&String> = all.iter().map(|(_, _, protocol)| protocol).collect();
        if known.len() < 2 {
            continue;
        }
        for (item, at, _) in &all {
            let others = all.iter().filter(|(other, _, _)| other.object.meta() != item.object.meta());
            let others = listed(others.map(|(other, _, _)| other.object.meta()));
            let message = format!(
                "port {number} of {host} has protocols {}; see ServiceEntry {others}",
                listed(&known)
            );
            report.add(
                &code::PROTOCOLS_CONFLICT,
                item,
                format!("spec.ports[{at}].protocol"),
                message,
                "agree on one",
            );
        }
    }
}
