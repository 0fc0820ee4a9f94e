//! The verbs of the API, with errors that say what was attempted and what to do.

use http::Method;
use isthmus_resources::Kind;
use serde_json::{Value, json};
use thiserror::Error;

use crate::client::{Cluster, chain};

/// A type of objects, by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectType {
    /// Group; empty for the core group.
    pub group: &'static str,
    /// Version.
    pub version: &'static str,
    /// Plural, as in paths.
    pub plural: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
}

/// Lease of `coordination.k8s.io`.
pub const LEASE: ObjectType = ObjectType {
    group: "coordination.k8s.io",
    version: "v1",
    plural: "leases",
    kind: "Lease",
    namespaced: true,
};

pub(crate) const TOKEN_REVIEW: ObjectType = ObjectType {
    group: "authentication.k8s.io",
    version: "v1",
    plural: "tokenreviews",
    kind: "TokenReview",
    namespaced: false,
};

impl From<Kind> for ObjectType {
    fn from(kind: Kind) -> Self {
        let names = kind.names();
        Self {
            group: names.group,
            version: names.versions[0],
            plural: names.plural,
            kind: names.kind,
            namespaced: names.namespaced,
        }
    }
}

impl ObjectType {
    /// `apiVersion` of its objects.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    fn path(&self, namespace: Option<&str>, name: Option<&str>) -> String {
        let mut path =
            if self.group.is_empty() { "/api/".to_string() } else { format!("/apis/{}/", self.group) };
        path.push_str(self.version);
        if let Some(namespace) = namespace.filter(|_| self.namespaced) {
            path.push_str("/namespaces/");
            path.push_str(namespace);
        }
        path.push('/');
        path.push_str(self.plural);
        if let Some(name) = name {
            path.push('/');
            path.push_str(name);
        }
        path
    }
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ApiError {
    /// No answer.
    #[error(
        "{action}: the API server at {server} does not answer: {problem}; check that the control plane runs and that the \
         kubeconfig names its address"
    )]
    Unreachable {
        /// What was attempted.
        action: String,
        /// The server.
        server: String,
        /// What went wrong.
        problem: String,
    },
    /// Credentials are not accepted.
    #[error(
        "{action}: the API server does not accept these credentials ({message}); use the kubeconfig of an admin"
    )]
    Unauthorized {
        /// What was attempted.
        action: String,
        /// The server's words.
        message: String,
    },
    /// Credentials do not allow it.
    #[error("{action}: not allowed: {message}")]
    Forbidden {
        /// What was attempted.
        action: String,
        /// The server's words.
        message: String,
    },
    /// The object, or its whole type, is not there.
    #[error("{action}: not found: {message}")]
    NotFound {
        /// What was attempted.
        action: String,
        /// The server's words.
        message: String,
    },
    /// Somebody else changed the object meanwhile, or a precondition does not hold.
    #[error("{action}: changed by somebody else meanwhile: {message}; try again")]
    Conflict {
        /// What was attempted.
        action: String,
        /// The server's words.
        message: String,
    },
    /// An object of this name is there already.
    #[error("{action}: already exists: {message}")]
    AlreadyExists {
        /// What was attempted.
        action: String,
        /// The server's words.
        message: String,
    },
    /// The server refused it.
    #[error("{action}: refused with {code}: {message}")]
    Refused {
        /// What was attempted.
        action: String,
        /// HTTP status.
        code: u16,
        /// The server's words.
        message: String,
    },
    /// An answer that cannot be read.
    #[error("{action}: the answer cannot be read: {problem}")]
    Answer {
        /// What was attempted.
        action: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl ApiError {
    fn from_kube(action: String, cluster: &Cluster, error: &kube::Error) -> Self {
        let kube::Error::Api(status) = error else {
            return match error {
                kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => {
                    Self::Answer { action, problem: chain(error) }
                }
                _ => {
                    Self::Unreachable { action, server: cluster.server().to_string(), problem: chain(error) }
                }
            };
        };
        let message = status.message.clone();
        match (status.code, status.reason.as_str()) {
            (401, _) => Self::Unauthorized { action, message },
            (403, _) => Self::Forbidden { action, message },
            (404, _) => Self::NotFound { action, message },
            (409, "AlreadyExists") => Self::AlreadyExists { action, message },
            (409, _) => Self::Conflict { action, message },
            (code, _) => Self::Refused { action, code, message },
        }
    }

    /// Whether trying the same again may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Conflict { .. } => true,
            Self::Refused { code, .. } => *code >= 500 || *code == 429,
            _ => false,
        }
    }
}

/// What a deletion must find unchanged.
#[derive(Clone, Copy, Debug, Default)]
pub struct Preconditions<'a> {
    /// The object's UID.
    pub uid: Option<&'a str>,
    /// The object's resource version.
    pub resource_version: Option<&'a str>,
}

/// Turns "not found" into nothing.
fn found<T>(outcome: Result<T, ApiError>) -> Result<Option<T>, ApiError> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(ApiError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn text<'v>(object: &'v Value, pointer: &str) -> Option<&'v str> {
    object.pointer(pointer).and_then(Value::as_str)
}

