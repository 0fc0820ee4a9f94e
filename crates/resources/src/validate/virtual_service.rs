//! VirtualService.

use super::{Problems, names};
use crate::istio::{RouteDestination, VirtualService};

pub(super) fn check(service: &VirtualService, problems: &mut Problems) {
    names::export_to(&service.export_to, false, problems);
    let delegate = service.hosts.is_empty() && service.gateways.is_empty();
    let only_http = service.tcp.is_empty() && service.tls.is_empty();
    problems.require(
        !service.hosts.is_empty() || (delegate && only_http),
        "spec.hosts",
        "must have at least one host, unless it is a delegate with HTTP routes",
    );
    for (index, host) in service.hosts.iter().enumerate() {
        let field = format!("spec.hosts[{index}]");
        let twice = service.hosts[..index].contains(host);
        problems.require(!twice, &field, format!("{host:?} is there twice"));
        problems.check(&field, names::host(host));
        let of_mesh = service.gateways.is_empty() || service.gateways.iter().any(|gateway| gateway == "mesh");
        problems.require(
            host != "*" || !of_mesh,
            &field,
            "\"*\" is for gateways: name the hosts, or the gateways",
        );
    }
    for (index, gateway) in service.gateways.iter().enumerate() {
        let plain = !gateway.is_empty() && gateway.split('/').count() <= 2;
        problems.require(
            plain,
            format!("spec.gateways[{index}]"),
            format!("{gateway:?} is not NAME or NAMESPACE/NAME"),
        );
    }
    let empty = service.http.is_empty() && only_http;
    problems.require(!empty, "spec", "must have http, tls or tcp routes");
    for (index, route) in service.tls.iter().enumerate() {
        let at = format!("spec.tls[{index}]");
        problems.require(!route.r#match.is_empty(), format!("{at}.match"), "must have at least one match");
        for (position, matched) in route.r#match.iter().enumerate() {
            let at = format!("{at}.match[{position}]");
            problems.require(
                !matched.sni_hosts.is_empty(),
                format!("{at}.sniHosts"),
                "must have at least one host",
            );
            for (number, host) in matched.sni_hosts.iter().enumerate() {
                problems.check(format!("{at}.sniHosts[{number}]"), names::host(host));
            }
            subnets(&at, &matched.destination_subnets, problems);
        }
        destinations(&format!("{at}.route"), &route.route, problems);
    }
    for (index, route) in service.tcp.iter().enumerate() {
        let at = format!("spec.tcp[{index}]");
        for (position, matched) in route.r#match.iter().enumerate() {
            subnets(&format!("{at}.match[{position}]"), &matched.destination_subnets, problems);
        }
        destinations(&format!("{at}.route"), &route.route, problems);
    }
    for (index, route) in service.http.iter().enumerate() {
        let at = format!("spec.http[{index}]");
        let others = [&route.redirect, &route.direct_response, &route.delegate];
        let given =
            others.iter().filter(|other| other.is_some()).count() + usize::from(!route.route.is_empty());
        problems.require(
            given == 1,
            &at,
            "must have exactly one of route, redirect, directResponse and delegate",
        );
        if !route.route.is_empty() {
            destinations(&format!("{at}.route"), &route.route, problems);
        }
    }
}

fn subnets(at: &str, list: &[String], problems: &mut Problems) {
    for (index, subnet) in list.iter().enumerate() {
        problems.check(format!("{at}.destinationSubnets[{index}]"), names::address_or_cidr(subnet));
    }
}

fn destinations(at: &str, list: &[RouteDestination], problems: &mut Problems) {
    problems.require(!list.is_empty(), at, "must have at least one destination");
    let mut total = 0i64;
    for (index, route) in list.iter().enumerate() {
        problems.check(format!("{at}[{index}].destination.host"), names::fqdn(&route.destination.host));
        if let Some(port) = &route.destination.port {
            problems.check(format!("{at}[{index}].destination.port.number"), names::port(port.number));
        }
        problems.require(route.weight >= 0, format!("{at}[{index}].weight"), "must not be negative");
        total += i64::from(route.weight);
    }
    problems.require(
        list.len() <= 1 || total > 0,
        at,
        "the weights of several destinations must not all be 0",
    );
}
