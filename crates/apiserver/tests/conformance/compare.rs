//! What of two answers must be equal.

use serde_json::{Value, json};

/// Fields that differ from run to run.
const VOLATILE: [&str; 8] = [
    "uid",
    "creationTimestamp",
    "resourceVersion",
    "managedFields",
    "deletionTimestamp",
    "lastTransitionTime",
    "expirationTimestamp",
    "token",
];

/// Defaults of fields that nobody here reads: admission of Kubernetes' own scheduler and kubelets.
const UNREAD: [&str; 6] =
    ["preemptionPolicy", "priority", "tolerations", "taints", "nodeInfo", "daemonEndpoints"];

/// Steps whose bodies differ, and why that is so. Code and reason must be equal all the same.
const DIFFERENCES: &[(&str, &str)] = &[
    ("map other kind", "Kubernetes names Go types"),
    ("map other version", "Kubernetes names a Go source line"),
    ("map not json", "the parsers describe the place differently"),
    ("map put other uid", "Kubernetes names its storage error"),
    ("map json patch fails", "we say which operation failed"),
    ("map patch unknown media", "we say which media types are accepted"),
    ("service twin ports", "Kubernetes prints a Go struct"),
    ("pod spec fixed", "Kubernetes prints a difference of Go structs"),
    ("slice changed", "Kubernetes writes null for an empty list of endpoints"),
    ("node", "Kubernetes writes empty structs of nodes"),
    ("definition without storage", "Kubernetes prints Go structs and checks the status as well"),
    ("definition", "we serve a definition at once, Kubernetes a moment later"),
];

/// Steps whose codes differ as well, and why.
const CODES: &[(&str, &str)] =
    &[("map with version", "a bad request is the client's error; Kubernetes answers 500 here")];

/// An answer without what differs from run to run.
pub(crate) fn comparable(code: u16, mut body: Value) -> Value {
    scrub(&mut body);
    json!({"code": code, "body": body})
}

fn scrub(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for name in VOLATILE {
                // A deletion mark must be there or not; what it says does not matter.
                if let Some(field) = fields.get_mut(name) {
                    if name == "deletionTimestamp" {
                        *field = "set".into();
                    } else {
                        fields.remove(name);
                    }
                }
            }
            for name in ["clusterIP", "nodePort"] {
                if let Some(field) = fields.get_mut(name).filter(|field| **field != "None") {
                    *field = "given".into();
                }
            }
            if let Some(Value::Array(ips)) = fields.get_mut("clusterIPs") {
                ips.iter_mut().filter(|ip| **ip != "None").for_each(|ip| *ip = "given".into());
            }
            for name in UNREAD {
                fields.remove(name);
            }
            // Kubernetes leaves them out of the lists of its own kinds; clients take both.
            for item in fields.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(item) = item.as_object_mut() {
                    item.remove("apiVersion");
                    item.remove("kind");
                }
            }
            // Our columns carry no descriptions.
            for column in
                fields.get_mut("columnDefinitions").and_then(Value::as_array_mut).into_iter().flatten()
            {
                column["description"] = "".into();
            }
            // Several causes come in any order, and the message repeats them.
            let mut several = false;
            if let Some(Value::Array(causes)) =
                fields.get_mut("details").and_then(|details| details.get_mut("causes"))
            {
                causes.sort_by_key(Value::to_string);
                several = causes.len() > 1;
            }
            if several {
                fields.remove("message");
            }
            fields.values_mut().for_each(scrub);
            let empty = |value: &Value| value.as_object().is_some_and(serde_json::Map::is_empty);
            fields.retain(|name, value| !((name == "spec" || name == "status") && empty(value)));
        }
        Value::Array(items) => items.iter_mut().for_each(scrub),
        Value::String(text) => {
            let mut plain = String::new();
            for word in text.split_inclusive([' ', ',', '(', ')']) {
                let end = word.trim_end_matches([' ', ',', '(', ')']);
                let known = if is_uid(end) {
                    "UID"
                } else if is_age(end) {
                    "AGE"
                } else if end.starts_with("10.96.") {
                    "ADDRESS"
                } else {
                    end
                };
                plain.push_str(known);
                plain.push_str(&word[end.len()..]);
            }
            *text = plain;
        }
        _ => {}
    }
}

/// A table's age of something that was just made: `0s`, `12s`.
fn is_age(text: &str) -> bool {
    text.strip_suffix('s')
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

fn is_uid(text: &str) -> bool {
    text.len() == 36 && text.bytes().filter(|byte| *byte == b'-').count() == 4
}

/// How two answers differ; nothing when they agree as far as they must.
pub(crate) fn difference(name: &str, ours: &Value, theirs: &Value) -> Option<String> {
    if CODES.iter().any(|(step, _)| *step == name) {
        return None;
    }
    if DIFFERENCES.iter().any(|(step, _)| *step == name) {
        let key = |answer: &Value| (answer["code"].clone(), answer["body"]["reason"].clone());
        if key(ours) == key(theirs) {
            return None;
        }
    }
    let mut lines = Vec::new();
    walk("", ours, theirs, &mut lines);
    (!lines.is_empty()).then(|| lines.join("\n"))
}

fn walk(path: &str, ours: &Value, theirs: &Value, lines: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                walk(&format!("{path}.{key}"), &ours[key], &theirs[key], lines);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                walk(&format!("{path}[{index}]"), a, b, lines);
            }
        }
        _ if ours == theirs => {}
        _ => lines.push(format!("  {path}\n    ours   {ours}\n    theirs {theirs}")),
    }
}
