//! ServiceEntry.

use std::net::IpAddr;

use isthmus_model::Protocol;

use super::{Problems, names, workload};
use crate::istio::{ServiceEntry, ServiceEntryPort, ServiceEntryResolution as Resolution};

pub(super) fn check(entry: &ServiceEntry, problems: &mut Problems) {
    problems.require(!entry.hosts.is_empty(), "spec.hosts", "must have at least one host");
    for (index, host) in entry.hosts.iter().enumerate() {
        let field = format!("spec.hosts[{index}]");
        if host == "*" {
            problems.add(field, "\"*\" alone would capture everything; name the hosts");
        } else {
            problems.check(field, names::host(host));
        }
    }
    for (index, address) in entry.addresses.iter().enumerate() {
        problems.check(format!("spec.addresses[{index}]"), names::address_or_cidr(address));
        let range = address.contains('/');
        problems.require(
            !range || matches!(entry.resolution, Resolution::None | Resolution::Static),
            format!("spec.addresses[{index}]"),
            "a CIDR needs resolution NONE or STATIC",
        );
    }
    check_ports(entry, problems);
    check_endpoints(entry, problems);
    names::export_to(&entry.export_to, true, problems);
    if let Some(selector) = &entry.workload_selector {
        names::labels("spec.workloadSelector.labels", &selector.labels, problems);
        problems.require(
            entry.endpoints.is_empty(),
            "spec.workloadSelector",
            "stands in place of endpoints: give one of the two",
        );
    }
}

fn protocol_of(port: &ServiceEntryPort) -> Protocol {
    if port.protocol.is_empty() {
        Protocol::declared(None, &port.name, 0, false)
    } else {
        Protocol::parse(&port.protocol)
    }
}

fn check_ports(entry: &ServiceEntry, problems: &mut Problems) {
    for (index, port) in entry.ports.iter().enumerate() {
        let at = format!("spec.ports[{index}]");
        problems.check(format!("{at}.number"), names::port(port.number));
        problems.check(format!("{at}.name"), names::port_name(&port.name));
        problems.check(format!("{at}.protocol"), names::protocol(&port.protocol));
        let before = &entry.ports[..index];
        let twice = before.iter().any(|other| other.number == port.number);
        problems.require(!twice, format!("{at}.number"), format!("{} is there twice", port.number));
        let twice = before.iter().any(|other| other.name == port.name);
        problems.require(!twice, format!("{at}.name"), format!("{:?} is there twice", port.name));
        let by_name =
            |protocol: Protocol| protocol.is_http() || matches!(protocol, Protocol::Tls | Protocol::Https);
        problems.require(
            entry.hosts.len() <= 1 || entry.resolution == Resolution::None || by_name(protocol_of(port)),
            format!("{at}.protocol"),
            "several hosts cannot be told apart on a TCP port: give each its own ServiceEntry, or HTTP or TLS",
        );
    }
}

fn check_endpoints(entry: &ServiceEntry, problems: &mut Problems) {
    for (index, endpoint) in entry.endpoints.iter().enumerate() {
        let at = format!("spec.endpoints[{index}]");
        workload::check_entry(&at, endpoint, problems);
        for name in endpoint.ports.keys() {
            let known = entry.ports.iter().any(|port| port.name == *name);
            problems.require(known, format!("{at}.ports[{name}]"), "is not the name of a port of spec.ports");
        }
        let address = endpoint.address.as_str();
        let literal =
            address.is_empty() || address.starts_with("unix://") || address.parse::<IpAddr>().is_ok();
        if entry.resolution == Resolution::Static {
            problems.require(
                literal,
                format!("{at}.address"),
                "resolution STATIC needs an IP address or unix:// path; use DNS for host names",
            );
        }
    }
    match entry.resolution {
        Resolution::None => {
            problems.require(
                entry.endpoints.is_empty(),
                "spec.endpoints",
                "resolution NONE has no endpoints",
            );
        }
        Resolution::Static => {}
        Resolution::Dns | Resolution::DnsRoundRobin => {
            if entry.endpoints.is_empty() && entry.workload_selector.is_none() {
                for (index, host) in entry.hosts.iter().enumerate() {
                    problems.require(
                        !host.starts_with('*'),
                        format!("spec.hosts[{index}]"),
                        "a wildcard cannot be resolved by DNS: list endpoints",
                    );
                }
            }
            problems.require(
                entry.resolution == Resolution::Dns || entry.endpoints.len() <= 1,
                "spec.endpoints",
                "resolution DNS_ROUND_ROBIN has at most one endpoint",
            );
        }
        Resolution::DynamicDns => {
            let wild = entry.hosts.iter().all(|host| host.starts_with("*."));
            problems.require(wild, "spec.hosts", "resolution DYNAMIC_DNS is for wildcard hosts");
            let bare = entry.endpoints.is_empty() && entry.addresses.is_empty();
            problems.require(bare, "spec.resolution", "DYNAMIC_DNS has neither addresses nor endpoints");
            for (index, port) in entry.ports.iter().enumerate() {
                let protocol = protocol_of(port);
                problems.require(
                    protocol.is_http() || protocol == Protocol::Tls,
                    format!("spec.ports[{index}].protocol"),
                    "DYNAMIC_DNS needs HTTP or TLS",
                );
            }
        }
    }
}
