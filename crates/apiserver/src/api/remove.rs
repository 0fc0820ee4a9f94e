//! Deleting: preconditions, finalizers, propagation.

use std::sync::Arc;

use isthmus_store::{Expect, Write as StoreWrite};
use serde_json::{Value, json};

use super::Api;
use super::write::held;
use crate::cache::{Object, store_key};
use crate::kinds::{Builtin, Kind, crd};
use crate::request::Query;
use crate::status::ApiError;
use crate::{meta, protobuf, status};

/// Finalizer of an owner whose dependents go first.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of an owner whose dependents stay.
pub(crate) const ORPHAN: &str = "orphan";

/// What happens to dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// They are collected afterwards.
    Background,
    /// They go first.
    Foreground,
    /// They stay.
    Orphan,
}

/// How an object is deleted.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) policy: Option<Policy>,
    pub(crate) dry_run: bool,
}

/// What is left of a deleted object.
#[derive(Debug)]
pub(crate) struct Removed {
    /// What to answer.
    pub(crate) answer: Value,
}

impl DeleteOptions {
    /// From the body, if there is one, and the query.
    pub(crate) fn parse(media: &str, body: &[u8], query: &Query) -> Result<Self, ApiError> {
        let value: Value = if body.iter().all(u8::is_ascii_whitespace) {
            Value::Null
        } else if media == protobuf::MEDIA_TYPE {
            protobuf::decode(body).map_err(|error| {
                ApiError::bad_request(format!("the delete options are not readable: {error}"))
            })?
        } else {
            serde_json::from_slice(body)
                .map_err(|error| ApiError::bad_request(format!("the delete options are not JSON: {error}")))?
        };
        let text = |value: &Value| value.as_str().map(str::to_string);
        let mut options = Self {
            uid: text(&value["preconditions"]["uid"]),
            resource_version: text(&value["preconditions"]["resourceVersion"]),
            policy: None,
            dry_run: query.dry_run()?,
        };
        let policy = value["propagationPolicy"].as_str().or_else(|| query.get("propagationPolicy"));
        options.policy = match policy {
            None => None,
            Some("Background") => Some(Policy::Background),
            Some("Foreground") => Some(Policy::Foreground),
            Some("Orphan") => Some(Policy::Orphan),
            Some(other) => {
                return Err(ApiError::new(
                    http::StatusCode::UNPROCESSABLE_ENTITY,
                    "Invalid",
                    format!(
                        "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: {other:?}: \
                         supported values: \"Background\", \"Foreground\", \"Orphan\", \"nil\""
                    ),
                ));
            }
        };
        if value["orphanDependents"] == true || query.flag("orphanDependents") {
            options.policy = Some(Policy::Orphan);
        }
        for directive in value["dryRun"].as_array().into_iter().flatten() {
            if directive != "All" {
                return Err(ApiError::bad_request(format!("dryRun: Unsupported value: {directive}")));
            }
            options.dry_run = true;
        }
        Ok(options)
    }
}

