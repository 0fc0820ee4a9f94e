//! Sidecar.

use isthmus_model::Namespace;

use super::{Problems, names};
use crate::istio::Sidecar;

pub(super) fn check(sidecar: &Sidecar, problems: &mut Problems) {
    if let Some(selector) = &sidecar.workload_selector {
        names::labels("spec.workloadSelector.labels", &selector.labels, problems);
    }
    for (index, egress) in sidecar.egress.iter().enumerate() {
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
