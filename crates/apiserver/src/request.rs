//! What a request asks for: the path, the query, the wanted form of the answer.

use std::collections::HashMap;

use http::request::Parts;
use http::{Method, header};

use crate::status::ApiError;

/// A request for a resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) group: String,
    pub(crate) version: String,
    /// Empty for a collection over all namespaces, and for kinds without namespaces.
    pub(crate) namespace: String,
    pub(crate) plural: String,
    /// Empty for a collection.
    pub(crate) name: String,
    pub(crate) subresource: String,
}

impl Target {
    /// Reads `/api/v1/…` and `/apis/GROUP/VERSION/…`; nothing for other paths.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let mut parts = path.trim_start_matches('/').split('/').filter(|part| !part.is_empty());
        let group = match parts.next()? {
            "api" => String::new(),
            "apis" => decoded(parts.next()?)?,
            _ => return None,
        };
        let version = decoded(parts.next()?)?;
        let rest: Vec<String> = parts.map(decoded).collect::<Option<_>>()?;
        let mut target = Self { group, version, ..Self::default() };
        let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
        let rest = match rest.as_slice() {
            // A namespace itself, its status, its finalizers.
            ["namespaces"] | ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => rest.as_slice(),
            ["namespaces", namespace, rest @ ..] => {
                target.namespace = (*namespace).to_string();
                rest
            }
            rest => rest,
        };
        match rest {
            [plural] => target.plural = (*plural).to_string(),
            [plural, name] => (target.plural, target.name) = ((*plural).to_string(), (*name).to_string()),
            [plural, name, subresource] => {
                target.plural = (*plural).to_string();
                target.name = (*name).to_string();
                target.subresource = (*subresource).to_string();
            }
            _ => return None,
        }
        Some(target)
    }
}

/// Undoes percent-encoding of one path segment.
fn decoded(segment: &str) -> Option<String> {
    percent_decoded(segment, false)
}

fn percent_decoded(text: &str, plus: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                let digits = std::str::from_utf8(&digits).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
            }
            b'+' if plus => bytes.push(b' '),
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).ok()
}

/// The query's parameters; the first of each name counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(HashMap<String, String>);

impl Query {
    pub(crate) fn parse(query: Option<&str>) -> Result<Self, ApiError> {
        let mut values = HashMap::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let bad = || ApiError::bad_request(format!("query parameter {key:?} is not percent-encoded"));
            let key = percent_decoded(key, true).ok_or_else(bad)?;
            let value = percent_decoded(value, true).ok_or_else(bad)?;
            values.entry(key).or_insert(value);
        }
        Ok(Self(values))
    }

    /// A parameter that is given and not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        // `?watch` alone means true, as in Kubernetes.
        self.0
            .get(name)
            .is_some_and(|value| matches!(value.as_str(), "" | "1" | "t" | "T" | "true" | "True" | "TRUE"))
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let number = text.parse().map_err(|_| {
            ApiError::bad_request(format!("query parameter {name}: {text:?} is not a whole number"))
        })?;
        Ok(Some(number))
    }

    /// Whether nothing is to be kept.
    pub(crate) fn dry_run(&self) -> Result<bool, ApiError> {
        match self.get("dryRun") {
            None => Ok(false),
            Some("All") => Ok(true),
            Some(other) => Err(ApiError::new(
                http::StatusCode::UNPROCESSABLE_ENTITY,
                "Invalid",
                format!("dryRun: Unsupported value: {other:?}: supported values: \"All\""),
            )),
        }
    }
}

/// In which form the client wants objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Object,
    /// `meta.k8s.io/v1` Table.
    Table,
    /// `meta.k8s.io/v1` PartialObjectMetadata.
    Metadata,
}

impl Form {
    /// The first acceptable form that we have.
    pub(crate) fn wanted(parts: &Parts) -> Result<Self, ApiError> {
        let Some(accept) = parts.headers.get(header::ACCEPT) else { return Ok(Self::Object) };
        let accept = accept.to_str().unwrap_or_default();
        for choice in accept.split(',') {
            let mut pieces = choice.split(';').map(str::trim);
            let media = pieces.next().unwrap_or_default();
            if !matches!(media, "application/json" | "*/*" | "application/*" | "") {
                continue;
            }
            let parameters: HashMap<&str, &str> = pieces.filter_map(|piece| piece.split_once('=')).collect();
            match parameters.get("as") {
                None => return Ok(Self::Object),
                Some(_) if parameters.get("v").is_some_and(|version| *version != "v1") => {}
                Some(&"Table") => return Ok(Self::Table),
                Some(&("PartialObjectMetadata" | "PartialObjectMetadataList")) => return Ok(Self::Metadata),
                Some(_) => {}
            }
        }
        Err(ApiError::new(
            http::StatusCode::NOT_ACCEPTABLE,
            "NotAcceptable",
            "only the following media types are accepted: application/json",
        ))
    }
}

/// The verb that is authorized.
pub(crate) fn verb(method: &Method, target: &Target, query: &Query) -> Option<&'static str> {
    Some(match (method.as_str(), target.name.is_empty()) {
        ("GET" | "HEAD", true) if query.flag("watch") => "watch",
        ("GET" | "HEAD", true) => "list",
        ("GET" | "HEAD", false) => "get",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", true) => "deletecollection",
        ("DELETE", false) => "delete",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(group: &str, namespace: &str, plural: &str, name: &str, subresource: &str) -> Target {
        let text = str::to_string;
        Target {
            group: text(group),
            version: "v1".into(),
            namespace: text(namespace),
            plural: text(plural),
            name: text(name),
            subresource: text(subresource),
        }
    }

    #[test]
    fn paths_name_objects_collections_and_subresources() {
        for (path, target) in [
            ("/api/v1/pods", of("", "", "pods", "", "")),
            ("/api/v1/namespaces", of("", "", "namespaces", "", "")),
            ("/api/v1/namespaces/a", of("", "", "namespaces", "a", "")),
            ("/api/v1/namespaces/a/status", of("", "", "namespaces", "a", "status")),
            ("/api/v1/namespaces/a/pods", of("", "a", "pods", "", "")),
            ("/api/v1/namespaces/a/pods/b/status", of("", "a", "pods", "b", "status")),
            ("/apis/x.io/v1/namespaces/a/things/b%20c", of("x.io", "a", "things", "b c", "")),
            ("/apis/x.io/v1/things/b/", of("x.io", "", "things", "b", "")),
        ] {
            assert_eq!(Target::parse(path), Some(target), "{path}");
        }
        for path in ["/", "/api", "/apis/x.io/v1", "/healthz", "/api/v1/a/b/c/d/e/f", "/api/v1/pods/%zz"] {
            assert_eq!(Target::parse(path), None, "{path}");
        }
    }
}
