//! Who asks.

use envoy_types::pb::envoy::config::rbac::v3 as rbac;
use envoy_types::pb::envoy::config::rbac::v3::principal::{Authenticated, Identifier, Set};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use ipnet::IpNet;
use isthmus_resources::istio::Source;

use crate::settings::MeshSettings;
use crate::wire::{host_range, range};

/// All of them; nobody in particular when there is none.
pub(crate) fn all(mut parts: Vec<rbac::Principal>) -> rbac::Principal {
    match parts.len() {
        0 => wrap(Identifier::Any(true)),
        1 => parts.remove(0),
        _ => wrap(Identifier::AndIds(Set { ids: parts })),
    }
}

/// The parts of a source that TCP can see; all must hold.
pub(crate) fn source(source: &Source, namespace: &str, settings: &MeshSettings) -> Vec<rbac::Principal> {
    let mut parts = Vec::new();
    let mut field = |values: &[String], not: &[String], read: &dyn Fn(&str) -> Vec<rbac::Principal>| {
        both(&mut parts, values, not, read);
    };
    field(&source.principals, &source.not_principals, &|text| principal(text, settings));
    field(&source.namespaces, &source.not_namespaces, &|text| vec![named_namespace(text)]);
    field(&source.service_accounts, &source.not_service_accounts, &|text| vec![account(text, namespace)]);
    field(&source.trust_domains, &source.not_trust_domains, &|text| vec![trust_domain(text)]);
    field(&source.ip_blocks, &source.not_ip_blocks, &block);
    parts
}

/// A `when` condition on the source; none when its attribute is another.
pub(crate) fn condition(
    key: &str,
    values: &[String],
    not: &[String],
    namespace: &str,
    settings: &MeshSettings,
) -> Option<Vec<rbac::Principal>> {
    let mut parts = Vec::new();
    match key {
        "source.principal" => both(&mut parts, values, not, &|text| principal(text, settings)),
        "source.namespace" => both(&mut parts, values, not, &|text| vec![named_namespace(text)]),
        "source.serviceAccount" => both(&mut parts, values, not, &|text| vec![account(text, namespace)]),
        "source.trustDomain" => both(&mut parts, values, not, &|text| vec![trust_domain(text)]),
        "source.ip" => both(&mut parts, values, not, &block),
        _ => return None,
    }
    Some(parts)
}

/// Any of `values`, and none of `not`. A list whose every value is unreadable matches nobody.
fn both(
    parts: &mut Vec<rbac::Principal>,
    values: &[String],
    not: &[String],
    read: &dyn Fn(&str) -> Vec<rbac::Principal>,
) {
    if !values.is_empty() {
        parts.push(any(values.iter().flat_map(|text| read(text)).collect()));
    }
    if !not.is_empty() {
        let listed = any(not.iter().flat_map(|text| read(text)).collect());
        parts.push(wrap(Identifier::NotId(Box::new(listed))));
    }
}

fn any(mut parts: Vec<rbac::Principal>) -> rbac::Principal {
    match parts.len() {
        0 => wrap(Identifier::NotId(Box::new(wrap(Identifier::Any(true))))),
        1 => parts.remove(0),
        _ => wrap(Identifier::OrIds(Set { ids: parts })),
    }
}

/// `TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT`, exact, as prefix, as suffix or `*`. Our trust domain stands for its aliases too, and so
/// do they and the literal `cluster.local` for it.
fn principal(text: &str, settings: &MeshSettings) -> Vec<rbac::Principal> {
    if text == "*" {
        return vec![authenticated(MatchPattern::Prefix("spiffe://".to_string()))];
    }
    if let Some(suffix) = text.strip_prefix('*') {
        return vec![authenticated(MatchPattern::Suffix(suffix.to_string()))];
    }
    let texts = match text.split_once('/') {
        Some((domain, rest)) if is_ours(domain, settings) => {
            domains(settings).map(|domain| format!("{domain}/{rest}")).collect()
        }
        _ => vec![text.to_string()],
    };
    let wire = |text: String| match text.strip_suffix('*') {
        Some(prefix) => authenticated(MatchPattern::Prefix(format!("spiffe://{prefix}"))),
        None => authenticated(MatchPattern::Exact(format!("spiffe://{text}"))),
    };
    texts.into_iter().map(wire).collect()
}

fn is_ours(domain: &str, settings: &MeshSettings) -> bool {
    domain == "cluster.local" || domains(settings).any(|ours| ours == domain)
}

fn domains(settings: &MeshSettings) -> impl Iterator<Item = &str> {
    let aliases = settings.trust_domain_aliases.iter().map(isthmus_model::TrustDomain::as_str);
    std::iter::once(settings.trust_domain.as_str()).chain(aliases)
}

/// The namespace of an identity. Neither trust domains nor accounts hold a slash, so `/ns/` occurs once.
fn named_namespace(text: &str) -> rbac::Principal {
    authenticated(match (text, text.strip_suffix('*'), text.strip_prefix('*')) {
        ("*", _, _) => MatchPattern::Prefix("spiffe://".to_string()),
        (_, Some(prefix), _) => MatchPattern::Contains(format!("/ns/{prefix}")),
        (_, _, Some(suffix)) => MatchPattern::Contains(format!("{suffix}/sa/")),
        _ => MatchPattern::Contains(format!("/ns/{text}/sa/")),
    })
}

/// `NAMESPACE/ACCOUNT`, or an account of the policy's own namespace.
fn account(text: &str, namespace: &str) -> rbac::Principal {
    let (namespace, account) = text.split_once('/').unwrap_or((namespace, text));
    authenticated(MatchPattern::Suffix(format!("/ns/{namespace}/sa/{account}")))
}

fn trust_domain(text: &str) -> rbac::Principal {
    authenticated(match (text, text.strip_suffix('*'), text.strip_prefix('*')) {
        ("*", _, _) => MatchPattern::Prefix("spiffe://".to_string()),
        (_, Some(prefix), _) => MatchPattern::Prefix(format!("spiffe://{prefix}")),
        (_, _, Some(suffix)) => MatchPattern::Contains(format!("{suffix}/ns/")),
        _ => MatchPattern::Prefix(format!("spiffe://{text}/")),
    })
}

/// The peer of the connection itself: behind a gateway, the gateway.
fn block(text: &str) -> Vec<rbac::Principal> {
    let range = match (text.parse(), text.parse::<IpNet>()) {
        (Ok(address), _) => host_range(address),
        (_, Ok(net)) => range(&net),
        _ => {
            tracing::warn!(block = text, "ip block of a policy is neither an address nor a range");
            return Vec::new();
        }
    };
    vec![wrap(Identifier::DirectRemoteIp(range))]
}

fn authenticated(pattern: MatchPattern) -> rbac::Principal {
    let name = StringMatcher { match_pattern: Some(pattern), ..Default::default() };
    wrap(Identifier::Authenticated(Authenticated { principal_name: Some(name) }))
}

fn wrap(identifier: Identifier) -> rbac::Principal {
    rbac::Principal { identifier: Some(identifier) }
}
