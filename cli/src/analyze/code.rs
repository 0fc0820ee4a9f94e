//! What can be found, each with a code: Istio's own where Istio has one, so that scripts and habits carry over.

use serde::Serialize;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
pub(crate) enum Level {
    /// Good to know.
    #[value(alias = "Info")]
    Info,
    /// Works, and hardly as it was meant.
    #[value(alias = "Warning")]
    Warning,
    /// Does not work.
    #[value(alias = "Error")]
    Error,
}

impl Level {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Info => "Info",
            Self::Warning => "Warning",
            Self::Error => "Error",
        }
    }
}

/// One kind of finding.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Code {
    pub(super) id: &'static str,
    pub(super) level: Level,
    pub(super) about: &'static str,
}

macro_rules! codes {
    ($($name:ident = $id:literal $level:ident $about:literal;)*) => {
        $(pub(super) const $name: Code = Code { id: $id, level: Level::$level, about: $about };)*
        /// All of them.
        pub(super) const ALL: &[&Code] = &[$(&$name),*];
    };
}

codes! {
    NOT_FOUND = "IST0101" Error "a host, port, subset, gateway, namespace, service account or VirtualService that is not there";
    INVALID = "IST0106" Error "an object that cannot be read or breaks a rule of its kind";
    MESH_HOST_TWICE = "IST0109" Error "several VirtualServices for sidecars name one host; the oldest counts";
    SIDECARS_OF_ONE_WORKLOAD = "IST0110" Error "several Sidecars select one workload; the oldest counts";
    SIDECARS_OF_ONE_NAMESPACE = "IST0111" Error "several Sidecars of a namespace have no selector; the oldest counts";
    PORT_NEEDED = "IST0112" Error "a route to a service of several ports that does not say which";
    PORT_NAME = "IST0118" Info "a port whose name and appProtocol do not say its protocol";
    UNKNOWN_REGISTRY = "IST0126" Error "mesh networks name a cluster that nobody knows";
    SELECTS_NOTHING = "IST0127" Warning "a selector that no workload has";
    NO_ROOTS = "IST0128" Warning "TLS to a host whose certificate is not checked";
    NO_ROOTS_AT_PORT = "IST0129" Warning "the same, for one port";
    UNREACHABLE_ROUTE = "IST0130" Warning "a route that no connection reaches";
    SAME_MATCH = "IST0131" Info "a match that an earlier route has too";
    HOST_NOT_IN_GATEWAY = "IST0132" Warning "a VirtualService whose hosts no server of its gateway lets in";
    GATEWAYS_CONFLICT = "IST0145" Error "servers of two Gateways that cannot share port and host; the oldest is served";
    GATEWAY_PORT = "IST0162" Warning "a Gateway's port that its Service does not have";
    CLUSTERS_DISAGREE = "IST0170" Warning "a Service whose ports or type differ between clusters";
    SUBSET_SELECTS_NOTHING = "IST0173" Error "a subset that no endpoint is in (a warning where no route leads to it)";
    UNKNOWN_RULE_HOST = "IST0174" Warning "a DestinationRule for a host that is not there";
    PROTOCOLS_CONFLICT = "IST0177" Warning "ServiceEntries that give one port of a host different protocols";
    NOT_ENFORCED = "ISM0001" Warning "accepted, and without effect in Isthmus yet";
    TWICE = "ISM0002" Warning "one object in two places; the last one counts";
    NOT_CHECKED = "ISM0003" Info "references into what the files do not hold";
    RULES_CONFLICT = "ISM0004" Warning "DestinationRules of one host; what the younger says twice is lost";
    NETWORK_WITHOUT_GATEWAY = "ISM0005" Warning "workloads that other networks cannot reach";
    TLS_CONFLICT = "ISM0006" Warning "a DestinationRule whose TLS mode the PeerAuthentication of its workloads refuses";
    NO_WORKLOADS = "ISM0007" Info "a Service that selects no workload";
    GATEWAY_UNREACHABLE = "ISM0008" Warning "a network's gateway Service without an external address or without its port";
    UNKNOWN_EXPORT = "ISM0009" Warning "exportTo names a namespace that is not there";
    HIDDEN = "ISM0010" Error "a host that exportTo hides from whoever refers to it";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_code_means_one_thing() {
        let ids: BTreeSet<&str> = ALL.iter().map(|code| code.id).collect();
        assert_eq!(ids.len(), ALL.len());
    }
}
