//! Checking a value against a schema, with the texts of Kubernetes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64::engine::general_purpose::STANDARD as BASE64;
use base64::{DecodeError, Engine};
use serde_json::Value;

use super::{ListType, Node, Rules, Type, join};
use crate::status::Cause;

/// Causes reported at most: a hopeless object needs no book.
const MOST: usize = 50;

/// Everything that is wrong with a custom resource's value.
pub(crate) fn validate(value: &Value, node: &Node) -> Vec<Cause> {
    let mut causes = Vec::new();
    check(value, node, "", &mut causes);
    causes.truncate(MOST);
    causes
}

/// The first value of the wrong type, in the words of Go's decoder, for Kubernetes' own kinds.
pub(crate) fn go_type_error(value: &Value, node: &Node) -> Option<String> {
    types_only(value, node, "", "")
}

fn types_only(value: &Value, node: &Node, go_type: &str, path: &str) -> Option<String> {
    if value.is_null() || node.int_or_string {
        return None;
    }
    let wanted = match (node.kind, value) {
        (None, _)
        | (Some(Type::Object), Value::Object(_))
        | (Some(Type::Array), Value::Array(_))
        | (Some(Type::String), Value::String(_))
        | (Some(Type::Boolean), Value::Bool(_))
        | (Some(Type::Number), Value::Number(_)) => None,
        (Some(Type::Integer), Value::Number(number)) => (!number.is_i64()).then_some("int32"),
        (Some(Type::Object), _) => Some("object"),
        (Some(Type::Array), _) => Some("[]"),
        (Some(Type::String), _) => Some("string"),
        (Some(Type::Boolean), _) => Some("bool"),
        (Some(Type::Integer), _) => Some("int32"),
        (Some(Type::Number), _) => Some("float64"),
    };
    if let Some(wanted) = wanted {
        let given = json_type(value);
        return Some(format!(
            "json: cannot unmarshal {given} into Go struct field {go_type}.{path} of type {wanted}"
        ));
    }
    match value {
        Value::String(text) if node.bytes => match BASE64.decode(text) {
            Ok(_) => None,
            Err(DecodeError::InvalidByte(at, _)) => Some(format!("illegal base64 data at input byte {at}")),
            Err(_) => Some(format!("illegal base64 data at input byte {}", text.len())),
        },
        Value::Object(fields) => {
            let go_type = node.go_type.as_deref().unwrap_or(go_type);
            fields.iter().find_map(|(key, field)| {
                let child = node.field(key)?;
                // The keys of a map are not part of Go's path.
                let below = if node.declares(key) { join(path, key) } else { path.to_string() };
                types_only(field, child, go_type, &below)
            })
        }
        Value::Array(items) => {
            let child = node.items.as_ref()?;
            items.iter().find_map(|item| types_only(item, child, go_type, path))
        }
        _ => None,
    }
}

fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn check(value: &Value, node: &Node, path: &str, causes: &mut Vec<Cause>) {
    if causes.len() > MOST {
        return;
    }
    if value.is_null() && (node.nullable || node.kind.is_none()) {
        return;
    }
    if node.int_or_string {
        if !value.is_string() && !value.is_i64() {
            causes.push(wrong_type(value, path, "integer,string"));
            return;
        }
    } else if let Some(kind) = node.kind
        && !is_type(value, kind)
    {
        causes.push(wrong_type(value, path, type_name(kind)));
        return;
    }
    if let Some(rules) = &node.rules {
        check_rules(value, rules, path, causes);
    }
    match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                if let Some(child) = node.field(key) {
                    check(field, child, &join(path, key), causes);
                }
            }
        }
        Value::Array(items) => {
            if let Some(child) = &node.items {
                for (index, item) in items.iter().enumerate() {
                    check(item, child, &format!("{path}[{index}]"), causes);
                }
            }
            check_unique(items, node, path, causes);
        }
        _ => {}
    }
}

fn check_unique(items: &[Value], node: &Node, path: &str, causes: &mut Vec<Cause>) {
    let mut seen = std::collections::HashSet::new();
    for (index, item) in items.iter().enumerate() {
        let identity = match &node.list_type {
            ListType::Atomic => return,
            ListType::Set => item.clone(),
            ListType::Map(keys) => {
                let fields = keys.iter().filter_map(|key| Some((key.clone(), item.get(key)?.clone())));
                Value::Object(fields.collect())
            }
        };
        if !seen.insert(identity.to_string()) {
            causes.push(Cause::duplicate(format!("{path}[{index}]"), &identity));
        }
    }
}

