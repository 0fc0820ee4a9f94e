use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::CidrRange;
use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher as Matcher;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::google::protobuf::UInt32Value;
use proto::permission::Rule;
use proto::principal::{Authenticated, Identifier};

use super::*;

const RATINGS: &str = "spiffe://cluster.local/ns/default/sa/bookinfo-ratings";

fn facts(principal: Option<&'static str>) -> Facts<'static> {
    Facts {
        principal,
        authenticated: principal.is_some(),
        source: "10.1.0.7:40000".parse().unwrap(),
        destination: "10.3.0.5:3306".parse().unwrap(),
        server_name: None,
    }
}

fn permission(rule: Rule) -> proto::Permission {
    proto::Permission { rule: Some(rule) }
}

fn who(identifier: Identifier) -> proto::Principal {
    proto::Principal { identifier: Some(identifier) }
}

fn named(pattern: MatchPattern) -> proto::Principal {
    let principal_name = Some(Matcher { ignore_case: false, match_pattern: Some(pattern) });
    who(Identifier::Authenticated(Authenticated { principal_name }))
}

fn range(address: &str, length: u32) -> CidrRange {
    CidrRange { address_prefix: address.into(), prefix_len: Some(UInt32Value { value: length }) }
}

fn filter(action: proto::rbac::Action, policies: Vec<(&str, proto::Permission, proto::Principal)>) -> Filter {
    let policies: HashMap<String, proto::Policy> = policies
        .into_iter()
        .map(|(name, permission, principal)| {
            let policy = proto::Policy {
                permissions: vec![permission],
                principals: vec![principal],
                ..Default::default()
            };
            (name.to_string(), policy)
        })
        .collect();
    let rules = proto::Rbac { action: action.into(), policies, ..Default::default() };
    Filter { rules: Some(rules), ..Default::default() }
}

fn compiled(action: proto::rbac::Action, policies: Vec<(&str, proto::Permission, proto::Principal)>) -> Rbac {
    Rbac::compile(&filter(action, policies)).unwrap().unwrap()
}

#[test]
fn an_allow_list_lets_the_listed_identity_through_and_no_other() {
    let only_ratings = compiled(
        proto::rbac::Action::Allow,
        vec![(
            "ns[vm]-policy[mysql]-rule[0]",
            permission(Rule::DestinationPort(3306)),
            named(MatchPattern::Exact(RATINGS.into())),
        )],
    );
    assert_eq!(only_ratings.check(&facts(Some(RATINGS))), Ok(()));
    let other = facts(Some("spiffe://cluster.local/ns/default/sa/bookinfo-reviews"));
    assert_eq!(only_ratings.check(&other), Err(Denied { policy: None }));
    assert_eq!(only_ratings.check(&facts(None)), Err(Denied { policy: None }), "nor a plaintext client");
    let other_port = Facts { destination: "10.3.0.5:3307".parse().unwrap(), ..facts(Some(RATINGS)) };
    assert!(only_ratings.check(&other_port).is_err());
}

#[test]
fn an_allow_filter_without_policies_denies_all_and_a_deny_filter_none() {
    assert!(compiled(proto::rbac::Action::Allow, vec![]).check(&facts(Some(RATINGS))).is_err());
    assert!(compiled(proto::rbac::Action::Deny, vec![]).check(&facts(None)).is_ok());
    assert!(Rbac::compile(&Filter::default()).unwrap().is_none(), "no rules, no decision");
    assert!(Rbac::compile(&filter(proto::rbac::Action::Log, vec![])).unwrap().is_none());
}

#[test]
fn a_refusal_names_the_deny_policy() {
    let deny = compiled(
        proto::rbac::Action::Deny,
        vec![
            ("b", permission(Rule::Any(true)), who(Identifier::DirectRemoteIp(range("10.1.0.0", 16)))),
            ("a", permission(Rule::Any(true)), who(Identifier::DirectRemoteIp(range("10.2.0.0", 16)))),
        ],
    );
    assert_eq!(deny.check(&facts(None)), Err(Denied { policy: Some("b".into()) }));
}

#[test]
fn not_principal_also_holds_for_plaintext() {
    let not_ratings = Identifier::NotId(Box::new(named(MatchPattern::Exact(RATINGS.into()))));
    let rbac =
        compiled(proto::rbac::Action::Allow, vec![("p", permission(Rule::Any(true)), who(not_ratings))]);
    assert!(rbac.check(&facts(None)).is_ok(), "as Istio's notPrincipals");
    assert!(rbac.check(&facts(Some(RATINGS))).is_err());
}

#[test]
fn conditions_of_http_and_unknown_ones_are_refused_by_name() {
    let header = permission(Rule::Header(Default::default()));
    let bad = filter(proto::rbac::Action::Allow, vec![("p", header, who(Identifier::Any(true)))]);
    let reason = Rbac::compile(&bad).unwrap_err().to_string();
    assert_eq!(
        reason,
        "rules.policies[\"p\"].permissions.header: belongs to HTTP and means nothing for a TCP connection"
    );
    let mut nested = permission(Rule::Any(true));
    for _ in 0..40 {
        nested = permission(Rule::NotRule(Box::new(nested)));
    }
    let deep = filter(proto::rbac::Action::Allow, vec![("p", nested, who(Identifier::Any(true)))]);
    assert!(Rbac::compile(&deep).unwrap_err().to_string().contains("nests deeper"));
}
