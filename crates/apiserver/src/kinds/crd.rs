//! From a CustomResourceDefinition to the kinds that it serves; its defaults and its rules.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Column, Definition, Kind};
use crate::schema::{Node, from_crd};
use crate::status::Cause;

/// Group and plural.
pub(crate) fn names(crd: &Value) -> (String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    (text(&crd["spec"]["group"]), text(&crd["spec"]["names"]["plural"]))
}

/// The kinds, one for each served version.
pub(super) fn served(crd: &Value, origin: (String, u64), metadata: &Arc<Node>) -> Vec<Kind> {
    let spec = &crd["spec"];
    let (group, plural) = names(crd);
    let names = &spec["names"];
    let versions: Vec<&Value> = spec["versions"].as_array().into_iter().flatten().collect();
    let storage_version = versions
        .iter()
        .find(|version| version["storage"] == true)
        .and_then(|version| version["name"].as_str())
        .unwrap_or_default()
        .to_string();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let list = |value: &Value| {
        value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_string)).collect()
    };
    let mut kinds = Vec::new();
    for version in versions.into_iter().filter(|version| version["served"] == true) {
        let schema = &version["schema"]["openAPIV3Schema"];
        let kind = text(&names["kind"]);
        let deprecation = (version["deprecated"] == true).then(|| {
            version["deprecationWarning"].as_str().map_or_else(
                || format!("{group}/{} {kind} is deprecated", text(&version["name"])),
                str::to_string,
            )
        });
        let list_kind = match names["listKind"].as_str() {
            Some(name) if !name.is_empty() => name.to_string(),
            _ => format!("{kind}List"),
        };
        let singular = match names["singular"].as_str() {
            Some(name) if !name.is_empty() => name.to_string(),
            _ => kind.to_lowercase(),
        };
        kinds.push(Kind {
            group: group.clone(),
            version: text(&version["name"]),
            list_kind,
            plural: plural.clone(),
            singular,
            short_names: list(&names["shortNames"]),
            categories: list(&names["categories"]),
            namespaced: spec["scope"] != "Cluster",
            status: version["subresources"]["status"].is_object(),
            generation: true,
            builtin: None,
            storage_version: storage_version.clone(),
            schema: Arc::new(from_crd(schema, metadata)),
            definition: Definition::Crd(schema.clone()),
            columns: columns(version),
            deprecation,
            origin: origin.clone(),
            kind,
        });
    }
    kinds
}

fn columns(version: &Value) -> Vec<Column> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let columns = version["additionalPrinterColumns"].as_array().into_iter().flatten();
    let mut columns: Vec<Column> = columns
        .map(|column| Column {
            name: text(&column["name"]),
            kind: text(&column["type"]),
            format: text(&column["format"]),
            description: text(&column["description"]),
            priority: column["priority"].as_i64().unwrap_or(0),
            path: text(&column["jsonPath"]),
        })
        .collect();
    if columns.is_empty() {
        columns.push(Column {
            name: "Age".to_string(),
            kind: "date".to_string(),
            format: String::new(),
            description: "CreationTimestamp is a timestamp representing the server time when this object was \
                          created. It is not guaranteed to be set in happens-before order across separate \
                          operations. Clients may not set this value. It is represented in RFC3339 form and is \
                          in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: \
                          https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata"
                .to_string(),
            priority: 0,
            path: ".metadata.creationTimestamp".to_string(),
        });
    }
    columns
}

/// Holds a definition until its objects are gone.
pub(crate) const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Fills in what Kubernetes fills in.
pub(crate) fn apply_defaults(crd: &mut Value) {
    if !crd["spec"].is_object() {
        return;
    }
    let kind = crd["spec"]["names"]["kind"].as_str().unwrap_or_default().to_string();
    if let Some(names) = crd["spec"].get_mut("names").filter(|names| names.is_object()) {
        if names["singular"].as_str().unwrap_or_default().is_empty() {
            names["singular"] = kind.to_lowercase().into();
        }
        if names["listKind"].as_str().unwrap_or_default().is_empty() {
            names["listKind"] = format!("{kind}List").into();
        }
    }
    if crd["spec"].is_object() && !crd["spec"]["conversion"].is_object() {
        crd["spec"]["conversion"] = json!({"strategy": "None"});
    }
}

