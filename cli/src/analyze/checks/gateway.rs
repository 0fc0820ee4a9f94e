//! Gateways: who serves them, at which ports, and which of them cannot be served together.

use isthmus_model::{Labels, Selector, TargetPort};
use isthmus_resources::Resource;
use isthmus_resources::istio::{Gateway, Server, ServerTlsMode};
use isthmus_resources::kubernetes;

use super::{listed, pairs};
use crate::analyze::code::{self, Level};
use crate::analyze::report::Report;
use crate::analyze::world::{World, each};
use crate::objects::Item;

pub(super) fn check(world: &World, report: &mut Report) {
    for (item, gateway) in each!(world.items, Gateway) {
        served(world, report, item, gateway);
        ports(world, report, item, gateway);
    }
    conflicts(world, report);
}

/// Whether a Service is one of the workloads that a Gateway selects.
fn is_of(service: &kubernetes::Service, gateway: &Gateway) -> bool {
    !gateway.selector.is_empty() && Selector(gateway.selector.clone()).matches(&service.selector)
}

/// Somebody has the labels. A gateway can run outside the cluster, without a Pod: a Service stands for it then.
fn served(world: &World, report: &mut Report, item: &Item, gateway: &Resource<Gateway>) {
    let selector = &gateway.spec.selector;
    let is_service = || each!(world.items, Service).any(|(_, service)| is_of(&service.spec, &gateway.spec));
    if selector.is_empty() || world.selected(None, selector).next().is_some() || is_service() {
        return;
    }
    let is_gateway = |labels: &Labels| labels.get("istio").is_some_and(|value| value.ends_with("gateway"));
    let any = world.workloads.iter().any(|workload| is_gateway(&workload.labels))
        || each!(world.items, Service).any(|(_, service)| is_gateway(&service.spec.selector));
    if !world.live && !any {
        return report.unchecked(
            "selectors of Gateways, as the files have no gateway's workload and no Service of one",
        );
    }
    let message = format!("no workload and no Service of a gateway has {}", pairs(selector));
    let advice = "start a gateway with these labels, or select those of one that runs (`isthmus status`)";
    report.add(&code::NOT_FOUND, item, "spec.selector", message, advice);
    // A gateway without Pod and Service is possible.
    report.soften(Level::Warning);
}

/// Its Service has the ports.
fn ports(world: &World, report: &mut Report, item: &Item, gateway: &Resource<Gateway>) {
    let services: Vec<_> = each!(world.items, Service)
        .map(|(_, service)| service)
        .filter(|service| is_of(&service.spec, &gateway.spec))
        .collect();
    if services.is_empty() {
        return;
    }
    let has = |number: u16| {
        services.iter().flat_map(|service| &service.spec.ports).any(|port| {
            port.number == number || matches!(port.target, TargetPort::Number(target) if target == number)
        })
    };
    for (at, server) in gateway.spec.servers.iter().enumerate() {
        let number = server.port.number;
        if !has(number) {
            let names = listed(services.iter().map(|service| &service.meta));
            let message =
                format!("port {number} is not a port of Service {names}, by which the gateway is reached");
            report.add(
                &code::GATEWAY_PORT,
                item,
                format!("spec.servers[{at}].port.number"),
                message,
                format!("add port {number} to the Service"),
            );
        }
    }
}

/// Servers of two Gateways for the same workloads and port. Those that pass everything on share a port.
fn conflicts(world: &World, report: &mut Report) {
    let mut all: Vec<_> = each!(world.items, Gateway).collect();
    all.sort_by(|(_, a), (_, b)| a.meta.age_key().cmp(&b.meta.age_key()));
    for (at, (item, gateway)) in all.iter().enumerate() {
        for (older_item, older) in &all[..at] {
            if older.spec.selector != gateway.spec.selector {
                continue;
            }
            for (number, server) in gateway.spec.servers.iter().enumerate() {
                let Some((which, why)) = older
                    .spec
                    .servers
                    .iter()
                    .enumerate()
                    .find_map(|(which, one)| Some((which, clash(server, one)?)))
                else {
                    continue;
                };
                let port = server.port.number;
                let message = format!(
                    "Gateway {} serves port {port} of the same workloads, {why}; the older is served",
                    older.meta
                );
                let advice = "give them different ports, hosts or selectors";
                report.add(
                    &code::GATEWAYS_CONFLICT,
                    item,
                    format!("spec.servers[{number}]"),
                    message,
                    advice,
                );
                let message =
                    format!("Gateway {} wants port {port} of the same workloads too, {why}", gateway.meta);
                report.add(
                    &code::GATEWAYS_CONFLICT,
                    older_item,
                    format!("spec.servers[{which}]"),
                    message,
                    advice,
                );
                report.soften(Level::Warning);
            }
        }
    }
}

/// Why two servers cannot both be served.
fn clash(one: &Server, two: &Server) -> Option<String> {
    if one.port.number != two.port.number
        || (one.bind != two.bind && !one.bind.is_empty() && !two.bind.is_empty())
    {
        return None;
    }
    let differ = !one.port.protocol.eq_ignore_ascii_case(&two.port.protocol);
    // Servers of TLS are told apart by name, those of HTTP by host, whatever they call themselves.
    let http = |server: &Server| {
        ["HTTP", "HTTP2", "GRPC", "GRPC-WEB"]
            .iter()
            .any(|name| server.port.protocol.eq_ignore_ascii_case(name))
    };
    let alike = one.tls.is_some() && two.tls.is_some() || http(one) && http(two);
    if differ && !alike {
        return Some(format!("with protocol {}", two.port.protocol));
    }
    let auto =
        |server: &Server| server.tls.as_ref().is_some_and(|tls| tls.mode == ServerTlsMode::AutoPassthrough);
    if auto(one) || auto(two) {
        return None;
    }
    let plain = |text: &String| text.strip_prefix("*/").unwrap_or(text).to_string();
    let same = one
        .hosts
        .iter()
        .map(plain)
        .find(|host| !host.starts_with("./") && two.hosts.iter().any(|other| plain(other) == *host))?;
    Some(format!("with host {same}"))
}
