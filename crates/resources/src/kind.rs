//! Every kind we read, with its names in the API.

use std::fmt;

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are the API's own")]
pub enum Kind {
    Namespace,
    Node,
    Service,
    Pod,
    EndpointSlice,
    ServiceAccount,
    ConfigMap,
    Secret,
    DestinationRule,
    VirtualService,
    Gateway,
    ServiceEntry,
    WorkloadEntry,
    WorkloadGroup,
    Sidecar,
    PeerAuthentication,
    RequestAuthentication,
    AuthorizationPolicy,
    Telemetry,
    EnvoyFilter,
    ProxyConfig,
    WasmPlugin,
    IstioOperator,
    Peer,
}

/// A kind's names in the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Served versions, the preferred (and stored) one first.
    pub versions: &'static [&'static str],
    /// Kind as written in objects.
    pub kind: &'static str,
    /// Lower-case plural, as in paths.
    pub plural: &'static str,
    /// Short names for the command line.
    pub short: &'static [&'static str],
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
}

const NETWORKING: &[&str] = &["v1", "v1beta1", "v1alpha3"];
const CORE: &[&str] = &["v1"];

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 24] = [
        Self::Namespace,
        Self::Node,
        Self::Service,
        Self::Pod,
        Self::EndpointSlice,
        Self::ServiceAccount,
        Self::ConfigMap,
        Self::Secret,
        Self::DestinationRule,
        Self::VirtualService,
        Self::Gateway,
        Self::ServiceEntry,
        Self::WorkloadEntry,
        Self::WorkloadGroup,
        Self::Sidecar,
        Self::PeerAuthentication,
        Self::RequestAuthentication,
        Self::AuthorizationPolicy,
        Self::Telemetry,
        Self::EnvoyFilter,
        Self::ProxyConfig,
        Self::WasmPlugin,
        Self::IstioOperator,
        Self::Peer,
    ];

    /// Its names.
    #[must_use]
    pub fn names(self) -> Names {
        let core = |kind, plural, short, namespaced| Names {
            group: "",
            versions: CORE,
            kind,
            plural,
            short,
            namespaced,
        };
        let istio = |group, versions, kind, plural, short| Names {
            group,
            versions,
            kind,
            plural,
            short,
            namespaced: true,
        };
        let networking = |kind, plural, short| istio("networking.istio.io", NETWORKING, kind, plural, short);
        let security = |kind, plural, short| {
            istio("security.istio.io", &["v1", "v1beta1"] as &'static [_], kind, plural, short)
        };
        match self {
            Self::Namespace => core("Namespace", "namespaces", &["ns"], false),
            Self::Node => core("Node", "nodes", &["no"], false),
            Self::Service => core("Service", "services", &["svc"], true),
            Self::Pod => core("Pod", "pods", &["po"], true),
            Self::EndpointSlice => Names {
                group: "discovery.k8s.io",
                versions: CORE,
                kind: "EndpointSlice",
                plural: "endpointslices",
                short: &[],
                namespaced: true,
            },
            Self::ServiceAccount => core("ServiceAccount", "serviceaccounts", &["sa"], true),
            Self::ConfigMap => core("ConfigMap", "configmaps", &["cm"], true),
            Self::Secret => core("Secret", "secrets", &[], true),
            Self::DestinationRule => networking("DestinationRule", "destinationrules", &["dr"]),
            Self::VirtualService => networking("VirtualService", "virtualservices", &["vs"]),
            Self::Gateway => networking("Gateway", "gateways", &["gw"]),
            Self::ServiceEntry => networking("ServiceEntry", "serviceentries", &["se"]),
            Self::WorkloadEntry => networking("WorkloadEntry", "workloadentries", &["we"]),
            Self::WorkloadGroup => networking("WorkloadGroup", "workloadgroups", &["wg"]),
            Self::Sidecar => networking("Sidecar", "sidecars", &[]),
            Self::PeerAuthentication => security("PeerAuthentication", "peerauthentications", &["pa"]),
            Self::RequestAuthentication => {
                security("RequestAuthentication", "requestauthentications", &["ra"])
            }
            Self::AuthorizationPolicy => security("AuthorizationPolicy", "authorizationpolicies", &["ap"]),
            Self::Telemetry => {
                istio("telemetry.istio.io", &["v1", "v1alpha1"], "Telemetry", "telemetries", &["telemetry"])
            }
            Self::EnvoyFilter => {
                istio("networking.istio.io", &["v1alpha3"], "EnvoyFilter", "envoyfilters", &[])
            }
            Self::ProxyConfig => {
                istio("networking.istio.io", &["v1beta1"], "ProxyConfig", "proxyconfigs", &[])
            }
            Self::WasmPlugin => istio("extensions.istio.io", &["v1alpha1"], "WasmPlugin", "wasmplugins", &[]),
            Self::IstioOperator => {
                istio("install.istio.io", &["v1alpha1"], "IstioOperator", "istiooperators", &["iop", "io"])
            }
            Self::Peer => Names {
                group: "isthmus.io",
                versions: &["v1alpha1"],
                kind: "Peer",
                plural: "peers",
                short: &[],
                namespaced: false,
            },
        }
    }

    /// The kind of an object with this `apiVersion` and `kind`, when it is one of ours in a version that is served.
    #[must_use]
    pub fn of(api_version: &str, kind: &str) -> Option<Self> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        Self::ALL.into_iter().find(|candidate| {
            let names = candidate.names();
            names.kind == kind && names.group == group && names.versions.contains(&version)
        })
    }

    /// `apiVersion` in the preferred version, such as `networking.istio.io/v1`.
    #[must_use]
    pub fn api_version(self) -> String {
        let names = self.names();
        match names.group {
            "" => names.versions[0].to_string(),
            group => format!("{group}/{}", names.versions[0]),
        }
    }

    /// Whether it comes as a CustomResourceDefinition: the Istio kinds and ours.
    #[must_use]
    pub fn is_custom(self) -> bool {
        self >= Self::DestinationRule
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.names().kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_served_version_names_its_kind_and_no_other_does() {
        for kind in Kind::ALL {
            let names = kind.names();
            for version in names.versions {
                let api = if names.group.is_empty() {
                    (*version).to_string()
                } else {
                    format!("{}/{version}", names.group)
                };
                assert_eq!(Kind::of(&api, names.kind), Some(kind));
            }
        }
        assert_eq!(Kind::of("networking.istio.io/v2", "Gateway"), None);
        assert_eq!(Kind::of("gateway.networking.k8s.io/v1", "Gateway"), None);
        assert_eq!(Kind::of("v1", "Gateway"), None);
    }
}
