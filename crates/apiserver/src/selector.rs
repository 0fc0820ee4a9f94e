//! Label and field selectors.

use serde_json::Value;

use crate::kinds::{Builtin, Kind};
use crate::status::ApiError;

/// What a list or watch is narrowed to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<(Vec<String>, bool, String)>,
    /// The one name that `metadata.name=` asks for.
    pub(crate) name: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
    Greater(i64),
    Less(i64),
}

impl Selector {
    pub(crate) fn parse(kind: &Kind, labels: Option<&str>, fields: Option<&str>) -> Result<Self, ApiError> {
        let mut selector = Self::default();
        if let Some(labels) = labels {
            selector.labels = parse_labels(labels).map_err(|why| {
                ApiError::bad_request(format!("unable to parse requirement: {why} in {labels:?}"))
            })?;
        }
        for term in fields.unwrap_or_default().split(',').filter(|term| !term.trim().is_empty()) {
            let bad =
                || ApiError::bad_request(format!("invalid selector: {term:?}; can't understand {term:?}"));
            let (path, wanted, equal) = if let Some((path, value)) = term.split_once("!=") {
                (path, value, false)
            } else if let Some((path, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
                (path, value, true)
            } else {
                return Err(bad());
            };
            let path = path.trim();
            if !selectable(kind, path) {
                return Err(ApiError::bad_request(
                    if kind.builtin.is_some() && selectable_fields(kind).is_empty() {
                        format!(
                            "{path:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
                        )
                    } else {
                        format!("field label not supported: {path}")
                    },
                ));
            }
            if path == "metadata.name" && equal {
                selector.name = Some(wanted.to_string());
            }
            let path = path.split('.').map(str::to_string).collect();
            selector.fields.push((path, equal, wanted.to_string()));
        }
        Ok(selector)
    }

    /// Whether it lets everything pass.
    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        let label = |key: &str| labels.get(key).and_then(Value::as_str);
        self.labels.iter().all(|requirement| requirement.matches(label(&requirement.key)))
            && self.fields.iter().all(|(path, equal, wanted)| (field(object, path) == *wanted) == *equal)
    }
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match &self.test {
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
            Test::In(values) => value.is_some_and(|value| values.iter().any(|one| one == value)),
            Test::NotIn(values) => !value.is_some_and(|value| values.iter().any(|one| one == value)),
            Test::Greater(bound) => number().is_some_and(|value| value > *bound),
            Test::Less(bound) => number().is_some_and(|value| value < *bound),
        }
    }
}

/// The text of a field; absent is empty, as in Kubernetes.
fn field(object: &Value, path: &[String]) -> String {
    let mut value = object;
    for key in path {
        value = &value[key.as_str()];
    }
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn selectable(kind: &Kind, path: &str) -> bool {
    if path == "metadata.name" || (path == "metadata.namespace" && kind.namespaced) {
        return true;
    }
    selectable_fields(kind).contains(&path)
}

/// What a kind can be selected by beside its name.
fn selectable_fields(kind: &Kind) -> &'static [&'static str] {
    match kind.builtin {
        Some(Builtin::Pod) => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        Some(Builtin::Service) => &["spec.clusterIP", "spec.type"],
        Some(Builtin::Secret) => &["type"],
        Some(Builtin::Namespace) => &["status.phase", "name"],
        Some(Builtin::Node) => &["spec.unschedulable"],
        Some(Builtin::Event) => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        _ => &[],
    }
}

fn parse_labels(text: &str) -> Result<Vec<Requirement>, String> {
    let mut requirements = Vec::new();
    // Commas inside parentheses do not separate requirements.
    let mut depth = 0_u32;
    let mut start = 0;
    let mut terms = Vec::new();
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    for term in terms {
        let term = term.trim();
        if term.is_empty() {
            continue;
        }
        requirements.push(requirement(term)?);
    }
    Ok(requirements)
}

fn requirement(term: &str) -> Result<Requirement, String> {
    let make = |key: &str, test: Test| {
        let key = key.trim();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(format!("{term:?} has no label key"));
        }
        Ok(Requirement { key: key.to_string(), test })
    };
    if let Some(open) = term.find('(') {
        let values = term[open + 1..].strip_suffix(')').ok_or_else(|| format!("{term:?} has no ')'"))?;
        let values: Vec<String> = values.split(',').map(|value| value.trim().to_string()).collect();
        let head: Vec<&str> = term[..open].split_whitespace().collect();
        return match head.as_slice() {
            [key, "in"] => make(key, Test::In(values)),
            [key, "notin"] => make(key, Test::NotIn(values)),
            _ => Err(format!("{term:?} is neither 'in' nor 'notin'")),
        };
    }
    if let Some((key, value)) = term.split_once("!=") {
        return make(key, Test::NotIn(vec![label_value(value)?]));
    }
    if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return make(key, Test::In(vec![label_value(value)?]));
    }
    if let Some((key, bound)) = term.split_once('>') {
        return make(
            key,
            Test::Greater(bound.trim().parse().map_err(|_| format!("{bound:?} is no number"))?),
        );
    }
    if let Some((key, bound)) = term.split_once('<') {
        return make(key, Test::Less(bound.trim().parse().map_err(|_| format!("{bound:?} is no number"))?));
    }
    match term.strip_prefix('!') {
        Some(key) => make(key, Test::Absent),
        None => make(term, Test::Exists),
    }
}

fn label_value(text: &str) -> Result<String, String> {
    let value = text.trim();
    if value.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
        return Ok(value.to_string());
    }
    Err(format!("{value:?} is not a label value"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn holds(selector: &str) -> bool {
        let labels = parse_labels(selector).expect("it parses");
        let selector = Selector { labels, ..Selector::default() };
        selector.matches(&json!({"metadata": {"labels": {"app": "web", "tier": "5", "empty": ""}}}))
    }

    #[test]
    fn label_selectors_mean_what_kubernetes_means() {
        for selector in [
            "app=web",
            "app==web",
            "app in (db, web)",
            "!db",
            "app,tier",
            "app!=db",
            "x!=y",
            "tier>4",
            "empty=",
        ] {
            assert!(holds(selector), "{selector}");
        }
        for selector in ["app=db", "app notin (web)", "!app", "db", "app=web,tier=4", "tier<5", "app!=web"] {
            assert!(!holds(selector), "{selector}");
        }
        for selector in ["app in web", "a b", "=x", "app=we b", "tier>x", "app in (a"] {
            assert!(parse_labels(selector).is_err(), "{selector}");
        }
    }
}
