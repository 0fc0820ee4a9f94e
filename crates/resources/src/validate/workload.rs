//! WorkloadEntry and WorkloadGroup.

use std::net::IpAddr;

use isthmus_model::NetworkId;

use super::{Problems, names};
use crate::istio::{ReadinessProbe, WorkloadEntry, WorkloadGroup};

/// Rules that hold for every WorkloadEntry, inline ones included.
pub(super) fn check_entry(at: &str, entry: &WorkloadEntry, problems: &mut Problems) {
    let address = entry.address.as_str();
    let field = format!("{at}.address");
    if address.is_empty() {
        problems.require(!entry.network.is_empty(), field, "may be empty only when network is set");
    } else if let Some(path) = address.strip_prefix("unix://") {
        problems.require(
            path.starts_with('/') || path.starts_with('@'),
            field,
            "a unix address needs an absolute path or @name",
        );
        problems.require(entry.ports.is_empty(), format!("{at}.ports"), "a unix address has no ports");
    } else if address.parse::<IpAddr>().is_err() {
        problems.check(field, names::fqdn(address));
    }
    shared(at, entry, problems);
}

/// Rules that a group's template has in common with entries.
fn shared(at: &str, entry: &WorkloadEntry, problems: &mut Problems) {
    for (name, number) in &entry.ports {
        let field = format!("{at}.ports[{name}]");
        problems.check(&field, names::port_name(name));
        problems.check(&field, names::port(*number));
    }
    names::labels(&format!("{at}.labels"), &entry.labels, problems);
    problems.check(
        format!("{at}.network"),
        NetworkId::new(entry.network.as_str()).map(drop).map_err(|error| error.to_string()),
    );
    let account = entry.service_account.as_str();
    if !account.is_empty() {
        problems.check(format!("{at}.serviceAccount"), names::fqdn(account));
    }
}

pub(super) fn check_group(group: &WorkloadGroup, problems: &mut Problems) {
    names::labels("spec.metadata.labels", &group.metadata.labels, problems);
    problems.require(
        group.template.address.is_empty(),
        "spec.template.address",
        "a template has no address: every machine that registers brings its own",
    );
    shared("spec.template", &group.template, problems);
    if let Some(probe) = &group.probe {
        check_probe(probe, problems);
    }
}

fn check_probe(probe: &ReadinessProbe, problems: &mut Problems) {
    for (name, number) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        problems.require(number >= 0, format!("spec.probe.{name}"), "must not be negative");
    }
    let given =
        [probe.http_get.is_some(), probe.tcp_socket.is_some(), probe.exec.is_some(), probe.grpc.is_some()];
    problems.require(
        given.iter().filter(|given| **given).count() == 1,
        "spec.probe",
        "must have exactly one of httpGet, tcpSocket, exec and grpc",
    );
    if let Some(get) = &probe.http_get {
        problems.check("spec.probe.httpGet.port", names::port(get.port));
        let scheme = get.scheme.to_ascii_uppercase();
        problems.require(
            matches!(scheme.as_str(), "" | "HTTP" | "HTTPS"),
            "spec.probe.httpGet.scheme",
            "must be HTTP or HTTPS",
        );
        problems.require(
            get.path.is_empty() || get.path.starts_with('/'),
            "spec.probe.httpGet.path",
            "must start with /",
        );
        for (index, header) in get.http_headers.iter().enumerate() {
            problems.require(
                !header.name.is_empty(),
                format!("spec.probe.httpGet.httpHeaders[{index}].name"),
                "must not be empty",
            );
        }
    }
    if let Some(socket) = &probe.tcp_socket {
        problems.check("spec.probe.tcpSocket.port", names::port(socket.port));
    }
    if let Some(exec) = &probe.exec {
        problems.require(!exec.command.is_empty(), "spec.probe.exec.command", "must not be empty");
    }
    if let Some(grpc) = &probe.grpc {
        problems.check("spec.probe.grpc.port", names::port(grpc.port));
    }
}
