//! Lists: selected, paged, at one revision.

use std::sync::Arc;

use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use base64::{DecodeError, Engine};
use serde::{Deserialize, Serialize};

use super::Api;
use crate::cache::Object;
use crate::kinds::Kind;
use crate::request::Query;
use crate::selector::Selector;
use crate::status::ApiError;

/// What to list.
#[derive(Debug, Clone, Default)]
pub(crate) struct ListOptions {
    pub(crate) selector: Selector,
    pub(crate) limit: usize,
    pub(crate) next: Option<Continue>,
    /// `resourceVersionMatch=Exact`.
    pub(crate) exact: Option<u64>,
    /// At least this revision.
    pub(crate) at_least: Option<u64>,
}

/// Where the next page begins, as the `continue` token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Continue {
    v: String,
    rv: u64,
    start: String,
}

/// One page.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) items: Vec<Arc<Object>>,
    pub(crate) revision: u64,
    pub(crate) next: Option<String>,
    pub(crate) remaining: Option<usize>,
}

impl ListOptions {
    pub(crate) fn parse(kind: &Kind, query: &Query) -> Result<Self, ApiError> {
        let selector = Selector::parse(kind, query.get("labelSelector"), query.get("fieldSelector"))?;
        let limit = query.number("limit")?.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(0);
        let next = match query.get("continue") {
            None => None,
            Some(token) => {
                let bad = |why: String| {
                    ApiError::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
                };
                let json = BASE64.decode(token).map_err(|error| match error {
                    DecodeError::InvalidByte(at, _) => bad(format!("illegal base64 data at input byte {at}")),
                    other => bad(other.to_string()),
                })?;
                Some(serde_json::from_slice(&json).map_err(|error| bad(error.to_string()))?)
            }
        };
        let version = query.number("resourceVersion")?;
        if next.is_some() && version.is_some_and(|version| version > 0) {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let mut options = Self { selector, limit, next, ..Self::default() };
        match (query.get("resourceVersionMatch"), version) {
            (Some("Exact"), Some(version)) if version > 0 => options.exact = Some(version),
            (Some("Exact" | "NotOlderThan"), None) => {
                return Err(ApiError::bad_request(
                    "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
                ));
            }
            (_, version) => options.at_least = version,
        }
        Ok(options)
    }
}

impl Api {
    pub(crate) async fn list(
        &self,
        kind: &Kind,
        namespace: &str,
        options: &ListOptions,
    ) -> Result<Listed, ApiError> {
        if let Some(version) = options.at_least.or(options.exact) {
            self.cache.reach(version).await?;
        }
        let prefix = match (kind.namespaced, namespace) {
            (true, "") | (false, _) => String::new(),
            (true, namespace) => format!("{namespace}/"),
        };
        let collection = self.collection(kind);
        let past = options.next.as_ref().map(|next| next.rv).or(options.exact);
        let revision = past.unwrap_or_else(|| self.cache.revision());
        if past.is_none() && options.limit == 0 {
            if let Some(name) = options.selector.name.as_deref().filter(|_| !namespace.is_empty()) {
                let found = collection.get(&kind.key(namespace, name)).into_iter();
                let items = found.filter(|object| options.selector.matches(&object.value)).collect();
                return Ok(Listed { items, revision, next: None, remaining: None });
            }
            let mut items = collection.list(&prefix);
            if !options.selector.is_empty() {
                items.retain(|object| options.selector.matches(&object.value));
            }
            return Ok(Listed { items, revision, next: None, remaining: None });
        }
        let all = collection.list_at(&prefix, revision).map_err(|_| {
            ApiError::expired(if options.next.is_some() {
                "The provided continue parameter is too old to display a consistent list result. You can start a new \
                 list without the continue parameter."
            } else {
                "The resourceVersion for the provided list is too old."
            })
        })?;
        let from = options.next.as_ref().map(|next| next.start.as_str());
        let mut rest = all
            .into_iter()
            .skip_while(|(key, _)| from.is_some_and(|from| key.as_str() <= from))
            .filter(|(_, object)| options.selector.matches(&object.value));
        let limit = if options.limit == 0 { usize::MAX } else { options.limit };
        let mut items = Vec::new();
        let mut last = String::new();
        for (key, object) in rest.by_ref().take(limit) {
            last = key;
            items.push(object);
        }
        let left = rest.count();
        let next = (left > 0).then(|| {
            let next = Continue { v: "isthmus/v1".to_string(), rv: revision, start: last };
            BASE64.encode(serde_json::to_vec(&next).unwrap_or_default())
        });
        let remaining = (left > 0 && options.selector.is_empty()).then_some(left);
        Ok(Listed { items, revision, next, remaining })
    }
}
