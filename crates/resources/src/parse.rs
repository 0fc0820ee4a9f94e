//! Reading objects: JSON or YAML in any served version to [`Object`].

use isthmus_model::Namespace;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;

use crate::kind::Kind;
use crate::kubernetes;
use crate::meta::{Meta, Resource, WireMeta};
use crate::object::Object;

/// Why an object was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParseError {
    /// Not an object at all, or one without kind and name.
    #[error("{object}: {problem}")]
    Shape {
        /// What it says that it is.
        object: String,
        /// What is missing.
        problem: String,
    },
    /// A kind or version that we do not read.
    #[error("{object}: kind {kind:?} of {api_version:?} is not known here")]
    UnknownKind {
        /// Its name.
        object: String,
        /// Its `apiVersion`.
        api_version: String,
        /// Its `kind`.
        kind: String,
    },
    /// A field that cannot be read.
    #[error("{object}: {field}: {problem}")]
    Field {
        /// `KIND NAMESPACE/NAME`.
        object: String,
        /// Path such as `spec.ports[0].number`.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Text that is not YAML.
    #[error("document {document}: {problem}")]
    Yaml {
        /// Position of the document in the text, from 1.
        document: usize,
        /// The reader's message, with line and column.
        problem: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Head {
    api_version: String,
    kind: String,
    metadata: WireMeta,
}

/// What was wrong with one field.
pub(crate) struct FieldError {
    path: String,
    problem: String,
}

impl FieldError {
    pub(crate) fn new(path: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { path: path.into(), problem: problem.into() }
    }

    /// Path and problem.
    pub(crate) fn parts(self) -> (String, String) {
        (self.path, self.problem)
    }
}

/// Deserializes, keeping the path of what failed below `root`.
pub(crate) fn read<T: DeserializeOwned>(root: &str, value: Value) -> Result<T, FieldError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = match (root, error.path().to_string().as_str()) {
            (root, ".") => root.to_string(),
            ("", path) => path.to_string(),
            (root, path) => format!("{root}.{path}"),
        };
        FieldError { path, problem: error.into_inner().to_string() }
    })
}

/// Takes a member out of an object; absent and null are an empty object, as protobuf's JSON form has it.
pub(crate) fn take(value: &mut Value, member: &str) -> Value {
    match value.get_mut(member).map(Value::take) {
        None | Some(Value::Null) => Value::Object(serde_json::Map::new()),
        Some(other) => other,
    }
}

/// Removes members that are null: in the API null is the same as absent.
pub(crate) fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(strip_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}

fn spec<T: DeserializeOwned>(mut value: Value) -> Result<T, FieldError> {
    read("spec", take(&mut value, "spec"))
}

/// A specification with the status fields that we read.
fn spec_and_status<T, U>(mut value: Value, put: impl FnOnce(&mut T, U)) -> Result<T, FieldError>
where
    T: DeserializeOwned,
    U: DeserializeOwned + Default,
{
    let mut content = read("spec", take(&mut value, "spec"))?;
    // A status that cannot be read is another writer's mistake and must not take the object away.
    put(&mut content, read("status", take(&mut value, "status")).unwrap_or_default());
    Ok(content)
}

/// Reads one object.
///
/// # Errors
/// When the object is not of a known kind, or a field cannot be read; the error names object and field.
pub fn parse(mut value: Value) -> Result<Object, ParseError> {
    strip_nulls(&mut value);
    let head = serde_json::json!({
        "apiVersion": value.get("apiVersion"),
        "kind": value.get("kind"),
        "metadata": take(&mut value, "metadata"),
    });
    let mut head = head;
    strip_nulls(&mut head);
    let described = describe(&head);
    let fail = |object: &str, FieldError { path: field, problem }: FieldError| ParseError::Field {
        object: object.to_string(),
        field,
        problem,
    };
    let Head { api_version, kind: kind_name, metadata } =
        read("", head).map_err(|error| fail(&described, error))?;
    if kind_name.is_empty() || api_version.is_empty() {
        let problem = "an object needs apiVersion and kind".to_string();
        return Err(ParseError::Shape { object: described, problem });
    }
    let Some(kind) = Kind::of(&api_version, &kind_name) else {
        return Err(ParseError::UnknownKind { object: described, api_version, kind: kind_name });
    };
    if metadata.name.is_empty() {
        let problem = "metadata.name is missing".to_string();
        return Err(ParseError::Shape { object: described, problem });
    }
    let namespace = if kind.names().namespaced {
        let text = if metadata.namespace.is_empty() { "default" } else { &metadata.namespace };
        let checked = Namespace::new(text)
            .map_err(|error| fail(&described, FieldError::new("metadata.namespace", error.to_string())))?;
        Some(checked)
    } else {
        None
    };
    let meta = metadata.trimmed(namespace);
    content(kind, meta, value).map_err(|error| fail(&described, error))
}

fn describe(head: &Value) -> String {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_string();
    let kind = text(head.get("kind"));
    let (namespace, name) = (text(head.pointer("/metadata/namespace")), text(head.pointer("/metadata/name")));
    let kind = if kind.is_empty() { "object".to_string() } else { kind };
    match (namespace.as_str(), name.as_str()) {
        (_, "") => format!("{kind} without a name"),
        ("", name) => format!("{kind} {name}"),
        (namespace, name) => format!("{kind} {namespace}/{name}"),
    }
}

fn with<S>(meta: Meta, spec: S) -> Object
where
    Object: From<Resource<S>>,
{
    Object::from(Resource { meta, spec })
}

