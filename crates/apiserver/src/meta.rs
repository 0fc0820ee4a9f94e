//! Object metadata: names, stamps, identity.

use std::time::UNIX_EPOCH;

use isthmus_lifecycle::Clock;
use serde_json::{Map, Value};

use crate::kinds::{Builtin, Kind};
use crate::status::Cause;

/// The time as Kubernetes writes it: whole seconds, UTC.
pub(crate) fn timestamp(clock: &dyn Clock) -> String {
    let seconds = clock.now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let seconds = i64::try_from(seconds).unwrap_or(0);
    jiff::Timestamp::from_second(seconds).unwrap_or_default().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Seconds since the epoch.
pub(crate) fn unix_seconds(clock: &dyn Clock) -> i64 {
    i64::try_from(clock.unix_millis() / 1000).unwrap_or(i64::MAX)
}

/// A generated name: the prefix and five letters of Kubernetes' alphabet.
pub(crate) fn generated(prefix: &str) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let prefix: String = prefix.chars().take(58).collect();
    let suffix: String = (0..5).map(|_| char::from(LETTERS[rand::random_range(0..LETTERS.len())])).collect();
    format!("{prefix}{suffix}")
}

/// The metadata of an object, made if absent.
pub(crate) fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    if !object["metadata"].is_object() {
        object["metadata"] = Value::Object(Map::new());
    }
    match &mut object["metadata"] {
        Value::Object(map) => map,
        _ => unreachable!("it was made an object just above"),
    }
}

/// What is wrong with an object's name, labels and annotations.
pub(crate) fn validate(kind: &Kind, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        causes.push(Cause::required("metadata.name", "name or generateName is required"));
    } else if let Some(why) = wrong_name(kind, name) {
        causes.push(Cause::invalid("metadata.name", &metadata["name"], why));
    }
    if let Some(labels) = metadata["labels"].as_object() {
        for (key, value) in labels {
            if let Some(why) = wrong_qualified_name(key) {
                causes.push(Cause::invalid("metadata.labels", &key.clone().into(), &why));
            }
            match value.as_str() {
                Some(text) if is_label_value(text) => {}
                _ => causes.push(Cause::invalid("metadata.labels", value, LABEL_VALUE)),
            }
        }
    }
    if let Some(annotations) = metadata["annotations"].as_object() {
        let mut size = 0;
        for (key, value) in annotations {
            size += key.len() + value.as_str().map_or(0, str::len);
            if let Some(why) = wrong_qualified_name(&key.to_lowercase()) {
                causes.push(Cause::invalid("metadata.annotations", &key.clone().into(), &why));
            }
        }
        if size > 256 << 10 {
            causes.push(Cause {
                reason: "FieldValueTooLong",
                message: "Too long: may not be more than 262144 bytes".to_string(),
                field: "metadata.annotations".to_string(),
            });
        }
    }
    for (index, finalizer) in metadata["finalizers"].as_array().into_iter().flatten().enumerate() {
        let text = finalizer.as_str().unwrap_or_default();
        if let Some(why) = wrong_qualified_name(text) {
            causes.push(Cause::invalid(format!("metadata.finalizers[{index}]"), finalizer, &why));
        }
    }
    for (index, owner) in metadata["ownerReferences"].as_array().into_iter().flatten().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner[field].as_str().unwrap_or_default().is_empty() {
                let path = format!("metadata.ownerReferences[{index}].{field}");
                causes.push(Cause::invalid(path, &owner[field], "must not be empty"));
            }
        }
    }
    causes
}

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
                     start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for \
                     validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
                         '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used \
                         for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
                           '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or \
                           'my_value',  or '12345', regex used for validation is \
                           '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

fn wrong_name(kind: &Kind, name: &str) -> Option<&'static str> {
    match kind.builtin {
        Some(Builtin::Service) if name.contains('.') => Some("must not contain dots"),
        Some(Builtin::Service) => (!is_label(name)).then_some(LABEL),
        Some(Builtin::Namespace) => (!is_label(name)).then_some(LABEL),
        _ => (!is_subdomain(name)).then_some(SUBDOMAIN),
    }
}

/// An RFC 1123 label.
pub(crate) fn is_label(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    !text.is_empty()
        && text.len() <= 63
        && text.chars().all(|c| plain(c) || c == '-')
        && text.starts_with(plain)
        && text.ends_with(plain)
}

fn is_subdomain(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.len() <= 253
        && text.split('.').all(|part| {
            !part.is_empty()
                && part.chars().all(|c| plain(c) || c == '-')
                && part.starts_with(plain)
                && part.ends_with(plain)
        })
}

pub(crate) fn is_label_value(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric();
    text.is_empty()
        || (text.len() <= 63
            && text.chars().all(|c| plain(c) || "-_.".contains(c))
            && text.starts_with(plain)
            && text.ends_with(plain))
}

fn wrong_qualified_name(text: &str) -> Option<String> {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    if prefix.is_some_and(|prefix| !is_subdomain(prefix)) {
        return Some(format!("prefix part {SUBDOMAIN}"));
    }
    if name.is_empty() {
        return Some("name part must be non-empty".to_string());
    }
    if name.len() > 63 {
        return Some("name part must be no more than 63 characters".to_string());
    }
    (!is_label_value(name)).then(|| {
        "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
         alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
         '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
            .to_string()
    })
}
