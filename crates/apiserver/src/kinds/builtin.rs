//! The table of Kubernetes' own kinds that a mesh reads.

use std::sync::Arc;

use super::{Definition, Kind, Table};
use crate::schema::Definitions;

/// Kubernetes' own kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Builtin {
    Namespace,
    Service,
    Pod,
    Node,
    ServiceAccount,
    ConfigMap,
    Secret,
    Event,
    Endpoints,
    EndpointSlice,
    Lease,
    CustomResourceDefinition,
    TokenReview,
    SelfSubjectReview,
    SubjectAccessReview,
    SelfSubjectAccessReview,
}

impl Builtin {
    /// Asked and answered, never kept.
    pub(crate) fn is_virtual(self) -> bool {
        matches!(
            self,
            Self::TokenReview
                | Self::SelfSubjectReview
                | Self::SubjectAccessReview
                | Self::SelfSubjectAccessReview
        )
    }

    /// Has a status of its own.
    fn has_status(self) -> bool {
        matches!(
            self,
            Self::Namespace | Self::Service | Self::Pod | Self::Node | Self::CustomResourceDefinition
        )
    }
}

/// kind, builtin, definition, plural, short names, namespaced, categories.
type Row = (Builtin, &'static str, &'static str, &'static [&'static str], bool, &'static [&'static str]);

const CORE: &[Row] = &[
    (Builtin::Namespace, "io.k8s.api.core.v1.Namespace", "namespaces", &["ns"], false, &[]),
    (Builtin::Service, "io.k8s.api.core.v1.Service", "services", &["svc"], true, &["all"]),
    (Builtin::Pod, "io.k8s.api.core.v1.Pod", "pods", &["po"], true, &["all"]),
    (Builtin::Node, "io.k8s.api.core.v1.Node", "nodes", &["no"], false, &[]),
    (Builtin::ServiceAccount, "io.k8s.api.core.v1.ServiceAccount", "serviceaccounts", &["sa"], true, &[]),
    (Builtin::ConfigMap, "io.k8s.api.core.v1.ConfigMap", "configmaps", &["cm"], true, &[]),
    (Builtin::Secret, "io.k8s.api.core.v1.Secret", "secrets", &[], true, &[]),
    (Builtin::Event, "io.k8s.api.core.v1.Event", "events", &["ev"], true, &[]),
    (Builtin::Endpoints, "io.k8s.api.core.v1.Endpoints", "endpoints", &["ep"], true, &[]),
];

const GROUPS: &[(&str, &[Row])] = &[
    ("", CORE),
    (
        "discovery.k8s.io",
        &[(
            Builtin::EndpointSlice,
            "io.k8s.api.discovery.v1.EndpointSlice",
            "endpointslices",
            &[],
            true,
            &[],
        )],
    ),
    (
        "coordination.k8s.io",
        &[(Builtin::Lease, "io.k8s.api.coordination.v1.Lease", "leases", &[], true, &[])],
    ),
    (
        "apiextensions.k8s.io",
        &[(
            Builtin::CustomResourceDefinition,
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
            "customresourcedefinitions",
            &["crd", "crds"],
            false,
            &["api-extensions"],
        )],
    ),
    (
        "authentication.k8s.io",
        &[
            (
                Builtin::TokenReview,
                "io.k8s.api.authentication.v1.TokenReview",
                "tokenreviews",
                &[],
                false,
                &[],
            ),
            (
                Builtin::SelfSubjectReview,
                "io.k8s.api.authentication.v1.SelfSubjectReview",
                "selfsubjectreviews",
                &[],
                false,
                &[],
            ),
        ],
    ),
    (
        "authorization.k8s.io",
        &[
            (
                Builtin::SubjectAccessReview,
                "io.k8s.api.authorization.v1.SubjectAccessReview",
                "subjectaccessreviews",
                &[],
                false,
                &[],
            ),
            (
                Builtin::SelfSubjectAccessReview,
                "io.k8s.api.authorization.v1.SelfSubjectAccessReview",
                "selfsubjectaccessreviews",
                &[],
                false,
                &[],
            ),
        ],
    ),
];

/// All of them, at version v1.
pub(super) fn table(definitions: &mut Definitions) -> Table {
    let mut table = Table::new();
    for (group, rows) in GROUPS {
        for (builtin, definition, plural, short_names, namespaced, categories) in *rows {
            let name = definition.rsplit('.').next().unwrap_or(definition);
            let text = |names: &[&str]| names.iter().map(ToString::to_string).collect();
            let kind = Kind {
                group: (*group).to_string(),
                version: "v1".to_string(),
                kind: name.to_string(),
                list_kind: format!("{name}List"),
                plural: (*plural).to_string(),
                singular: name.to_lowercase(),
                short_names: text(short_names),
                categories: text(categories),
                namespaced: *namespaced,
                status: builtin.has_status(),
                generation: matches!(
                    builtin,
                    Builtin::Pod | Builtin::EndpointSlice | Builtin::CustomResourceDefinition
                ),
                builtin: Some(*builtin),
                storage_version: "v1".to_string(),
                schema: definitions.node(definition),
                definition: Definition::Builtin(definition),
                columns: Vec::new(),
                deprecation: None,
                origin: (String::new(), 0),
            };
            table.insert((kind.group.clone(), kind.version.clone(), kind.plural.clone()), Arc::new(kind));
        }
    }
    table
}
