//! Sidecar.

use isthmus_model::Namespace;

use super::{Problems, names};
use crate::istio::Sidecar;

/// Where traffic of an ingress port goes on: nowhere else than the workload itself.
fn endpoint(text: &str) -> Result<(), String> {
    let own = |ip: std::net::IpAddr| ip.is_loopback() || ip.is_unspecified();
    let socket =
        || text.parse::<std::net::SocketAddr>().is_ok_and(|socket| own(socket.ip()) && socket.port() != 0);
    if text.is_empty() || text.starts_with("unix:///") || socket() {
        return Ok(());
    }
    Err(format!("{text:?} is none of 127.0.0.1:PORT, [::1]:PORT, 0.0.0.0:PORT, [::]:PORT and unix:///PATH"))
}

pub(super) fn check(sidecar: &Sidecar, problems: &mut Problems) {
    if let Some(selector) = &sidecar.workload_selector {
        names::labels("spec.workloadSelector.labels", &selector.labels, problems);
    }
    for (index, ingress) in sidecar.ingress.iter().enumerate() {
        let at = format!("spec.ingress[{index}]");
        problems.require(ingress.port.number != 0, format!("{at}.port.number"), "must be 1 to 65535");
        problems.check(format!("{at}.defaultEndpoint"), endpoint(&ingress.default_endpoint));
    }
    for (index, egress) in sidecar.egress.iter().enumerate() {
        let bind = &egress.bind;
        let is_place = bind.is_empty() || bind.parse::<std::net::IpAddr>().is_ok();
        let message = format!("{bind:?} is not an IP address");
        problems.require(is_place, format!("spec.egress[{index}].bind"), message);
        let at = format!("spec.egress[{index}].hosts");
        problems.require(!egress.hosts.is_empty(), &at, "must have at least one host");
        for (position, text) in egress.hosts.iter().enumerate() {
            let field = format!("{at}[{position}]");
            let Some((namespace, host)) = text.split_once('/') else {
                problems.add(field, format!("{text:?} is not NAMESPACE/HOST"));
                continue;
            };
            let bare = namespace.strip_prefix('~').unwrap_or(namespace);
            if !matches!(bare, "*" | "." | "") {
                problems.check(&field, Namespace::new(bare).map(drop).map_err(|error| error.to_string()));
            }
            if host != "*" {
                problems.check(&field, names::host(host));
            }
        }
    }
}
