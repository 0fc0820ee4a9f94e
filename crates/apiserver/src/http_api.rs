//! Requests: who asks, what for, whether they may, and the answer in the wanted form.

mod answer;
mod body;
mod resource;
mod reviews;
mod watch;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{Request, StatusCode, header};
use parking_lot::RwLock;
use tower::ServiceExt;

use crate::api::Api;
use crate::auth::{Identity, rules};
use crate::request::{Query, Target};
use crate::status::ApiError;
use crate::{discovery, openapi};

/// Answers every request of the API.
#[derive(Debug)]
pub(crate) struct Handler {
    pub(crate) api: Arc<Api>,
    pub(crate) openapi: openapi::Documents,
    pub(crate) debug: RwLock<Option<Router>>,
}

/// What is known of a caller before its request is read.
#[derive(Debug, Clone)]
pub(crate) enum Caller {
    /// In this process.
    Trusted(Identity),
    /// Over TLS, with the identity of its certificate if it showed one.
    Remote(Option<Identity>),
}

impl Handler {
    /// Answers one request.
    pub(crate) async fn handle(self: Arc<Self>, caller: Caller, request: Request<Body>) -> Response {
        let (parts, body) = request.into_parts();
        match self.route(caller, parts, body).await {
            Ok(response) => response,
            Err(error) => error.into_response(),
        }
    }

    async fn route(self: Arc<Self>, caller: Caller, parts: Parts, body: Body) -> Result<Response, ApiError> {
        let path = parts.uri.path().to_string();
        if let Some(open) = self.open_path(&path) {
            return Ok(open);
        }
        let who = self.authenticate(caller, &parts).await?;
        let query = Query::parse(parts.uri.query())?;
        let Some(target) = Target::parse(&path) else {
            return self.other_path(&who, &path, &query, parts, body).await;
        };
        self.api.cache.catch_up().await?;
        let kind = self.api.kinds.find(&target.group, &target.version, &target.plural);
        let verb =
            crate::request::verb(&parts.method, &target, &query).ok_or_else(ApiError::method_not_allowed)?;
        // A namespace is named by its own name for the rules.
        let namespace = match (target.group.as_str(), target.plural.as_str()) {
            ("", "namespaces") => &target.name,
            _ => &target.namespace,
        };
        let action = rules::Action {
            verb,
            group: &target.group,
            resource: &target.plural,
            subresource: &target.subresource,
            namespace,
            name: &target.name,
        };
        if !rules::allowed(&who, &action) {
            return Err(forbidden(&who, &target, verb));
        }
        let Some(kind) = kind else {
            let table = self.api.kinds.table();
            let known =
                table.keys().any(|(group, version, _)| *group == target.group && *version == target.version);
            return if known { Err(ApiError::no_such_path()) } else { Ok(not_found_text()) };
        };
        if kind.namespaced && target.namespace.is_empty() && !target.name.is_empty() {
            return Ok(not_found_text());
        }
        if !kind.namespaced && !target.namespace.is_empty() {
            return Ok(not_found_text());
        }
        let call = resource::Call { handler: self, who, kind, target, query, parts };
        call.run(verb, body).await
    }

    /// Paths that need no identity.
    fn open_path(&self, path: &str) -> Option<Response> {
        match path {
            "/livez" | "/readyz" | "/healthz" => Some((StatusCode::OK, "ok").into_response()),
            "/version" | "/version/" => Some(answer::json(StatusCode::OK, discovery::version())),
            _ => None,
        }
    }

    async fn authenticate(&self, caller: Caller, parts: &Parts) -> Result<Identity, ApiError> {
        let certificate = match caller {
            Caller::Trusted(who) => return Ok(who),
            Caller::Remote(certificate) => certificate,
        };
        let bearer = match parts.headers.get(header::AUTHORIZATION) {
            None => None,
            Some(value) => {
                let text = value.to_str().map_err(|_| ApiError::unauthorized())?;
                let (scheme, token) = text.split_once(' ').ok_or_else(ApiError::unauthorized)?;
                if !scheme.eq_ignore_ascii_case("bearer") {
                    return Err(ApiError::unauthorized());
                }
                Some(token.trim().to_string())
            }
        };
        if let Some(who) = certificate {
            return Ok(who);
        }
        let token = bearer.ok_or_else(ApiError::unauthorized)?;
        self.api.cache.catch_up().await?;
        let audiences = [self.api.signer.issuer.clone()];
        self.api.identify(&token, &audiences).map(|(who, _)| who).map_err(|why| {
            tracing::debug!(why, "a bearer token was refused");
            ApiError::unauthorized()
        })
    }

    async fn other_path(
        &self,
        who: &Identity,
        path: &str,
        query: &Query,
        parts: Parts,
        body: Body,
    ) -> Result<Response, ApiError> {
        let verb = parts.method.as_str().to_lowercase();
        if !rules::path_allowed(who, path) {
            return Err(ApiError::forbidden_path(&who.user, &verb, path));
        }
        if path.starts_with("/debug/") {
            let router = self.debug.read().clone();
            let Some(router) = router else { return Ok(not_found_text()) };
            let answer = router.oneshot(Request::from_parts(parts, body)).await;
            return Ok(answer.unwrap_or_else(|never| match never {}));
        }
        self.api.cache.catch_up().await?;
        if let Some(response) = discovery::answer(&self.api.kinds, path, &parts) {
            return Ok(response);
        }
        if path == "/openid/v1/jwks" {
            return Ok(answer::json(StatusCode::OK, self.api.signer.jwks()));
        }
        match self.openapi.answer(&self.api.kinds, path, query, &parts) {
            Some(response) => Ok(response),
            None => Ok(not_found_text()),
        }
    }
}

fn not_found_text() -> Response {
    (StatusCode::NOT_FOUND, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], "404 page not found\n")
        .into_response()
}

fn forbidden(who: &Identity, target: &Target, verb: &str) -> ApiError {
    let resource = if target.subresource.is_empty() {
        target.plural.clone()
    } else {
        format!("{}/{}", target.plural, target.subresource)
    };
    let qualified = if target.group.is_empty() {
        target.plural.clone()
    } else {
        format!("{}.{}", target.plural, target.group)
    };
    let name = if target.name.is_empty() { String::new() } else { format!(" {:?}", target.name) };
    let scope = if target.namespace.is_empty() {
        "at the cluster scope".to_string()
    } else {
        format!("in the namespace {:?}", target.namespace)
    };
    let message = format!(
        "{qualified}{name} is forbidden: User {:?} cannot {verb} resource {resource:?} in API group {:?} {scope}",
        who.user, target.group
    );
    let mut error = ApiError::new(StatusCode::FORBIDDEN, "Forbidden", message);
    if !target.name.is_empty() {
        error.details.insert("name".into(), target.name.clone().into());
    }
    if !target.group.is_empty() {
        error.details.insert("group".into(), target.group.clone().into());
    }
    error.details.insert("kind".into(), target.plural.clone().into());
    error
}
