//! Network authorization: Envoy's RBAC filter, compiled and decided.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use envoy_types::pb::envoy::config::rbac::v3 as proto;
use envoy_types::pb::envoy::extensions::filters::network::rbac::v3::Rbac as Filter;
use envoy_types::pb::envoy::r#type::matcher::v3::filter_state_matcher;
use ipnet::IpNet;

use super::matcher::StringMatcher;
use super::{Checked, Invalid, Within, cidr, port};

/// Filter state in which Istio's own Envoy keeps the peer's identity; the same as the certificate's name here.
const PEER_PRINCIPAL: &str = "io.istio.peer_principal";
/// Policies may nest; deeper than this is refused, so that no policy overflows the stack.
const DEPTH: usize = 16;

/// One RBAC filter of a chain.
#[derive(Debug, Clone)]
pub(crate) struct Rbac {
    allow: bool,
    /// In name order: the first that matches gives the decision its name.
    policies: Box<[(Arc<str>, Policy)]>,
}

#[derive(Debug, Clone)]
struct Policy {
    permissions: Box<[Permission]>,
    principals: Box<[Principal]>,
}

#[derive(Debug, Clone)]
enum Permission {
    Constant(bool),
    And(Box<[Permission]>),
    Or(Box<[Permission]>),
    Not(Box<Permission>),
    DestinationIp(IpNet),
    DestinationPort(u16),
    DestinationPorts(Range<i32>),
    ServerName(StringMatcher),
}

#[derive(Debug, Clone)]
enum Principal {
    Constant(bool),
    And(Box<[Principal]>),
    Or(Box<[Principal]>),
    Not(Box<Principal>),
    /// A verified certificate; with a matcher, one whose URI matches.
    Authenticated(Option<StringMatcher>),
    SourceIp(IpNet),
}

/// What is known of a connection when it is decided.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'a> {
    /// URI of the peer's certificate, with `spiffe://`.
    pub(crate) principal: Option<&'a str>,
    /// Whether it showed a certificate that verified.
    pub(crate) authenticated: bool,
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) server_name: Option<&'a str>,
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Denied {
    /// The DENY policy that matched; none when no ALLOW policy did.
    pub(crate) policy: Option<Arc<str>>,
}

impl Rbac {
    /// None when the filter decides nothing: no rules, or an action that only logs.
    pub(crate) fn compile(filter: &Filter) -> Checked<Option<Self>> {
        if filter.matcher.is_some() {
            return Err(Invalid::unsupported("matcher"));
        }
        let Some(rules) = &filter.rules else { return Ok(None) };
        let allow = match proto::rbac::Action::try_from(rules.action) {
            Ok(proto::rbac::Action::Allow) => true,
            Ok(proto::rbac::Action::Deny) => false,
            Ok(proto::rbac::Action::Log) => return Ok(None),
            Err(_) => return Err(Invalid::new("rules.action", format!("{} is unknown", rules.action))),
        };
        let mut policies: Vec<(Arc<str>, Policy)> = Vec::with_capacity(rules.policies.len());
        for (name, policy) in &rules.policies {
            let compiled = Policy::compile(policy).within(format_args!("rules.policies[{name:?}]"))?;
            policies.push((Arc::from(name.as_str()), compiled));
        }
        policies.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(Some(Self { allow, policies: policies.into() }))
    }

    /// Decides.
    pub(crate) fn check(&self, facts: &Facts<'_>) -> Result<(), Denied> {
        let matched = self.policies.iter().find(|(_, policy)| policy.matches(facts)).map(|(name, _)| name);
        match (self.allow, matched) {
            (true, Some(_)) | (false, None) => Ok(()),
            (true, None) => Err(Denied { policy: None }),
            (false, Some(name)) => Err(Denied { policy: Some(Arc::clone(name)) }),
        }
    }

    pub(crate) fn is_allow(&self) -> bool {
        self.allow
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.policies.iter().map(|(name, _)| &**name)
    }
}

impl Policy {
    fn compile(policy: &proto::Policy) -> Checked<Self> {
        if policy.condition.is_some() || policy.checked_condition.is_some() {
            return Err(Invalid::unsupported("condition"));
        }
        let permissions =
            policy.permissions.iter().map(|p| Permission::compile(p, 0)).collect::<Checked<_>>();
        let principals = policy.principals.iter().map(|p| Principal::compile(p, 0)).collect::<Checked<_>>();
        Ok(Self {
            permissions: permissions.within("permissions")?,
            principals: principals.within("principals")?,
        })
    }

    fn matches(&self, facts: &Facts<'_>) -> bool {
        self.permissions.iter().any(|permission| permission.matches(facts))
            && self.principals.iter().any(|principal| principal.matches(facts))
    }
}

fn deeper(depth: usize) -> Checked<usize> {
    if depth < DEPTH {
        Ok(depth + 1)
    } else {
        Err(Invalid::new("rule", format!("nests deeper than {DEPTH}")))
    }
}

