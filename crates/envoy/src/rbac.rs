//! AuthorizationPolicy as Envoy's network RBAC filters: DENY before ALLOW.
//!
//! On TCP nothing of HTTP can be seen. An ALLOW rule that asks for it never matches; in a DENY rule that part is left out, so
//! that the rule gets wider (Istio's semantics, `pilot/pkg/security/authz`). CUSTOM cannot be asked of anyone here: what its rules
//! match is denied, as Istio does for a provider that it does not know. AUDIT decides nothing.

mod permission;
mod principal;

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::listener::v3::Filter;
use envoy_types::pb::envoy::config::rbac::v3 as rbac;
use envoy_types::pb::envoy::extensions::filters::network::rbac::v3 as filter;
use isthmus_model::{Labels, Namespace, Selector};
use isthmus_registry::Snapshot;
use isthmus_resources::Resource;
use isthmus_resources::istio::{Action, AuthorizationPolicy, Rule};
use prost::{Message, Name};

use crate::settings::MeshSettings;
use crate::wire::encoded_filter;

const FILTER: &str = "envoy.filters.network.rbac";
const DRY_RUN: &str = "istio.io/dry-run";

/// Policies by name, in name order.
type Policies = BTreeMap<String, rbac::Policy>;

/// All that one workload's policies say, encoded: equal values are equal filters.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Filters(pub(crate) Vec<Filter>);

/// What the policies of one action say; `attached` is whether there is any.
#[derive(Default)]
struct Collected {
    attached: bool,
    policies: Policies,
}

/// The filters of a workload.
pub(crate) fn filters(
    snapshot: &Snapshot,
    settings: &MeshSettings,
    namespace: &Namespace,
    labels: &Labels,
) -> Filters {
    let mut enforced: BTreeMap<bool, Collected> = BTreeMap::new();
    let mut shadow: BTreeMap<bool, Collected> = BTreeMap::new();
    for policy in attached(snapshot, namespace, labels) {
        let denies = match policy.spec.action {
            Action::Allow => false,
            Action::Deny | Action::Custom => true,
            Action::Audit => continue,
        };
        let dry = policy.meta.annotations.get(DRY_RUN) == Some("true");
        let collected = if dry { &mut shadow } else { &mut enforced }.entry(denies).or_default();
        collected.attached = true;
        for (index, rule) in policy.spec.rules.iter().enumerate() {
            if let Some(rule) = translate(rule, policy, settings, denies) {
                collected.policies.insert(name(policy, index), rule);
            }
        }
    }
    let mut filters = Vec::new();
    for denies in [true, false] {
        let rules = enforced.remove(&denies).filter(|collected| collected.attached);
        let shadow = shadow.remove(&denies).filter(|collected| collected.attached);
        // a DENY without rules denies nothing
        let rules = rules.filter(|collected| !denies || !collected.policies.is_empty());
        if rules.is_some() || shadow.is_some() {
            filters.push(encode(denies, rules, shadow));
        }
    }
    Filters(filters)
}

/// Policies that select a workload, oldest first: those of the root namespace and of its own.
fn attached<'a>(
    snapshot: &'a Snapshot,
    namespace: &Namespace,
    labels: &'a Labels,
) -> impl Iterator<Item = &'a Resource<AuthorizationPolicy>> {
    let root = snapshot.config(&snapshot.root_namespace);
    let own = (*namespace != snapshot.root_namespace).then(|| snapshot.config(namespace)).flatten();
    root.into_iter()
        .chain(own)
        .flat_map(|config| config.authorization_policies.iter())
        .map(|policy| &**policy)
        .filter(|policy| policy.spec.target_refs.is_empty() && policy.spec.target_ref.is_none())
        .filter(move |policy| match &policy.spec.selector {
            Some(selector) => Selector(selector.match_labels.clone()).matches(labels),
            None => true,
        })
}

fn name(policy: &Resource<AuthorizationPolicy>, index: usize) -> String {
    let (namespace, name) = (policy.meta.namespace_str(), &policy.meta.name);
    let prefix = if policy.spec.action == Action::Custom { "istio-ext-authz-unsupported-" } else { "" };
    format!("{prefix}ns[{namespace}]-policy[{name}]-rule[{index}]")
}