impl Api {
    /// Deletes an object, or marks it while finalizers hold it.
    pub(crate) async fn remove(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Removed, ApiError> {
        let key = kind.key(namespace, name);
        let path = store_key(&kind.collection(), &key);
        let mut current = Some(self.get(kind, namespace, name)?);
        loop {
            let Some(object) = current else { return Err(ApiError::not_found(kind, name)) };
            check_preconditions(kind, &object, options)?;
            let mut marked = object.value.clone();
            set_finalizers(&mut marked, options.policy);
            if kind.builtin == Some(Builtin::CustomResourceDefinition) && !is_marked(&marked) {
                hold_for_cleanup(&mut marked);
            }
            if !held(kind, &marked) {
                if options.dry_run {
                    return Ok(Removed { answer: self.answer(kind, &object, object.revision) });
                }
                match self.store.delete(&path, Expect::Revision(object.revision)).await? {
                    StoreWrite::Done { revision, .. } => {
                        self.after_removal(kind, &object.value).await;
                        return Ok(Removed { answer: self.answer(kind, &object, revision) });
                    }
                    StoreWrite::Conflict(found) => current = found.and_then(reread),
                }
                continue;
            }
            let already = is_marked(&object.value);
            if already && marked == object.value {
                return Ok(Removed { answer: super::present(kind, &object) });
            }
            if !already {
                let now = self.now();
                let metadata = meta::metadata(&mut marked);
                metadata.insert("deletionTimestamp".to_string(), now.into());
                metadata.insert("deletionGracePeriodSeconds".to_string(), 0.into());
                if let Some(generation) = metadata.get("generation").and_then(Value::as_i64) {
                    metadata.insert("generation".to_string(), (generation + 1).into());
                }
                if kind.builtin == Some(Builtin::Namespace) {
                    marked["status"]["phase"] = "Terminating".into();
                }
            }
            if options.dry_run {
                return Ok(Removed { answer: marked });
            }
            let mut stored = marked.clone();
            meta::metadata(&mut stored).remove("resourceVersion");
            let write = self
                .store
                .put(&path, stored.to_string().into(), Expect::Revision(object.revision), None)
                .await?;
            match write {
                StoreWrite::Done { revision, .. } => {
                    let object = Object::new(marked, revision);
                    return Ok(Removed { answer: super::present(kind, &object) });
                }
                StoreWrite::Conflict(found) => current = found.and_then(reread),
            }
        }
    }

    /// Some of Kubernetes' own kinds answer with the object that is gone, all others with a status.
    fn answer(&self, kind: &Kind, object: &Object, revision: u64) -> Value {
        let mut last = match kind.builtin {
            Some(Builtin::Pod | Builtin::Service | Builtin::ServiceAccount) => {
                super::present(kind, &Object::new(object.value.clone(), revision))
            }
            _ => return status::success(kind, object.name(), object.uid()),
        };
        if kind.builtin == Some(Builtin::Pod) && !is_marked(&last) {
            let generation = last["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
            let metadata = meta::metadata(&mut last);
            metadata.insert("deletionTimestamp".to_string(), self.now().into());
            metadata.insert("deletionGracePeriodSeconds".to_string(), 0.into());
            metadata.insert("generation".to_string(), generation.into());
        }
        last
    }

    /// What else ends with an object.
    pub(super) async fn after_removal(&self, kind: &Kind, object: &Value) {
        if kind.builtin == Some(Builtin::Service) {
            self.release(object, None).await;
        }
    }
}

fn reread(kv: isthmus_store::KeyValue) -> Option<Arc<Object>> {
    let value = serde_json::from_slice(&kv.value).ok()?;
    Some(Arc::new(Object::new(value, kv.mod_revision)))
}

fn check_preconditions(kind: &Kind, object: &Object, options: &DeleteOptions) -> Result<(), ApiError> {
    if let Some(uid) = options.uid.as_ref().filter(|uid| *uid != object.uid()) {
        let why = format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been \
             deleted and then recreated",
            object.uid()
        );
        return Err(ApiError::precondition(kind, object.name(), &why));
    }
    let revision = object.revision.to_string();
    if let Some(version) = options.resource_version.as_ref().filter(|version| **version != revision) {
        let why = format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record \
             ({revision}). The object might have been modified"
        );
        return Err(ApiError::precondition(kind, object.name(), &why));
    }
    Ok(())
}

/// The propagation policy is kept as a finalizer until the collector has done its part.
fn set_finalizers(object: &mut Value, policy: Option<Policy>) {
    let wanted = match policy {
        Some(Policy::Foreground) => Some(FOREGROUND),
        Some(Policy::Orphan) => Some(ORPHAN),
        Some(Policy::Background) => None,
        None => return,
    };
    let mut finalizers = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    finalizers.retain(|finalizer| finalizer != FOREGROUND && finalizer != ORPHAN);
    finalizers.extend(wanted.map(Value::from));
    let metadata = meta::metadata(object);
    if finalizers.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".to_string(), json!(finalizers));
    }
}

fn is_marked(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// A definition stays until its objects are gone.
fn hold_for_cleanup(definition: &mut Value) {
    let mut finalizers = definition["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    if !finalizers.iter().any(|finalizer| finalizer == crd::CLEANUP) {
        finalizers.push(crd::CLEANUP.into());
    }
    definition["metadata"]["finalizers"] = Value::Array(finalizers);
}