fn content(kind: Kind, meta: Meta, value: Value) -> Result<Object, FieldError> {
    Ok(match kind {
        Kind::Namespace => with(meta, kubernetes::Namespace {}),
        Kind::Node => with(meta, kubernetes::node(value)?),
        Kind::Service => with(meta, kubernetes::service(value)?),
        Kind::Pod => with(meta, kubernetes::pod(value)?),
        Kind::EndpointSlice => with(meta, kubernetes::endpoint_slice(value)?),
        Kind::ServiceAccount => with(meta, kubernetes::ServiceAccount {}),
        Kind::ConfigMap => with(meta, kubernetes::config_map(value)?),
        Kind::Secret => with(meta, kubernetes::secret(value)?),
        Kind::DestinationRule => with(meta, spec::<crate::istio::DestinationRule>(value)?),
        Kind::VirtualService => with(meta, spec::<crate::istio::VirtualService>(value)?),
        Kind::Gateway => with(meta, spec::<crate::istio::Gateway>(value)?),
        Kind::ServiceEntry => with(
            meta,
            spec_and_status(value, |entry: &mut crate::istio::ServiceEntry, status| entry.status = status)?,
        ),
        Kind::WorkloadEntry => with(
            meta,
            spec_and_status(value, |entry: &mut crate::istio::WorkloadEntry, status| entry.status = status)?,
        ),
        Kind::WorkloadGroup => with(meta, spec::<crate::istio::WorkloadGroup>(value)?),
        Kind::Sidecar => with(meta, spec::<crate::istio::Sidecar>(value)?),
        Kind::PeerAuthentication => with(meta, spec::<crate::istio::PeerAuthentication>(value)?),
        Kind::RequestAuthentication => with(meta, spec::<crate::istio::RequestAuthentication>(value)?),
        Kind::AuthorizationPolicy => with(meta, spec::<crate::istio::AuthorizationPolicy>(value)?),
        Kind::Telemetry => with(meta, spec::<crate::istio::Telemetry>(value)?),
        Kind::EnvoyFilter => with(meta, spec::<crate::istio::EnvoyFilter>(value)?),
        Kind::ProxyConfig => with(meta, spec::<crate::istio::ProxyConfig>(value)?),
        Kind::WasmPlugin => with(meta, spec::<crate::istio::WasmPlugin>(value)?),
        Kind::IstioOperator => with(meta, spec::<crate::istio::IstioOperator>(value)?),
        Kind::Peer => {
            with(meta, spec_and_status(value, |peer: &mut crate::peer::Peer, status| peer.status = status)?)
        }
    })
}

/// Reads a YAML text of one or more documents; a `List` stands for its items. Every document has its own outcome.
pub fn parse_yaml(text: &str) -> Vec<Result<Object, ParseError>> {
    values(text).into_iter().map(|value| value.and_then(parse)).collect()
}

/// The objects of a text, unread: see [`documents`].
pub fn values(text: &str) -> Vec<Result<Value, ParseError>> {
    documents(text).into_iter().map(|(_, value)| value).collect()
}

/// The objects of a text of one or more documents, YAML or JSON, unread, each with the position of its document from 1. A `List`
/// stands for its items; a document that cannot be read is one error.
pub fn documents(text: &str) -> Vec<(usize, Result<Value, ParseError>)> {
    if text.trim_start().starts_with('{')
        && let Ok(values) =
            serde_json::Deserializer::from_str(text).into_iter().collect::<Result<Vec<Value>, _>>()
    {
        let numbered = values.into_iter().enumerate();
        return numbered
            .flat_map(|(at, value)| items(value).into_iter().map(move |item| (at + 1, Ok(item))))
            .collect();
    }
    let mut found = Vec::new();
    let mut document = 0;
    for (before, part) in parts(text) {
        let mut any = false;
        for read in serde_yaml::Deserializer::from_str(part) {
            if !any {
                document += 1;
                any = true;
            }
            match Value::deserialize(read) {
                Ok(value) => found.extend(items(value).into_iter().map(|item| (document, Ok(item)))),
                Err(error) => {
                    let problem = at_lines_of_the_text(part, before, error);
                    found.push((document, Err(ParseError::Yaml { document, problem })));
                    // The reader cannot find its place again after a syntax error: the next part begins the next document.
                    break;
                }
            }
        }
    }
    found
}

/// The reader's message, whose lines are those of the whole text.
fn at_lines_of_the_text(part: &str, before: usize, error: serde_yaml::Error) -> String {
    if before == 0 || error.location().is_none() {
        return error.to_string();
    }
    let again = format!("{}{part}", "\n".repeat(before));
    let mut documents = serde_yaml::Deserializer::from_str(&again).map(Value::deserialize);
    let same = documents.find_map(Result::err);
    same.unwrap_or(error).to_string()
}

/// A text cut before each line that begins a document, so that one which cannot be read does not hide the next: each part with the
/// number of lines before it.
pub fn parts(text: &str) -> Vec<(usize, &str)> {
    let mut cuts = vec![(0, 0)];
    let mut at = 0;
    for (before, line) in text.split_inclusive('\n').enumerate() {
        let marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        if marker && at != 0 {
            cuts.push((before, at));
        }
        at += line.len();
    }
    let ends = cuts.iter().skip(1).map(|(_, at)| *at).chain([text.len()]);
    let all = cuts.iter().zip(ends).map(|((before, from), to)| (*before, &text[*from..to]));
    all.filter(|(_, part)| !part.trim().is_empty()).collect()
}

/// What a document holds: nothing, one object, or the items of a list.
fn items(mut value: Value) -> Vec<Value> {
    let is_list = value["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
    match value {
        Value::Null => Vec::new(),
        _ if is_list => match value["items"].take() {
            Value::Array(items) => items,
            _ => vec![value],
        },
        _ => vec![value],
    }
}

#[cfg(test)]
mod tests;