/// What is wrong with a definition.
pub(crate) fn validate(crd: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let spec = &crd["spec"];
    let (group, plural) = names(crd);
    for (value, path) in [
        (&spec["group"], "spec.group"),
        (&spec["names"]["plural"], "spec.names.plural"),
        (&spec["names"]["kind"], "spec.names.kind"),
    ] {
        if value.as_str().unwrap_or_default().is_empty() {
            causes.push(Cause::required(path, ""));
        }
    }
    if !group.is_empty() && !group.contains('.') {
        causes.push(Cause::invalid("spec.group", &spec["group"], "should be a domain with at least one dot"));
    }
    let expected = format!("{plural}.{group}");
    if crd["metadata"]["name"] != expected.as_str() {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        causes.push(Cause::invalid("metadata.name", &crd["metadata"]["name"], detail));
    }
    match spec["scope"].as_str() {
        Some("Namespaced" | "Cluster") => {}
        None | Some("") => causes.push(Cause::required("spec.scope", "")),
        Some(_) => causes.push(Cause::unsupported(
            "spec.scope",
            &spec["scope"],
            &["Cluster".to_string(), "Namespaced".to_string()],
        )),
    }
    if spec["conversion"]["strategy"] == "Webhook" {
        causes.push(Cause::forbidden(
            "spec.conversion.strategy",
            "conversion webhooks are not supported by this server",
        ));
    }
    let versions: Vec<&Value> = spec["versions"].as_array().into_iter().flatten().collect();
    if versions.is_empty() {
        causes.push(Cause::required("spec.versions", "must have at least one version"));
    } else if versions.iter().filter(|version| version["storage"] == true).count() != 1 {
        let detail = "must have exactly one version marked as storage version";
        causes.push(Cause::invalid("spec.versions", &spec["versions"], detail));
    }
    for (index, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{index}].schema.openAPIV3Schema");
        let schema = &version["schema"]["openAPIV3Schema"];
        if !schema.is_object() {
            causes.push(Cause::required(path, "schemas are required"));
        } else {
            structural(schema, &path, true, &mut causes);
        }
    }
    causes
}

/// The rules of a structural schema that a served kind depends on.
fn structural(schema: &Value, path: &str, root: bool, causes: &mut Vec<Cause>) {
    let typed = schema["type"].as_str().is_some_and(|kind| !kind.is_empty());
    let free = schema["x-kubernetes-int-or-string"] == true
        || schema["x-kubernetes-preserve-unknown-fields"] == true;
    if !typed && (root || !free) {
        let detail = if root {
            "must not be empty at the root"
        } else {
            "must not be empty for specified object fields"
        };
        causes.push(Cause::required(format!("{path}.type"), detail));
    }
    if let Some(pattern) = schema["pattern"].as_str()
        && let Err(error) = regex::Regex::new(pattern)
    {
        let detail = format!("must be a valid regular expression, but isn't: {error}");
        causes.push(Cause::invalid(format!("{path}.pattern"), &schema["pattern"], &detail));
    }
    if schema.get("$ref").is_some() {
        causes.push(Cause::forbidden(format!("{path}.$ref"), "$ref is not supported"));
    }
    if let Some(properties) = schema["properties"].as_object() {
        for (name, child) in properties {
            if !(root && name == "metadata") {
                structural(child, &format!("{path}.properties[{name}]"), false, causes);
            }
        }
    }
    if schema["additionalProperties"].is_object() {
        structural(&schema["additionalProperties"], &format!("{path}.additionalProperties"), false, causes);
    }
    if schema["items"].is_object() {
        structural(&schema["items"], &format!("{path}.items"), false, causes);
    } else if schema["type"] == "array" {
        causes.push(Cause::required(format!("{path}.items"), "must be specified"));
    }
}

/// The status of a definition that is served from the moment it is stored.
pub(crate) fn established(crd: &mut Value, now: &str) {
    let names = crd["spec"]["names"].clone();
    let storage: Vec<Value> = crd["spec"]["versions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|version| version["storage"] == true)
        .map(|version| version["name"].clone())
        .collect();
    let mut stored: Vec<Value> = crd["status"]["storedVersions"].as_array().cloned().unwrap_or_default();
    stored.extend(storage.into_iter().filter(|name| !stored.contains(name)).collect::<Vec<_>>());
    let since = |kind: &str| {
        let conditions = crd["status"]["conditions"].as_array().into_iter().flatten();
        let mut known = conditions.filter(|condition| condition["type"] == kind);
        known.find_map(|condition| condition["lastTransitionTime"].as_str()).unwrap_or(now).to_string()
    };
    let conditions = json!([
        {"type": "NamesAccepted", "status": "True", "lastTransitionTime": since("NamesAccepted"),
         "reason": "NoConflicts", "message": "no conflicts found"},
        {"type": "Established", "status": "True", "lastTransitionTime": since("Established"),
         "reason": "InitialNamesAccepted", "message": "the initial names have been accepted"},
    ]);
    crd["status"] = json!({"conditions": conditions, "acceptedNames": names, "storedVersions": stored});
}