fn check_rules(value: &Value, rules: &Rules, path: &str, causes: &mut Vec<Cause>) {
    let mut fails = |detail: String| causes.push(Cause::invalid(path, value, &detail));
    let here = if path.is_empty() { "" } else { path };
    if let Value::String(text) = value {
        // As in Kubernetes, the first of these that fails is the one that is told.
        let length = text.chars().count();
        if let Some(max) = rules.max_length.filter(|max| length > *max) {
            fails(format!("{here} in body should be at most {max} chars long"));
        } else if let Some(min) = rules.min_length.filter(|min| length < *min) {
            fails(format!("{here} in body should be at least {min} chars long"));
        } else if let Some(pattern) = rules.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
            fails(format!("{here} in body should match '{}'", pattern.as_str()));
        } else if let Some(format) = rules.format.as_deref().filter(|format| !has_format(text, format)) {
            fails(format!("{here} in body must be of type {format}: {text:?}"));
        }
    }
    if let Some(number) = value.as_f64() {
        match rules.maximum {
            Some((max, false)) if number > max => {
                fails(format!("{here} in body should be less than or equal to {max}"));
            }
            Some((max, true)) if number >= max => fails(format!("{here} in body should be less than {max}")),
            _ => {}
        }
        match rules.minimum {
            Some((min, false)) if number < min => {
                fails(format!("{here} in body should be greater than or equal to {min}"));
            }
            Some((min, true)) if number <= min => {
                fails(format!("{here} in body should be greater than {min}"));
            }
            _ => {}
        }
        if rules.multiple_of.is_some_and(|of| (number / of).fract() != 0.0) {
            fails(format!("{here} in body should be a multiple of {}", rules.multiple_of.unwrap_or(0.0)));
        }
    }
    if let Value::Array(items) = value {
        if rules.max_items.is_some_and(|max| items.len() > max) {
            fails(format!("{here} in body should have at most {} items", rules.max_items.unwrap_or(0)));
        }
        if rules.min_items.is_some_and(|min| items.len() < min) {
            fails(format!("{here} in body should have at least {} items", rules.min_items.unwrap_or(0)));
        }
        if rules.unique && (1..items.len()).any(|end| items[..end].contains(&items[end])) {
            fails(format!("{here} in body shouldn't contain duplicates"));
        }
    }
    if let Value::Object(fields) = value {
        if rules.max_properties.is_some_and(|max| fields.len() > max) {
            fails(format!(
                "{here} in body should have at most {} properties",
                rules.max_properties.unwrap_or(0)
            ));
        }
        if rules.min_properties.is_some_and(|min| fields.len() < min) {
            fails(format!(
                "{here} in body should have at least {} properties",
                rules.min_properties.unwrap_or(0)
            ));
        }
        for name in &rules.required {
            if !fields.contains_key(name) {
                causes.push(Cause::required(join(path, name), ""));
            }
        }
    }
    if let Some(choices) = rules.choices.as_ref().filter(|choices| !choices.contains(value)) {
        let shown: Vec<String> = choices
            .iter()
            .map(|choice| choice.as_str().map_or_else(|| choice.to_string(), str::to_string))
            .collect();
        causes.push(Cause::unsupported(path, value, &shown));
    }
    check_junctors(value, rules, path, causes);
}

fn check_junctors(value: &Value, rules: &Rules, path: &str, causes: &mut Vec<Cause>) {
    let holds = |node: &Node| {
        let mut inner = Vec::new();
        check(value, node, path, &mut inner);
        inner.is_empty()
    };
    for node in &rules.all_of {
        check(value, node, path, causes);
    }
    if !rules.any_of.is_empty() && !rules.any_of.iter().any(holds) {
        let detail = format!("{path} in body must validate at least one schema (anyOf)");
        causes.push(Cause::invalid(path, value, &detail));
    }
    if !rules.one_of.is_empty() && rules.one_of.iter().filter(|node| holds(node)).count() != 1 {
        let detail = format!("{path} in body must validate one and only one schema (oneOf)");
        causes.push(Cause::invalid(path, value, &detail));
    }
    if rules.not.as_deref().is_some_and(holds) {
        let detail = format!("{path} in body must not validate the schema (not)");
        causes.push(Cause::invalid(path, value, &detail));
    }
}

fn wrong_type(value: &Value, path: &str, wanted: &str) -> Cause {
    let given = match value {
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::Bool(_) => "boolean",
        other => json_type(other),
    };
    Cause::wrong_type(path, &given.into(), &format!("{path} in body must be of type {wanted}: {given:?}"))
}

fn is_type(value: &Value, kind: Type) -> bool {
    match kind {
        Type::Object => value.is_object(),
        Type::Array => value.is_array(),
        Type::String => value.is_string(),
        Type::Integer => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0),
        Type::Number => value.is_number(),
        Type::Boolean => value.is_boolean(),
    }
}

fn type_name(kind: Type) -> &'static str {
    match kind {
        Type::Object => "object",
        Type::Array => "array",
        Type::String => "string",
        Type::Integer => "integer",
        Type::Number => "number",
        Type::Boolean => "boolean",
    }
}

/// The formats that the mesh's kinds use; others are not checked, as in Kubernetes.
fn has_format(text: &str, format: &str) -> bool {
    match format {
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "ip" => text.parse::<IpAddr>().is_ok(),
        "cidr" => text.parse::<ipnet::IpNet>().is_ok(),
        "date-time" => text.parse::<jiff::Timestamp>().is_ok(),
        "uuid" => uuid::Uuid::parse_str(text).is_ok(),
        _ => true,
    }
}
