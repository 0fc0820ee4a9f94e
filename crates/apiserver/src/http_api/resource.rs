//! Requests for resources.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use http::request::Parts;
use http::{StatusCode, header};
use serde_json::Value;

use super::{Handler, answer, body};
use crate::api::{DeleteOptions, ListOptions, Part, Validation, Write, Written};
use crate::apply::{self, Manager, Operation};
use crate::auth::Identity;
use crate::kinds::{Builtin, Kind};
use crate::patch::{self, Patch};
use crate::request::{Form, Query, Target};
use crate::status::{self, ApiError, Cause};

/// One authorized request.
pub(super) struct Call {
    pub(super) handler: Arc<Handler>,
    pub(super) who: Identity,
    pub(super) kind: Arc<Kind>,
    pub(super) target: Target,
    pub(super) query: Query,
    pub(super) parts: Parts,
}

impl Call {
    pub(super) async fn run(self, verb: &str, body: Body) -> Result<Response, ApiError> {
        if self.kind.is_virtual() {
            return self.review(verb, body).await;
        }
        let accounts = self.kind.builtin == Some(Builtin::ServiceAccount);
        let part = match self.target.subresource.as_str() {
            "" => Part::Main,
            "status" if self.kind.status => Part::Status,
            "finalize" if self.kind.builtin == Some(Builtin::Namespace) => Part::Finalize,
            "token" if accounts && verb == "create" => return self.token(body).await,
            _ => return Err(ApiError::no_such_path()),
        };
        let form = Form::wanted(&self.parts)?;
        match (verb, part) {
            ("get", _) => {
                let object = self.handler.api.get(&self.kind, &self.target.namespace, &self.target.name)?;
                Ok(answer::object(&self.handler.api, &self.kind, StatusCode::OK, &object, form))
            }
            ("list", Part::Main) => {
                let options = ListOptions::parse(&self.kind, &self.query)?;
                let listed = self.handler.api.list(&self.kind, &self.target.namespace, &options).await?;
                Ok(answer::list(&self.handler.api, &self.kind, &listed, form))
            }
            ("watch", Part::Main) => self.watch(form).await,
            ("create", Part::Main) if self.target.name.is_empty() => self.create(body, form).await,
            ("update", _) => self.update(part, body, form).await,
            ("patch", _) => self.patch(part, body, form).await,
            ("delete", Part::Main) => self.delete(body).await,
            ("deletecollection", Part::Main) => self.delete_collection(body).await,
            _ => Err(ApiError::method_not_allowed()),
        }
    }

    fn write(&self, operation: Operation) -> Result<Write, ApiError> {
        let agent = self.parts.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
        let default = agent.unwrap_or_default().split('/').next().unwrap_or_default();
        let name =
            self.query.get("fieldManager").unwrap_or(if default.is_empty() { "unknown" } else { default });
        if name.chars().count() > 128 || name.chars().any(char::is_control) {
            let cause =
                Cause::invalid("fieldManager", &name.into(), "must be at most 128 printable characters");
            return Err(ApiError::invalid(&self.kind, "", vec![cause]));
        }
        let validation = match self.query.get("fieldValidation") {
            None | Some("Warn") => Validation::Warn,
            Some("Strict") => Validation::Strict,
            Some("Ignore") => Validation::Ignore,
            Some(other) => {
                let supported = ["Ignore", "Strict", "Warn"].map(str::to_string);
                let cause = Cause::unsupported("fieldValidation", &other.into(), &supported);
                return Err(ApiError::invalid(&self.kind, "", vec![cause]));
            }
        };
        let manager = Manager {
            name: name.to_string(),
            operation,
            api_version: self.kind.api_version(),
            subresource: self.target.subresource.clone(),
        };
        Ok(Write { manager, dry_run: self.query.dry_run()?, validation, warnings: Vec::new() })
    }

    fn written(&self, written: &Written, write: &Write, form: Form) -> Response {
        let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
        let response = answer::object(&self.handler.api, &self.kind, code, &written.object, form);
        answer::warn(response, &write.warnings)
    }

    async fn create(&self, body: Body, form: Form) -> Result<Response, ApiError> {
        let body = body::read(body).await?;
        let object = body::object(&self.parts, &body)?;
        let mut write = self.write(Operation::Update)?;
        let written = self.handler.api.create(&self.kind, &self.target.namespace, object, &mut write).await?;
        Ok(self.written(&written, &write, form))
    }