impl Permission {
    fn compile(permission: &proto::Permission, depth: usize) -> Checked<Self> {
        use proto::permission::Rule;
        let set = |set: &proto::permission::Set| {
            let next = deeper(depth)?;
            set.rules.iter().map(|rule| Self::compile(rule, next)).collect::<Checked<Box<[_]>>>()
        };
        let http = |field| Err(Invalid::new(field, "belongs to HTTP and means nothing for a TCP connection"));
        match &permission.rule {
            Some(Rule::AndRules(rules)) => Ok(Self::And(set(rules)?)),
            Some(Rule::OrRules(rules)) => Ok(Self::Or(set(rules)?)),
            Some(Rule::Any(any)) => Ok(Self::Constant(*any)),
            Some(Rule::NotRule(rule)) => Ok(Self::Not(Box::new(Self::compile(rule, deeper(depth)?)?))),
            Some(Rule::DestinationIp(range)) => Ok(Self::DestinationIp(cidr("destination_ip", range)?)),
            Some(Rule::DestinationPort(value)) => {
                Ok(Self::DestinationPort(port("destination_port", *value)?))
            }
            Some(Rule::DestinationPortRange(range)) => Ok(Self::DestinationPorts(range.start..range.end)),
            Some(Rule::RequestedServerName(matcher)) => {
                StringMatcher::compile(matcher).map(Self::ServerName).within("requested_server_name")
            }
            Some(Rule::Header(_)) => http("header"),
            Some(Rule::UrlPath(_)) => http("url_path"),
            Some(Rule::UriTemplate(_)) => http("uri_template"),
            #[expect(deprecated, reason = "named to be refused")]
            Some(Rule::Metadata(_)) => Err(Invalid::unsupported("metadata")),
            Some(Rule::SourcedMetadata(_)) => Err(Invalid::unsupported("sourced_metadata")),
            Some(Rule::Matcher(_)) => Err(Invalid::unsupported("matcher")),
            None => Err(Invalid::new("rule", "is missing")),
        }
    }

    fn matches(&self, facts: &Facts<'_>) -> bool {
        match self {
            Self::Constant(any) => *any,
            Self::And(rules) => rules.iter().all(|rule| rule.matches(facts)),
            Self::Or(rules) => rules.iter().any(|rule| rule.matches(facts)),
            Self::Not(rule) => !rule.matches(facts),
            Self::DestinationIp(net) => net.contains(&facts.destination.ip()),
            Self::DestinationPort(port) => facts.destination.port() == *port,
            Self::DestinationPorts(range) => range.contains(&i32::from(facts.destination.port())),
            Self::ServerName(matcher) => matcher.matches(facts.server_name.unwrap_or_default()),
        }
    }
}

impl Principal {
    fn compile(principal: &proto::Principal, depth: usize) -> Checked<Self> {
        use proto::principal::Identifier;
        let set = |set: &proto::principal::Set| {
            let next = deeper(depth)?;
            set.ids.iter().map(|id| Self::compile(id, next)).collect::<Checked<Box<[_]>>>()
        };
        let http = |field| Err(Invalid::new(field, "belongs to HTTP and means nothing for a TCP connection"));
        match &principal.identifier {
            Some(Identifier::AndIds(ids)) => Ok(Self::And(set(ids)?)),
            Some(Identifier::OrIds(ids)) => Ok(Self::Or(set(ids)?)),
            Some(Identifier::Any(any)) => Ok(Self::Constant(*any)),
            Some(Identifier::NotId(id)) => Ok(Self::Not(Box::new(Self::compile(id, deeper(depth)?)?))),
            Some(Identifier::Authenticated(who)) => {
                let matcher = who.principal_name.as_ref().map(StringMatcher::compile).transpose();
                Ok(Self::Authenticated(matcher.within("authenticated.principal_name")?))
            }
            Some(Identifier::FilterState(state)) if state.key == PEER_PRINCIPAL => match &state.matcher {
                Some(filter_state_matcher::Matcher::StringMatch(matcher)) => {
                    Ok(Self::Authenticated(Some(StringMatcher::compile(matcher).within("filter_state")?)))
                }
                _ => Err(Invalid::unsupported("filter_state.address_match")),
            },
            Some(Identifier::FilterState(state)) => {
                Err(Invalid::unsupported(format!("filter_state[{:?}]", state.key)))
            }
            // No proxy stands before this one at the TCP level, so the three mean the same address.
            #[expect(deprecated, reason = "Istio's older form of the same field")]
            Some(Identifier::SourceIp(range)) => Ok(Self::SourceIp(cidr("source_ip", range)?)),
            Some(Identifier::DirectRemoteIp(range)) => Ok(Self::SourceIp(cidr("direct_remote_ip", range)?)),
            Some(Identifier::RemoteIp(range)) => Ok(Self::SourceIp(cidr("remote_ip", range)?)),
            Some(Identifier::Header(_)) => http("header"),
            Some(Identifier::UrlPath(_)) => http("url_path"),
            #[expect(deprecated, reason = "named to be refused")]
            Some(Identifier::Metadata(_)) => Err(Invalid::unsupported("metadata")),
            Some(Identifier::SourcedMetadata(_)) => Err(Invalid::unsupported("sourced_metadata")),
            Some(Identifier::Custom(_)) => Err(Invalid::unsupported("custom")),
            None => Err(Invalid::new("identifier", "is missing")),
        }
    }

    fn matches(&self, facts: &Facts<'_>) -> bool {
        match self {
            Self::Constant(any) => *any,
            Self::And(ids) => ids.iter().all(|id| id.matches(facts)),
            Self::Or(ids) => ids.iter().any(|id| id.matches(facts)),
            Self::Not(id) => !id.matches(facts),
            Self::Authenticated(None) => facts.authenticated,
            Self::Authenticated(Some(matcher)) => facts.principal.is_some_and(|uri| matcher.matches(uri)),
            Self::SourceIp(net) => net.contains(&facts.source.ip()),
        }
    }
}

#[cfg(test)]
mod tests;
