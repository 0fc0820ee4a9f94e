//! What is accepted and stored, and not enforced yet. One table: a line goes when the thing is enforced.

use serde_json::Value;

use crate::kind::Kind;
use crate::parse::parse;
use crate::validate::validate;

/// What is not enforced.
enum Scope {
    /// Nothing of the kind.
    Whole,
    /// This path below `spec`; `[]` stands for every item, `*` for every member.
    Field(&'static str),
    /// This path when it has this value.
    Value(&'static str, &'static str),
}

use Scope::{Field, Value as Is, Whole};

/// Kind, what of it, and what happens instead.
const NOT_ENFORCED: &[(Kind, Scope, &str)] = &[
    (Kind::VirtualService, Field("http"), "HTTP is passed on as TCP, without routing"),
    (Kind::RequestAuthentication, Whole, "tokens of requests are not looked at"),
    (Kind::EnvoyFilter, Whole, "no patch is applied"),
    (Kind::WasmPlugin, Whole, "no plug-in is run"),
    (Kind::Telemetry, Whole, "metrics and access logs keep their defaults"),
    (Kind::ProxyConfig, Whole, "proxies keep their defaults"),
    (Kind::IstioOperator, Whole, "nothing is installed by it"),
    (Kind::Sidecar, Field("ingress[].bind"), "the port is taken at every address"),
    (Kind::Sidecar, Field("ingress[].captureMode"), "traffic is captured as everywhere"),
    (Kind::Sidecar, Field("ingress[].tls"), "mutual TLS is what PeerAuthentication says"),
    (Kind::Sidecar, Field("ingress[].connectionPool"), "connections are not limited"),
    (Kind::Sidecar, Field("inboundConnectionPool"), "connections are not limited"),
    (Kind::AuthorizationPolicy, Is("action", "AUDIT"), "nothing is recorded"),
    (Kind::AuthorizationPolicy, Is("action", "CUSTOM"), "no external authorizer is asked"),
    (Kind::AuthorizationPolicy, Field("targetRef"), "policies with targets do not apply to sidecars"),
    (Kind::AuthorizationPolicy, Field("targetRefs"), "policies with targets do not apply to sidecars"),
    (Kind::AuthorizationPolicy, Field("rules[].from[].source.requestPrincipals"), HTTP_ON_TCP),
    (Kind::AuthorizationPolicy, Field("rules[].from[].source.notRequestPrincipals"), HTTP_ON_TCP),
    (Kind::AuthorizationPolicy, Field("rules[].from[].source.remoteIpBlocks"), HTTP_ON_TCP),
    (Kind::AuthorizationPolicy, Field("rules[].from[].source.notRemoteIpBlocks"), HTTP_ON_TCP),
    (Kind::AuthorizationPolicy, Field("rules[].to[].operation.hosts"), HTTP_ON_TCP),
    (Kind::AuthorizationPolicy, Field("rules[].to[].operation.notHosts"), HTTP_ON_TCP),
    (Kind::AuthorizationPolicy, Field("rules[].to[].operation.methods"), HTTP_ON_TCP),
    (Kind::AuthorizationPolicy, Field("rules[].to[].operation.notMethods"), HTTP_ON_TCP),
    (Kind::AuthorizationPolicy, Field("rules[].to[].operation.paths"), HTTP_ON_TCP),
    (Kind::AuthorizationPolicy, Field("rules[].to[].operation.notPaths"), HTTP_ON_TCP),
    (Kind::DestinationRule, Field("trafficPolicy.connectionPool.http"), "limits of HTTP are not kept"),
    (
        Kind::DestinationRule,
        Field("trafficPolicy.loadBalancer.consistentHash"),
        "our own proxy balances by least requests, and only useSourceIp says anything about TCP; an Envoy does as it is told",
    ),
    (
        Kind::DestinationRule,
        Field("trafficPolicy.loadBalancer.warmup"),
        "our own proxy gives new endpoints their full share at once; an Envoy does as it is told",
    ),
    (Kind::DestinationRule, Field("trafficPolicy.tunnel"), "connections are not tunnelled"),
    (Kind::DestinationRule, Field("trafficPolicy.retryBudget"), "there are no retries of requests"),
    (
        Kind::DestinationRule,
        Field("subsets[].trafficPolicy.connectionPool.http"),
        "limits of HTTP are not kept",
    ),
];

const HTTP_ON_TCP: &str = "ports are treated as TCP: an ALLOW rule with it never matches, a DENY rule matches without it, as Istio does on TCP";

/// What of this object is accepted and not enforced, for the Warning header of the API and a status condition. Empty when all of it is
/// enforced.
#[must_use]
pub fn warnings(object: &Value) -> Vec<String> {
    let text = |member: &str| object.get(member).and_then(Value::as_str).unwrap_or_default();
    let Some(kind) = Kind::of(text("apiVersion"), text("kind")) else { return Vec::new() };
    let spec = object.get("spec").unwrap_or(&Value::Null);
    let mut found = Vec::new();
    for (of_kind, scope, instead) in NOT_ENFORCED {
        if *of_kind != kind {
            continue;
        }
        match scope {
            Whole => found.push(format!("{kind} is stored and not enforced yet: {instead}")),
            Field(path) if reach(spec, path).is_some() => {
                found.push(format!("spec.{path} is stored and not enforced yet: {instead}"));
            }
            Is(path, wanted) if reach(spec, path).and_then(Value::as_str) == Some(wanted) => {
                found.push(format!("spec.{path} {wanted} is stored and not enforced yet: {instead}"));
            }
            Field(_) | Is(..) => {}
        }
    }
    found
}

/// What a user should hear of an object that the API server accepted: what keeps it from being in force, then [`warnings`].
#[must_use]
pub fn notices(object: &Value) -> Vec<String> {
    let text = |member: &str| object.get(member).and_then(Value::as_str).unwrap_or_default();
    if !Kind::of(text("apiVersion"), text("kind")).is_some_and(Kind::is_custom) {
        return Vec::new();
    }
    let problems: Vec<String> = match parse(object.clone()) {
        Ok(read) => validate(&read).iter().map(ToString::to_string).collect(),
        Err(error) => vec![error.to_string()],
    };
    let refused = |problem: String| format!("stored, and not in force until it is put right: {problem}");
    let mut found: Vec<String> = problems.into_iter().map(refused).collect();
    // An object without effect has no parts without effect.
    if found.is_empty() {
        found.extend(warnings(object));
    }
    found
}

/// The first value at a path that is there and not empty.
fn reach<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    let Some((step, rest)) = path.split_once('.').or(Some((path, ""))).filter(|(step, _)| !step.is_empty())
    else {
        let empty = match value {
            Value::Null => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(members) => members.is_empty(),
            _ => false,
        };
        return (!empty).then_some(value);
    };
    match step.strip_suffix("[]") {
        Some(name) => value.get(name)?.as_array()?.iter().find_map(|item| reach(item, rest)),
        None => reach(value.get(step)?, rest),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_enforced_is_said_and_nothing_else() {
        let http = json!({
            "apiVersion": "networking.istio.io/v1alpha3", "kind": "VirtualService",
            "spec": {"hosts": ["a"], "http": [{"route": []}]},
        });
        let found = warnings(&http);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("spec.http is stored and not enforced yet: "), "{found:?}");

        let tcp = json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "spec": {"tcp": [{}], "http": []}});
        assert!(warnings(&tcp).is_empty());
    }

    #[test]
    fn fields_deep_in_lists_are_found() {
        let policy = |operation: Value| {
            json!({
                "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
                "spec": {"action": "DENY", "rules": [{"to": [{"operation": {"ports": ["80"]}}, {"operation": operation}]}]},
            })
        };
        assert!(warnings(&policy(json!({}))).is_empty());
        let found = warnings(&policy(json!({"methods": ["GET"]})));
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("operation.methods"));
    }

    #[test]
    fn an_object_that_is_not_in_force_says_why() {
        let entry = |host: &str| {
            json!({
                "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": {"name": "a", "namespace": "b"},
                "spec": {"hosts": [host], "resolution": "DNS"},
            })
        };
        assert!(notices(&entry("a.example")).is_empty());
        let found = notices(&entry("*.example"));
        assert_eq!(found.len(), 1);
        assert!(
            found[0].starts_with("stored, and not in force until it is put right: spec.hosts[0]: "),
            "{found:?}"
        );
    }

    #[test]
    fn objects_of_other_kinds_have_no_warnings() {
        assert!(warnings(&json!({"apiVersion": "v1", "kind": "Service"})).is_empty());
        assert!(warnings(&json!(3)).is_empty());
    }
}
