//! PeerAuthentication, RequestAuthentication, AuthorizationPolicy.

use super::{Problems, names};
use crate::istio::{
    Action, AuthorizationPolicy, LabelSelector, PeerAuthentication, RequestAuthentication, Rule, Source,
    WhenCondition,
};

fn selector(selector: Option<&LabelSelector>, problems: &mut Problems) {
    if let Some(selector) = selector {
        names::labels("spec.selector.matchLabels", &selector.match_labels, problems);
    }
}

pub(super) fn peer(policy: &PeerAuthentication, problems: &mut Problems) {
    selector(policy.selector.as_ref(), problems);
    let selects = policy.selector.as_ref().is_some_and(|selector| !selector.match_labels.is_empty());
    problems.require(
        selects || policy.port_level_mtls.is_empty(),
        "spec.portLevelMtls",
        "needs a selector: ports are those of certain workloads",
    );
    for port in policy.port_level_mtls.keys() {
        problems.check(format!("spec.portLevelMtls[{port}]"), names::port(*port));
    }
}

pub(super) fn request(policy: &RequestAuthentication, problems: &mut Problems) {
    selector(policy.selector.as_ref(), problems);
    for (index, rule) in policy.jwt_rules.iter().enumerate() {
        let at = format!("spec.jwtRules[{index}]");
        problems.require(!rule.issuer.is_empty(), format!("{at}.issuer"), "must not be empty");
        let web = rule.jwks_uri.is_empty()
            || rule.jwks_uri.starts_with("http://")
            || rule.jwks_uri.starts_with("https://");
        problems.require(web, format!("{at}.jwksUri"), "must be an http or https URL");
        problems.require(
            rule.jwks.is_empty() || rule.jwks_uri.is_empty(),
            format!("{at}.jwks"),
            "has either jwks or jwksUri",
        );
    }
}

pub(super) fn authorization(policy: &AuthorizationPolicy, problems: &mut Problems) {
    selector(policy.selector.as_ref(), problems);
    let targets = !policy.target_refs.is_empty() || policy.target_ref.is_some();
    problems.require(
        policy.selector.is_none() || !targets,
        "spec.targetRefs",
        "stands in place of selector: give one of the two",
    );
    if matches!(policy.action, Action::Deny | Action::Custom) {
        let message = "DENY and CUSTOM need at least one rule; {} matches everything";
        problems.require(!policy.rules.is_empty(), "spec.rules", message);
    }
    match (policy.action, policy.provider.as_ref()) {
        (Action::Custom, None) => problems.add("spec.provider", "CUSTOM needs a provider"),
        (Action::Custom, Some(provider)) => {
            let named =
                provider.get("name").and_then(|name| name.as_str()).is_some_and(|name| !name.is_empty());
            problems.require(named, "spec.provider.name", "must not be empty");
        }
        (_, Some(_)) => problems.add("spec.provider", "is for action CUSTOM only"),
        (_, None) => {}
    }
    for (index, rule) in policy.rules.iter().enumerate() {
        check_rule(&format!("spec.rules[{index}]"), rule, problems);
    }
}

fn check_rule(at: &str, rule: &Rule, problems: &mut Problems) {
    for (index, from) in rule.from.iter().enumerate() {
        check_source(&format!("{at}.from[{index}].source"), &from.source, problems);
    }
    for (index, to) in rule.to.iter().enumerate() {
        let at = format!("{at}.to[{index}].operation");
        let operation = &to.operation;
        for (name, ports) in [("ports", &operation.ports), ("notPorts", &operation.not_ports)] {
            for (position, port) in ports.iter().enumerate() {
                let good = port.parse::<u16>().is_ok_and(|number| number > 0);
                problems.require(
                    good,
                    format!("{at}.{name}[{position}]"),
                    format!("{port:?} is not a port number"),
                );
            }
        }
        let lists = [
            &operation.hosts,
            &operation.not_hosts,
            &operation.ports,
            &operation.not_ports,
            &operation.methods,
            &operation.not_methods,
            &operation.paths,
            &operation.not_paths,
        ];
        problems.require(lists.iter().any(|list| !list.is_empty()), &at, "must say something");
        no_empty_values(&at, &lists, problems);
    }
    for (index, condition) in rule.when.iter().enumerate() {
        check_condition(&format!("{at}.when[{index}]"), condition, problems);
    }
}

fn no_empty_values(at: &str, lists: &[&Vec<String>], problems: &mut Problems) {
    let empty = lists.iter().any(|list| list.iter().any(String::is_empty));
    problems.require(!empty, at, "must not hold an empty value");
}

fn check_source(at: &str, source: &Source, problems: &mut Problems) {
    let lists = [
        &source.principals,
        &source.not_principals,
        &source.request_principals,
        &source.not_request_principals,
        &source.namespaces,
        &source.not_namespaces,
        &source.ip_blocks,
        &source.not_ip_blocks,
        &source.remote_ip_blocks,
        &source.not_remote_ip_blocks,
        &source.service_accounts,
        &source.not_service_accounts,
        &source.trust_domains,
        &source.not_trust_domains,
    ];
    problems.require(lists.iter().any(|list| !list.is_empty()), at, "must say something");
    no_empty_values(at, &lists, problems);
    for (name, blocks) in [
        ("ipBlocks", &source.ip_blocks),
        ("notIpBlocks", &source.not_ip_blocks),
        ("remoteIpBlocks", &source.remote_ip_blocks),
        ("notRemoteIpBlocks", &source.not_remote_ip_blocks),
    ] {
        for (index, block) in blocks.iter().enumerate() {
            problems.check(format!("{at}.{name}[{index}]"), names::address_or_cidr(block));
        }
    }
    let accounts = source.service_accounts.iter().chain(&source.not_service_accounts);
    for account in accounts.clone() {
        let good = !account.contains('*') && account.split('/').count() <= 2;
        problems.require(
            good,
            format!("{at}.serviceAccounts"),
            format!("{account:?} is not NAME or NAMESPACE/NAME"),
        );
    }
    let mixed = !source.principals.is_empty()
        || !source.not_principals.is_empty()
        || !source.namespaces.is_empty()
        || !source.not_namespaces.is_empty();
    problems.require(
        accounts.count() == 0 || !mixed,
        format!("{at}.serviceAccounts"),
        "stands in place of principals and namespaces",
    );
}

fn check_condition(at: &str, condition: &WhenCondition, problems: &mut Problems) {
    const PLAIN: [&str; 11] = [
        "source.ip",
        "remote.ip",
        "source.namespace",
        "source.serviceAccount",
        "source.trustDomain",
        "source.principal",
        "request.auth.principal",
        "request.auth.audiences",
        "request.auth.presenter",
        "destination.ip",
        "destination.port",
    ];
    let key = condition.key.as_str();
    let indexed = ["request.headers[", "request.auth.claims[", "experimental.envoy.filters."];
    let known = PLAIN.contains(&key)
        || key == "connection.sni"
        || (key.ends_with(']') && indexed.iter().any(|prefix| key.starts_with(prefix)));
    problems.require(known, format!("{at}.key"), format!("unknown attribute {key:?}"));
    let given = !condition.values.is_empty() || !condition.not_values.is_empty();
    problems.require(given, at, "needs values or notValues");
    for value in condition.values.iter().chain(&condition.not_values) {
        match key {
            "source.ip" | "remote.ip" | "destination.ip" => problems.check(at, names::address_or_cidr(value)),
            "destination.port" => {
                let good = value.parse::<u16>().is_ok_and(|number| number > 0);
                problems.require(good, at, format!("{value:?} is not a port number"));
            }
            _ => {}
        }
    }
}