/// A rule; none when it can never match on TCP.
fn translate(
    rule: &Rule,
    policy: &Resource<AuthorizationPolicy>,
    settings: &MeshSettings,
    denies: bool,
) -> Option<rbac::Policy> {
    let http = rule.from.iter().any(|from| from.source.needs_http())
        || rule.to.iter().any(|to| to.operation.needs_http())
        || rule.when.iter().any(isthmus_resources::istio::WhenCondition::needs_http);
    if http && !denies {
        return None;
    }
    let namespace = policy.meta.namespace_str();
    let when: Vec<_> = rule.when.iter().filter(|condition| !condition.needs_http()).collect();
    let mut conditions = Conditions::default();
    for condition in when {
        if !conditions.add(condition, namespace, settings) && !denies {
            tracing::warn!(policy = %policy.meta, key = condition.key, "condition cannot be met on TCP");
            return None;
        }
    }
    let principals = match &rule.from[..] {
        [] => vec![principal::all(conditions.principals)],
        sources => sources
            .iter()
            .map(|from| {
                let mut parts = principal::source(&from.source, namespace, settings);
                parts.extend(conditions.principals.iter().cloned());
                principal::all(parts)
            })
            .collect(),
    };
    let permissions = match &rule.to[..] {
        [] => vec![permission::all(conditions.permissions)],
        operations => operations
            .iter()
            .map(|to| {
                let mut parts = permission::operation(&to.operation);
                parts.extend(conditions.permissions.iter().cloned());
                permission::all(parts)
            })
            .collect(),
    };
    Some(rbac::Policy { permissions, principals, ..Default::default() })
}

/// What the `when` list of a rule asks of either side.
#[derive(Default)]
struct Conditions {
    principals: Vec<rbac::Principal>,
    permissions: Vec<rbac::Permission>,
}

impl Conditions {
    /// Adds a condition; false when its attribute is not known on TCP.
    fn add(
        &mut self,
        condition: &isthmus_resources::istio::WhenCondition,
        namespace: &str,
        settings: &MeshSettings,
    ) -> bool {
        let (values, not) = (&condition.values, &condition.not_values);
        if let Some(parts) = principal::condition(&condition.key, values, not, namespace, settings) {
            self.principals.extend(parts);
            return true;
        }
        if let Some(parts) = permission::condition(&condition.key, values, not) {
            self.permissions.extend(parts);
            return true;
        }
        false
    }
}

/// The filter's bytes. Its maps have many keys: they are written one entry at a time, in order (see [`crate::wire`]).
fn encode(denies: bool, rules: Option<Collected>, shadow: Option<Collected>) -> Filter {
    let action = if denies { rbac::rbac::Action::Deny } else { rbac::rbac::Action::Allow } as i32;
    let mut body = filter::Rbac {
        rules: rules.is_some().then(|| rbac::Rbac { action, ..Default::default() }),
        shadow_rules: shadow.is_some().then(|| rbac::Rbac { action, ..Default::default() }),
        stat_prefix: "tcp.".to_string(),
        shadow_rules_stat_prefix: match (&shadow, denies) {
            (None, _) => String::new(),
            (Some(_), true) => "istio_dry_run_deny_".to_string(),
            (Some(_), false) => "istio_dry_run_allow_".to_string(),
        },
        ..Default::default()
    }
    .encode_to_vec();
    let one = |name: String, policy| rbac::Rbac {
        policies: std::iter::once((name, policy)).collect(),
        ..Default::default()
    };
    for (name, policy) in rules.map(|collected| collected.policies).unwrap_or_default() {
        let part = filter::Rbac { rules: Some(one(name, policy)), ..Default::default() };
        body.extend(part.encode_to_vec());
    }
    for (name, policy) in shadow.map(|collected| collected.policies).unwrap_or_default() {
        let part = filter::Rbac { shadow_rules: Some(one(name, policy)), ..Default::default() };
        body.extend(part.encode_to_vec());
    }
    encoded_filter(FILTER, filter::Rbac::type_url(), body)
}
