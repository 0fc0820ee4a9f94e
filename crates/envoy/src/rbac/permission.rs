//! What is asked.

use envoy_types::pb::envoy::config::rbac::v3 as rbac;
use envoy_types::pb::envoy::config::rbac::v3::permission::{Rule, Set};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use ipnet::IpNet;
use isthmus_resources::istio::Operation;

use crate::wire::{host_range, range};

/// All of them; anything when there is none.
pub(crate) fn all(mut parts: Vec<rbac::Permission>) -> rbac::Permission {
    match parts.len() {
        0 => wrap(Rule::Any(true)),
        1 => parts.remove(0),
        _ => wrap(Rule::AndRules(Set { rules: parts })),
    }
}

/// The parts of an operation that TCP can see: ports.
pub(crate) fn operation(operation: &Operation) -> Vec<rbac::Permission> {
    let mut parts = Vec::new();
    both(&mut parts, &operation.ports, &operation.not_ports, port);
    parts
}

/// A `when` condition on the destination; none when its attribute is another.
pub(crate) fn condition(key: &str, values: &[String], not: &[String]) -> Option<Vec<rbac::Permission>> {
    let mut parts = Vec::new();
    match key {
        "destination.port" => both(&mut parts, values, not, port),
        "destination.ip" => both(&mut parts, values, not, address),
        "connection.sni" => both(&mut parts, values, not, server_name),
        _ => return None,
    }
    Some(parts)
}

/// Any of `values`, and none of `not`. A list whose every value is unreadable matches nothing.
fn both(
    parts: &mut Vec<rbac::Permission>,
    values: &[String],
    not: &[String],
    read: fn(&str) -> Option<Rule>,
) {
    let any = |texts: &[String]| {
        let mut found: Vec<_> = texts.iter().filter_map(|text| read(text)).map(wrap).collect();
        match found.len() {
            0 => wrap(Rule::NotRule(Box::new(wrap(Rule::Any(true))))),
            1 => found.remove(0),
            _ => wrap(Rule::OrRules(Set { rules: found })),
        }
    };
    if !values.is_empty() {
        parts.push(any(values));
    }
    if !not.is_empty() {
        parts.push(wrap(Rule::NotRule(Box::new(any(not)))));
    }
}

fn port(text: &str) -> Option<Rule> {
    let Ok(number) = text.parse::<u16>() else {
        tracing::warn!(port = text, "port of a policy is no number");
        return None;
    };
    Some(Rule::DestinationPort(u32::from(number)))
}

fn address(text: &str) -> Option<Rule> {
    match (text.parse(), text.parse::<IpNet>()) {
        (Ok(address), _) => Some(Rule::DestinationIp(host_range(address))),
        (_, Ok(net)) => Some(Rule::DestinationIp(range(&net))),
        _ => None,
    }
}

fn server_name(text: &str) -> Option<Rule> {
    let named = |pattern| {
        let matcher = StringMatcher { match_pattern: Some(pattern), ..Default::default() };
        Rule::RequestedServerName(matcher)
    };
    Some(match (text, text.strip_suffix('*'), text.strip_prefix('*')) {
        // Envoy refuses an empty prefix
        ("*", _, _) => Rule::NotRule(Box::new(wrap(named(MatchPattern::Exact(String::new()))))),
        (_, Some(prefix), _) => named(MatchPattern::Prefix(prefix.to_string())),
        (_, _, Some(suffix)) => named(MatchPattern::Suffix(suffix.to_string())),
        _ => named(MatchPattern::Exact(text.to_string())),
    })
}

fn wrap(rule: Rule) -> rbac::Permission {
    rbac::Permission { rule: Some(rule) }
}
