//! Kinds that are asked and answered: token and access reviews.

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

use super::resource::Call;
use super::{answer, body};
use crate::auth::{Identity, rules};
use crate::kinds::Builtin;
use crate::status::ApiError;

impl Call {
    pub(super) async fn review(&self, verb: &str, body: Body) -> Result<Response, ApiError> {
        if verb != "create" || !self.target.name.is_empty() {
            return Err(ApiError::method_not_allowed());
        }
        let body = body::read(body).await?;
        let review = body::object(&self.parts, &body)?;
        let answer = match self.kind.builtin {
            Some(Builtin::TokenReview) => self.handler.api.review_token(&review)?,
            Some(Builtin::SelfSubjectReview) => json!({
                "kind": "SelfSubjectReview",
                "apiVersion": "authentication.k8s.io/v1",
                "metadata": {"creationTimestamp": self.handler.api.now()},
                "status": {"userInfo": self.who.to_value()},
            }),
            _ => self.access(&review)?,
        };
        Ok(answer::json(StatusCode::CREATED, answer))
    }

    fn access(&self, review: &Value) -> Result<Value, ApiError> {
        let spec = &review["spec"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let who = if self.kind.builtin == Some(Builtin::SelfSubjectAccessReview) {
            self.who.clone()
        } else {
            let groups = spec["groups"].as_array().into_iter().flatten().map(text).collect();
            Identity { user: text(&spec["user"]), groups, ..Identity::default() }
        };
        let resource = &spec["resourceAttributes"];
        let path = &spec["nonResourceAttributes"];
        let allowed = match (resource.is_object(), path.is_object()) {
            (true, false) => {
                let [verb, group, plural, subresource, namespace, name] =
                    ["verb", "group", "resource", "subresource", "namespace", "name"]
                        .map(|key| text(&resource[key]));
                rules::allowed(
                    &who,
                    &rules::Action {
                        verb: &verb,
                        group: &group,
                        resource: &plural,
                        subresource: &subresource,
                        namespace: &namespace,
                        name: &name,
                    },
                )
            }
            (false, true) => rules::path_allowed(&who, &text(&path["path"])),
            _ => {
                return Err(ApiError::bad_request(
                    "spec must have exactly one of resourceAttributes and nonResourceAttributes",
                ));
            }
        };
        Ok(json!({
            "kind": self.kind.kind,
            "apiVersion": self.kind.api_version(),
            "metadata": {},
            "spec": spec,
            "status": {"allowed": allowed},
        }))
    }
}
