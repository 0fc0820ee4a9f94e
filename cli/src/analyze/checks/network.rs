//! Networks: whether those that have workloads can be entered.

use std::collections::{BTreeMap, BTreeSet};

use isthmus_model::NetworkId;
use isthmus_resources::convert::{NETWORK_LABEL, gateway_addresses};

use crate::analyze::code;
use crate::analyze::report::Report;
use crate::analyze::world::{World, each};

const PORT: u16 = 15443;

pub(super) fn check(world: &World, report: &mut Report) {
    services(world, report);
    networks(world, report);
    registries(world, report);
}

/// Services that declare a gateway of a network.
fn services(world: &World, report: &mut Report) {
    for (item, service) in each!(world.items, Service) {
        let Some(network) = service.meta.labels.get(NETWORK_LABEL).filter(|text| !text.is_empty()) else {
            continue;
        };
        let labelled =
            service.meta.labels.get("networking.istio.io/gatewayPort").and_then(|text| text.parse().ok());
        let wanted: u16 = labelled.unwrap_or(PORT);
        if !service.spec.ports.iter().any(|port| port.number == wanted) {
            let message = format!(
                "it is labelled as gateway of network {network} and has no port {wanted}: nobody enters through it"
            );
            report.add(
                &code::GATEWAY_UNREACHABLE,
                item,
                "spec.ports",
                message,
                format!("add port {wanted}, or label networking.istio.io/gatewayPort"),
            );
        }
        let by_node = service.meta.annotations.get("traffic.istio.io/nodeSelector").is_some();
        // Files rarely have the status that a balancer writes.
        let unknown = !world.live && item.raw["spec"]["type"] == "LoadBalancer";
        if gateway_addresses(&service.spec).next().is_none() && !by_node && !unknown {
            let message = format!(
                "it is labelled as gateway of network {network} and has no external address: nobody enters through it"
            );
            report.add(
                &code::GATEWAY_UNREACHABLE,
                item,
                "spec.externalIPs",
                message,
                "wait for its load balancer, or set externalIPs",
            );
        }
    }
}

/// Networks with workloads and without a gateway, where there is more than one network.
fn networks(world: &World, report: &mut Report) {
    let mut workloads: BTreeMap<&NetworkId, Vec<String>> = BTreeMap::new();
    for workload in world.snapshot.workloads.iter() {
        let key = &workload.key;
        workloads.entry(&workload.network).or_default().push(format!("{}/{}", key.namespace, key.name));
    }
    let gateways: BTreeSet<&NetworkId> =
        world.snapshot.gateways.declared.iter().map(|gateway| &gateway.network).collect();
    let all: BTreeSet<&NetworkId> =
        workloads.keys().copied().chain(gateways.iter().copied()).filter(|one| !one.is_unnamed()).collect();
    if all.len() < 2 {
        return;
    }
    for (network, of_it) in
        workloads.iter().filter(|(network, _)| !network.is_unnamed() && !gateways.contains(**network))
    {
        let message = format!(
            "network {network} has {} workloads ({}, …) and no gateway: other networks do not reach them",
            of_it.len(),
            of_it[0]
        );
        let advice = format!(
            "label its gateway's Service {NETWORK_LABEL}={network} (port {PORT}, an external address)"
        );
        report.general(&code::NETWORK_WITHOUT_GATEWAY, message, advice);
    }
}

/// Clusters that mesh networks name.
fn registries(world: &World, report: &mut Report) {
    if world.others.is_empty() {
        return;
    }
    for (network, of_it) in &world.networks.0 {
        let known = |name: &&isthmus_model::ClusterId| {
            **name == world.cluster || world.others.iter().any(|(cluster, _)| cluster == *name)
        };
        for registry in of_it.registries.iter().filter(|name| !known(name)) {
            let message =
                format!("mesh networks: {network} names registry {registry}, and no cluster is called so");
            report.general(
                &code::UNKNOWN_REGISTRY,
                message,
                "fromRegistry is the name of a cluster (--cluster NAME=…)",
            );
        }
    }
}