    async fn update(&self, part: Part, body: Body, form: Form) -> Result<Response, ApiError> {
        let body = body::read(body).await?;
        let sent = body::object(&self.parts, &body)?;
        let version = sent["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_string();
        let conditional_only =
            matches!(self.kind.builtin, None | Some(Builtin::Lease | Builtin::CustomResourceDefinition));
        let (kind, name) = (Arc::clone(&self.kind), self.target.name.clone());
        let mut compute = |current: Option<&Value>| {
            if current.is_none() {
                return Err(ApiError::not_found(&kind, &name));
            }
            if version.is_empty() && conditional_only {
                return Err(ApiError::unversioned(&kind, &name));
            }
            Ok(sent.clone())
        };
        let write = self.write(Operation::Update)?;
        self.modify(part, write, form, &mut compute).await
    }

    async fn patch(&self, part: Part, body: Body, form: Form) -> Result<Response, ApiError> {
        let media = body::media_type(&self.parts);
        let strategic = self.kind.builtin.is_some();
        let mut accepted = vec![patch::JSON_PATCH, patch::MERGE_PATCH];
        if strategic {
            accepted.push(patch::STRATEGIC_PATCH);
        }
        accepted.push(patch::APPLY_PATCH);
        if !accepted.contains(&media.as_str()) {
            return Err(ApiError::unsupported_media_type(&accepted.join(", ")));
        }
        let body = body::read(body).await?;
        if media == patch::APPLY_PATCH {
            return self.apply(part, &body::yaml(&body)?, form).await;
        }
        if self.query.flag("force") {
            let cause = Cause::forbidden("force", "may not be specified for non-apply patch");
            return Err(ApiError::invalid_options("PatchOptions", cause));
        }
        let patch = Patch::parse(&media, &body)?;
        let (kind, name) = (Arc::clone(&self.kind), self.target.name.clone());
        let mut compute = |current: Option<&Value>| match current {
            Some(current) => patch.apply(&kind, current),
            None => Err(ApiError::not_found(&kind, &name)),
        };
        let write = self.write(Operation::Update)?;
        self.modify(part, write, form, &mut compute).await
    }

    async fn apply(&self, part: Part, sent: &Value, form: Form) -> Result<Response, ApiError> {
        if self.query.get("fieldManager").is_none() {
            let cause = Cause::required("fieldManager", "is required for apply patch");
            return Err(ApiError::invalid_options("PatchOptions", cause));
        }
        if !sent.is_object() {
            return Err(ApiError::bad_request("the applied configuration is not an object"));
        }
        if sent["metadata"]["managedFields"].as_array().is_some_and(|list| !list.is_empty()) {
            return Err(ApiError::bad_request("metadata.managedFields must be nil"));
        }
        let mut config = sent.clone();
        if let (Part::Main, true, Some(fields)) = (part, self.kind.status, config.as_object_mut()) {
            fields.remove("status");
        }
        let write = self.write(Operation::Apply)?;
        let (kind, name) = (Arc::clone(&self.kind), self.target.name.clone());
        let (force, manager, now) = (self.query.flag("force"), write.manager.clone(), self.handler.api.now());
        let namespace = self.target.namespace.clone();
        let mut compute = |current: Option<&Value>| {
            if current.is_none() && part != Part::Main {
                return Err(ApiError::not_found(&kind, &name));
            }
            let mut config = config.clone();
            // An unchecked version or identity in the configuration is a precondition, not a field.
            if config["apiVersion"].as_str() != Some(&kind.api_version())
                || config["kind"] != kind.kind.as_str()
            {
                return Err(ApiError::bad_request(format!(
                    "the configuration is a {} {}, not a {} {}",
                    config["apiVersion"],
                    config["kind"],
                    kind.api_version(),
                    kind.kind
                )));
            }
            let metadata = crate::meta::metadata(&mut config);
            metadata.entry("name").or_insert_with(|| name.clone().into());
            if kind.namespaced {
                metadata.entry("namespace").or_insert_with(|| namespace.clone().into());
            }
            apply::apply(current, &config, &kind.schema, &manager, force, &now)
        };
        self.modify(part, write, form, &mut compute).await
    }

    /// Writes what `compute` makes of the object, or of nothing where there is none; it is asked again when somebody else was faster.
    async fn modify(
        &self,
        part: Part,
        mut write: Write,
        form: Form,
        compute: &mut (dyn FnMut(Option<&Value>) -> Result<Value, ApiError> + Send),
    ) -> Result<Response, ApiError> {
        let Target { namespace, name, .. } = &self.target;
        let written = self.handler.api.modify(&self.kind, namespace, name, part, &mut write, compute).await?;
        Ok(self.written(&written, &write, form))
    }

    async fn delete(&self, body: Body) -> Result<Response, ApiError> {
        let body = body::read(body).await?;
        let options = DeleteOptions::parse(&body::media_type(&self.parts), &body, &self.query)?;
        let removed =
            self.handler.api.remove(&self.kind, &self.target.namespace, &self.target.name, &options).await?;
        Ok(answer::json(StatusCode::OK, removed.answer))
    }

    async fn delete_collection(&self, body: Body) -> Result<Response, ApiError> {
        if self.kind.builtin == Some(Builtin::Namespace)
            || (self.kind.namespaced && self.target.namespace.is_empty())
        {
            return Err(ApiError::method_not_allowed());
        }
        let body = body::read(body).await?;
        let delete = DeleteOptions::parse(&body::media_type(&self.parts), &body, &self.query)?;
        let list = ListOptions::parse(&self.kind, &self.query)?;
        let listed = self.handler.api.list(&self.kind, &self.target.namespace, &list).await?;
        for object in &listed.items {
            let options = DeleteOptions { uid: Some(object.uid().to_string()), ..delete.clone() };
            match self.handler.api.remove(&self.kind, object.namespace(), object.name(), &options).await {
                Ok(_) => {}
                // Somebody else was faster.
                Err(error) if error.code == StatusCode::NOT_FOUND => {}
                Err(error) => return Err(error),
            }
        }
        if self.kind.builtin.is_some() {
            return Ok(answer::list(&self.handler.api, &self.kind, &listed, Form::Object));
        }
        let mut done = status::success(&self.kind, "", "");
        if let Some(fields) = done.as_object_mut() {
            fields.remove("details");
        }
        Ok(answer::json(StatusCode::OK, done))
    }

    async fn token(&self, body: Body) -> Result<Response, ApiError> {
        let body = body::read(body).await?;
        let request = body::object(&self.parts, &body)?;
        let answer = self.handler.api.request_token(
            &self.kind,
            &self.target.namespace,
            &self.target.name,
            &request,
        )?;
        Ok(answer::json(StatusCode::CREATED, answer))
    }
}
