//! Discovery: which groups, versions and kinds there are, in the old form and the aggregated one.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{StatusCode, header};
use serde_json::{Value, json};

use crate::kinds::{Builtin, Kind, Kinds, Table};
use crate::status::ApiError;

/// The version of Kubernetes whose API this is.
pub(crate) const KUBERNETES: &str = "v1.36.3";

/// `/version`.
pub(crate) fn version() -> Value {
    json!({
        "major": "1",
        "minor": "36",
        "emulationMajor": "1",
        "emulationMinor": "36",
        "gitVersion": format!("{KUBERNETES}+isthmus-{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, platform()),
    })
}

fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Answers discovery paths; nothing for others.
pub(crate) fn answer(kinds: &Kinds, path: &str, parts: &Parts) -> Option<Response> {
    let table = kinds.table();
    let path = path.trim_matches('/');
    let pieces: Vec<&str> = path.split('/').collect();
    let aggregated = wants_aggregated(parts);
    let value = match pieces.as_slice() {
        ["api"] | ["apis"] if aggregated => return Some(aggregated_answer(&table, path == "api")),
        ["api"] => json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [],
        }),
        ["apis"] => {
            let groups: Vec<Value> =
                groups(&table).iter().map(|(group, versions)| group_value(group, versions)).collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        ["apis", group] => match groups(&table).get(*group) {
            Some(versions) => {
                let mut value = group_value(group, versions);
                value["kind"] = "APIGroup".into();
                value["apiVersion"] = "v1".into();
                value
            }
            None => return Some(ApiError::no_such_path().into_response()),
        },
        ["api", version] => return resources(&table, "", version),
        ["apis", group, version] => return resources(&table, group, version),
        [""] => {
            json!({"paths": ["/api", "/api/v1", "/apis", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]})
        }
        _ => return None,
    };
    Some((StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response())
}

fn wants_aggregated(parts: &Parts) -> bool {
    let accept = parts.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.split(',').any(|choice| {
        choice.contains("g=apidiscovery.k8s.io")
            && choice.contains("v=v2")
            && !choice.contains("v=v2beta1")
            && choice.contains("as=APIGroupDiscoveryList")
    })
}

/// Named groups with their versions, the most stable first.
fn groups(table: &Table) -> BTreeMap<String, Vec<String>> {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (group, version, _) in table.keys().filter(|(group, _, _)| !group.is_empty()) {
        let versions = groups.entry(group.clone()).or_default();
        if !versions.contains(version) {
            versions.push(version.clone());
        }
    }
    for versions in groups.values_mut() {
        versions.sort_by_key(|version| std::cmp::Reverse(stability(version)));
    }
    groups
}

/// Kubernetes' order of versions: `v2` before `v1` before `v1beta2` before `v1alpha1`.
fn stability(version: &str) -> (u8, u32, u32) {
    let numbers = |text: &str| text.parse::<u32>().ok();
    let Some(rest) = version.strip_prefix('v') else { return (0, 0, 0) };
    if let Some(major) = numbers(rest) {
        return (3, major, 0);
    }
    for (word, rank) in [("beta", 2), ("alpha", 1)] {
        if let Some((major, minor)) = rest.split_once(word)
            && let (Some(major), Some(minor)) = (numbers(major), numbers(minor))
        {
            return (rank, major, minor);
        }
    }
    (0, 0, 0)
}

fn group_value(group: &str, versions: &[String]) -> Value {
    let of = |version: &String| json!({"groupVersion": format!("{group}/{version}"), "version": version});
    let all: Vec<Value> = versions.iter().map(of).collect();
    json!({"name": group, "versions": all, "preferredVersion": versions.first().map(of)})
}

fn resources(table: &Table, group: &str, version: &str) -> Option<Response> {
    let kinds: Vec<&Arc<Kind>> =
        table.values().filter(|kind| kind.group == group && kind.version == version).collect();
    if kinds.is_empty() {
        return Some(ApiError::no_such_path().into_response());
    }
    let mut list = Vec::new();
    for kind in kinds {
        let mut value = json!({
            "name": kind.plural,
            "singularName": kind.singular,
            "namespaced": kind.namespaced,
            "kind": kind.kind,
            "verbs": kind.verbs(),
        });
        if !kind.short_names.is_empty() {
            value["shortNames"] = json!(kind.short_names);
        }
        if !kind.categories.is_empty() {
            value["categories"] = json!(kind.categories);
        }
        list.push(value);
        for sub in subresources(kind) {
            let mut value = json!({
                "name": format!("{}/{}", kind.plural, sub.name),
                "singularName": "",
                "namespaced": kind.namespaced,
                "kind": sub.kind,
                "verbs": sub.verbs,
            });
            if let Some((group, version)) = sub.of {
                value["group"] = group.into();
                value["version"] = version.into();
            }
            list.push(value);
        }
    }
    let value = json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": crate::kinds::api_version(group, version),
        "resources": list,
    });
    Some((StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response())
}

struct Subresource<'a> {
    name: &'static str,
    kind: &'a str,
    verbs: &'static [&'static str],
    of: Option<(&'static str, &'static str)>,
}

fn subresources(kind: &Kind) -> Vec<Subresource<'_>> {
    let mut list = Vec::new();
    if kind.status {
        list.push(Subresource {
            name: "status",
            kind: &kind.kind,
            verbs: &["get", "patch", "update"],
            of: None,
        });
    }
    match kind.builtin {
        Some(Builtin::Namespace) => {
            list.push(Subresource { name: "finalize", kind: &kind.kind, verbs: &["update"], of: None });
        }
        Some(Builtin::ServiceAccount) => list.push(Subresource {
            name: "token",
            kind: "TokenRequest",
            verbs: &["create"],
            of: Some(("authentication.k8s.io", "v1")),
        }),
        _ => {}
    }
    list
}

/// `apidiscovery.k8s.io/v2`: everything in one answer.
fn aggregated_answer(table: &Table, core: bool) -> Response {
    let mut list: Vec<(String, Vec<String>)> = if core {
        vec![(String::new(), vec!["v1".to_string()])]
    } else {
        groups(table).into_iter().collect()
    };
    let items: Vec<Value> = list
        .drain(..)
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| {
                    let kinds = table.values().filter(|kind| kind.group == group && kind.version == *version);
                    let resources: Vec<Value> = kinds.map(|kind| aggregated_resource(kind)).collect();
                    json!({"version": version, "freshness": "Current", "resources": resources})
                })
                .collect();
            let mut metadata = json!({"creationTimestamp": null});
            if !group.is_empty() {
                metadata["name"] = group.into();
            }
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    let value = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items});
    let content = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    (StatusCode::OK, [(header::CONTENT_TYPE, content)], value.to_string()).into_response()
}

fn aggregated_resource(kind: &Kind) -> Value {
    let own = |name: &str| json!({"group": kind.group, "version": kind.version, "kind": name});
    let mut value = json!({
        "resource": kind.plural,
        "responseKind": own(&kind.kind),
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": kind.verbs(),
    });
    if !kind.short_names.is_empty() {
        value["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        value["categories"] = json!(kind.categories);
    }
    let subs: Vec<Value> = subresources(kind)
        .into_iter()
        .map(|sub| {
            let response = match sub.of {
                Some((group, version)) => json!({"group": group, "version": version, "kind": sub.kind}),
                None => own(sub.kind),
            };
            json!({"subresource": sub.name, "responseKind": response, "verbs": sub.verbs})
        })
        .collect();
    if !subs.is_empty() {
        value["subresources"] = subs.into();
    }
    value
}