impl Cluster {
    /// One object; none when it is not there.
    ///
    /// # Errors
    /// When the server cannot be asked or does not allow it.
    pub async fn get(
        &self,
        of: impl Into<ObjectType>,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<Value>, ApiError> {
        let of = of.into();
        let action = format!("reading {}", describe(&of, namespace, name));
        found(self.send(action, Method::GET, &of.path(namespace, Some(name)), None, None).await)
    }

    /// All objects of a type in a namespace, or everywhere, with these labels (`a=b,c`), or with any.
    ///
    /// # Errors
    /// When the server cannot be asked or does not allow it.
    pub async fn list(
        &self,
        of: impl Into<ObjectType>,
        namespace: Option<&str>,
        labels: Option<&str>,
    ) -> Result<Vec<Value>, ApiError> {
        let of = of.into();
        let action = format!("listing {}", of.plural);
        let mut path = of.path(namespace, None);
        if let Some(labels) = labels {
            path.push_str("?labelSelector=");
            path.push_str(&escaped(labels));
        }
        let mut list = self.send(action, Method::GET, &path, None, None).await?;
        let Value::Array(mut items) = list["items"].take() else { return Ok(Vec::new()) };
        for item in &mut items {
            // Real servers leave these out of the items of lists.
            item["apiVersion"] = json!(of.api_version());
            item["kind"] = json!(of.kind);
        }
        Ok(items)
    }

    /// As [`Cluster::list`], for a kind that may not be installed: then there are none of it.
    ///
    /// # Errors
    /// When the server cannot be asked or does not allow it.
    pub async fn list_installed(
        &self,
        of: impl Into<ObjectType>,
        namespace: Option<&str>,
        labels: Option<&str>,
    ) -> Result<Vec<Value>, ApiError> {
        // A list of nothing is empty; only a type that is not served is not found.
        Ok(found(self.list(of, namespace, labels).await)?.unwrap_or_default())
    }

    /// Whether the server answers and is ready: before that it may deny what it will allow.
    ///
    /// # Errors
    /// When it does not, or does not know us.
    pub async fn check(&self) -> Result<(), ApiError> {
        match self.raw_get("/readyz").await {
            // Its administrators may keep that page to themselves.
            Ok(_) | Err(ApiError::NotFound { .. } | ApiError::Forbidden { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Creates an object.
    ///
    /// # Errors
    /// When it is there already, not valid or not allowed.
    pub async fn create(&self, of: impl Into<ObjectType>, object: Value) -> Result<Value, ApiError> {
        let of = of.into();
        let namespace = text(&object, "/metadata/namespace").map(String::from);
        let name = text(&object, "/metadata/name").unwrap_or("(new)").to_string();
        let action = format!("creating {}", describe(&of, namespace.as_deref(), &name));
        let path = of.path(namespace.as_deref(), None);
        self.send(action, Method::POST, &path, Some(object), None).await
    }

    /// Replaces an object; with `metadata.resourceVersion` only if nobody changed it meanwhile.
    ///
    /// # Errors
    /// When it is gone, changed, not valid or not allowed.
    pub async fn replace(&self, of: impl Into<ObjectType>, object: Value) -> Result<Value, ApiError> {
        let of = of.into();
        let namespace = text(&object, "/metadata/namespace").map(String::from);
        let name = text(&object, "/metadata/name").unwrap_or_default().to_string();
        let action = format!("replacing {}", describe(&of, namespace.as_deref(), &name));
        let path = of.path(namespace.as_deref(), Some(&name));
        self.send(action, Method::PUT, &path, Some(object), None).await
    }

    /// Creates an object or, when one of its name is there, replaces that.
    ///
    /// # Errors
    /// When it is not valid or not allowed.
    pub async fn put(&self, of: impl Into<ObjectType>, object: Value) -> Result<Value, ApiError> {
        let of = of.into();
        match self.create(of, object.clone()).await {
            Err(ApiError::AlreadyExists { .. }) => {}
            outcome => return outcome,
        }
        for attempt in 0.. {
            let namespace = text(&object, "/metadata/namespace");
            let name = text(&object, "/metadata/name").unwrap_or_default();
            let Some(current) = self.get(of, namespace, name).await? else {
                return self.create(of, object).await;
            };
            let mut next = object.clone();
            next["metadata"]["resourceVersion"] = current["metadata"]["resourceVersion"].clone();
            match self.replace(of, next).await {
                Err(ApiError::Conflict { .. }) if attempt < 5 => {}
                outcome => return outcome,
            }
        }
        unreachable!("the loop only ends by returning")
    }

    /// Merges into an object (RFC 7386); its status with `subresource` `status`.
    ///
    /// # Errors
    /// When it is gone, changed (with `metadata.resourceVersion` in the patch), not valid or not allowed.
    pub async fn merge(
        &self,
        of: impl Into<ObjectType>,
        namespace: Option<&str>,
        name: &str,
        subresource: Option<&str>,
        patch: Value,
    ) -> Result<Value, ApiError> {
        let media = "application/merge-patch+json";
        self.patch(of.into(), namespace, name, subresource, patch, media).await
    }

    /// Applies a JSON patch (RFC 6902).
    ///
    /// # Errors
    /// When it is gone, a test of the patch fails, or the result is not valid or not allowed.
    pub async fn json_patch(
        &self,
        of: impl Into<ObjectType>,
        namespace: Option<&str>,
        name: &str,
        subresource: Option<&str>,
        patch: Value,
    ) -> Result<Value, ApiError> {
        let media = "application/json-patch+json";
        self.patch(of.into(), namespace, name, subresource, patch, media).await
    }

    async fn patch(
        &self,
        of: ObjectType,
        namespace: Option<&str>,
        name: &str,
        subresource: Option<&str>,
        patch: Value,
        media: &str,
    ) -> Result<Value, ApiError> {
        let mut path = of.path(namespace, Some(name));
        if let Some(subresource) = subresource {
            path.push('/');
            path.push_str(subresource);
        }
        let action = format!("changing {}", describe(&of, namespace, name));
        self.send(action, Method::PATCH, &path, Some(patch), Some(media)).await
    }

    /// Deletes an object at once. False when it was not there.
    ///
    /// # Errors
    /// When a precondition does not hold ([`ApiError::Conflict`]) or it is not allowed.
    pub async fn delete(
        &self,
        of: impl Into<ObjectType>,
        namespace: Option<&str>,
        name: &str,
        preconditions: Preconditions<'_>,
    ) -> Result<bool, ApiError> {
        let of = of.into();
        let action = format!("deleting {}", describe(&of, namespace, name));
        let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0});
        if let Some(uid) = preconditions.uid {
            options["preconditions"]["uid"] = json!(uid);
        }
        if let Some(version) = preconditions.resource_version {
            options["preconditions"]["resourceVersion"] = json!(version);
        }
        let path = of.path(namespace, Some(name));
        let outcome = self.send(action, Method::DELETE, &path, Some(options), None).await;
        Ok(found(outcome)?.is_some())
    }

    /// Posts to a subresource, such as `token` of a ServiceAccount (TokenRequest).
    ///
    /// # Errors
    /// When the object is missing, the body not valid or it is not allowed.
    pub async fn post_to(
        &self,
        of: impl Into<ObjectType>,
        namespace: Option<&str>,
        name: &str,
        subresource: &str,
        body: Value,
    ) -> Result<Value, ApiError> {
        let of = of.into();
        let action = format!("asking for {subresource} of {}", describe(&of, namespace, name));
        let path = format!("{}/{subresource}", of.path(namespace, Some(name)));
        self.send(action, Method::POST, &path, Some(body), None).await
    }

    /// The body of any path, such as `/debug/isthmus/status`.
    ///
    /// # Errors
    /// When the server cannot be asked or does not allow it.
    pub async fn raw_get(&self, path: &str) -> Result<String, ApiError> {
        let action = format!("reading {path}");
        let bad = |problem: String| ApiError::Answer { action: action.clone(), problem };
        let request = http::Request::get(path).body(Vec::new()).map_err(|error| bad(error.to_string()))?;
        let outcome = self.client().request_text(request).await;
        outcome.map_err(|error| ApiError::from_kube(action.clone(), self, &error))
    }

    pub(crate) async fn send(
        &self,
        action: String,
        method: Method,
        path: &str,
        body: Option<Value>,
        media: Option<&str>,
    ) -> Result<Value, ApiError> {
        let bytes = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::ACCEPT, "application/json")
            .header(http::header::CONTENT_TYPE, media.unwrap_or("application/json"))
            .body(bytes);
        let request = request
            .map_err(|error| ApiError::Answer { action: action.clone(), problem: error.to_string() })?;
        let outcome = self.client().request::<Value>(request).await;
        outcome.map_err(|error| ApiError::from_kube(action, self, &error))
    }
}

fn describe(of: &ObjectType, namespace: Option<&str>, name: &str) -> String {
    match namespace.filter(|_| of.namespaced) {
        Some(namespace) => format!("{} {namespace}/{name}", of.kind),
        None => format!("{} {name}", of.kind),
    }
}

/// Percent-encodes all but unreserved characters (RFC 3986 section 2.3).
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_api() {
        let path = |kind: Kind, namespace: Option<&str>, name: Option<&str>| {
            ObjectType::from(kind).path(namespace, name)
        };
        assert_eq!(path(Kind::Pod, Some("web"), Some("a")), "/api/v1/namespaces/web/pods/a");
        assert_eq!(path(Kind::Pod, None, None), "/api/v1/pods");
        assert_eq!(path(Kind::Peer, Some("ignored"), Some("east")), "/apis/isthmus.io/v1alpha1/peers/east");
        assert_eq!(escaped("a=b,c!=d e"), "a%3Db%2Cc%21%3Dd%20e");
    }
}
