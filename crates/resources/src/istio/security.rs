//! PeerAuthentication, AuthorizationPolicy, RequestAuthentication.

use std::collections::BTreeMap;

use isthmus_model::Labels;
use serde::Deserialize;
use serde_json::Value;

/// `selector` of the security kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    /// All must be among the workload's labels.
    pub match_labels: Labels,
}

/// `security.istio.io` PeerAuthentication.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PeerAuthentication {
    /// Workloads that it applies to; absent is the whole namespace, or the mesh in the root namespace.
    pub selector: Option<LabelSelector>,
    /// Mode for all ports.
    pub mtls: MutualTls,
    /// Modes by workload port.
    pub port_level_mtls: BTreeMap<u16, MutualTls>,
}

/// Whether mutual TLS is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct MutualTls {
    /// Mode.
    pub mode: MutualTlsMode,
}

/// Whether mutual TLS is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MutualTlsMode {
    /// Inherits.
    #[default]
    Unset,
    /// Plain only.
    Disable,
    /// Both.
    Permissive,
    /// Mutual TLS only.
    Strict,
}

/// `security.istio.io` AuthorizationPolicy.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthorizationPolicy {
    /// Workloads that it applies to; absent is the whole namespace, or the mesh in the root namespace.
    pub selector: Option<LabelSelector>,
    /// Objects that it applies to; sidecars ignore policies that have these.
    pub target_refs: Vec<TargetRef>,
    /// Deprecated form of one target.
    pub target_ref: Option<TargetRef>,
    /// Rules, any of which suffices. None never matches.
    pub rules: Vec<Rule>,
    /// What a match means.
    pub action: Action,
    /// Who decides, for CUSTOM.
    pub provider: Option<Value>,
}

/// What a match means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "the names are the API's own")]
pub enum Action {
    #[default]
    Allow,
    Deny,
    Audit,
    Custom,
}

/// An object that a policy is attached to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct TargetRef {
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
}

/// A rule: some source, some operation and all conditions.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Rule {
    /// Sources, any of which suffices; none is any.
    pub from: Vec<From>,
    /// Operations, any of which suffices; none is any.
    pub to: Vec<To>,
    /// Conditions, all of which must hold.
    pub when: Vec<Condition>,
}

/// Wrapper of a source.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct From {
    /// The source.
    pub source: Source,
}

/// Wrapper of an operation.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct To {
    /// The operation.
    pub operation: Operation,
}

/// Who asks; all fields must hold, any value of a field suffices.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the names are the API's own")]
pub struct Source {
    pub principals: Vec<String>,
    pub not_principals: Vec<String>,
    pub request_principals: Vec<String>,
    pub not_request_principals: Vec<String>,
    pub namespaces: Vec<String>,
    pub not_namespaces: Vec<String>,
    pub ip_blocks: Vec<String>,
    pub not_ip_blocks: Vec<String>,
    pub remote_ip_blocks: Vec<String>,
    pub not_remote_ip_blocks: Vec<String>,
    pub service_accounts: Vec<String>,
    pub not_service_accounts: Vec<String>,
    pub trust_domains: Vec<String>,
    pub not_trust_domains: Vec<String>,
}

/// What is asked; all fields must hold, any value of a field suffices.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the names are the API's own")]
pub struct Operation {
    pub hosts: Vec<String>,
    pub not_hosts: Vec<String>,
    pub ports: Vec<String>,
    pub not_ports: Vec<String>,
    pub methods: Vec<String>,
    pub not_methods: Vec<String>,
    pub paths: Vec<String>,
    pub not_paths: Vec<String>,
}

impl Operation {
    /// Whether it asks for something that only HTTP can answer.
    #[must_use]
    pub fn needs_http(&self) -> bool {
        [&self.hosts, &self.not_hosts, &self.methods, &self.not_methods, &self.paths, &self.not_paths]
            .iter()
            .any(|list| !list.is_empty())
    }
}

impl Source {
    /// Whether it asks for something that only HTTP can answer.
    #[must_use]
    pub fn needs_http(&self) -> bool {
        [
            &self.request_principals,
            &self.not_request_principals,
            &self.remote_ip_blocks,
            &self.not_remote_ip_blocks,
        ]
        .iter()
        .any(|list| !list.is_empty())
    }
}

/// A condition on an attribute.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// Attribute, such as `source.ip` or `request.headers[x]`.
    pub key: String,
    /// Any of these.
    pub values: Vec<String>,
    /// None of these.
    pub not_values: Vec<String>,
}

impl Condition {
    /// Whether it asks for something that only HTTP can answer.
    #[must_use]
    pub fn needs_http(&self) -> bool {
        self.key.starts_with("request.") || self.key == "remote.ip"
    }
}

/// `security.istio.io` RequestAuthentication.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestAuthentication {
    /// Workloads that it applies to.
    pub selector: Option<LabelSelector>,
    /// Objects that it applies to.
    pub target_refs: Vec<TargetRef>,
    /// Accepted tokens.
    pub jwt_rules: Vec<JwtRule>,
}

/// One issuer of tokens.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JwtRule {
    /// Issuer.
    pub issuer: String,
    /// Accepted audiences.
    pub audiences: Vec<String>,
    /// Where its keys are.
    pub jwks_uri: String,
    /// Its keys.
    pub jwks: String,
}
