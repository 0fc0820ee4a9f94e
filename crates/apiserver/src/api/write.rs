//! Creating and changing objects: admission, ownership, checks, and the conditional write.

mod rules;

use std::sync::Arc;

use bytes::Bytes;
use isthmus_store::{Expect, KeyValue, Write as StoreWrite};
use serde_json::Value;

use super::{Api, present};
use crate::apply::{Manager, Operation, track_update};
use crate::cache::{Object, store_key};
use crate::kinds::{Builtin, Kind};
use crate::schema;
use crate::status::{ApiError, Cause};
use crate::{meta, strategy};
use rules::{
    check_identity, check_versions, drop_empty, drop_status, generation_moves, keep_metadata, keep_part,
    place, same,
};

pub(super) use rules::held;

/// Changes tried again when others write at the same time.
const ATTEMPTS: usize = 64;

/// Which part of an object a write is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Main,
    Status,
    /// A namespace's finalizers.
    Finalize,
}

/// What happens to fields that nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Validation {
    Ignore,
    Warn,
    Strict,
}

/// How a write is made.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) manager: Manager,
    pub(crate) dry_run: bool,
    pub(crate) validation: Validation,
    /// Collected for the `Warning` header.
    pub(crate) warnings: Vec<String>,
}

impl Write {
    /// A write of a background part.
    pub(crate) fn internal(name: &str) -> Self {
        let manager = Manager {
            name: name.to_string(),
            operation: Operation::Update,
            api_version: "v1".to_string(),
            subresource: String::new(),
        };
        Self { manager, dry_run: false, validation: Validation::Ignore, warnings: Vec::new() }
    }
}

/// The object after a write.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) object: Arc<Object>,
    pub(crate) created: bool,
}

impl Api {
    /// Creates an object from what a client sent.
    pub(crate) async fn create(
        &self,
        kind: &Kind,
        namespace: &str,
        mut object: Value,
        write: &mut Write,
    ) -> Result<Written, ApiError> {
        check_identity(kind, &object)?;
        place(kind, namespace, "", &mut object)?;
        let generate = object["metadata"]["generateName"].as_str().unwrap_or_default().to_string();
        let named = object["metadata"]["name"].as_str().is_some_and(|name| !name.is_empty());
        if named || generate.is_empty() {
            return self.create_named(kind, namespace, object, write).await;
        }
        let mut attempt = 0;
        loop {
            let mut named = object.clone();
            named["metadata"]["name"] = meta::generated(&generate).into();
            match self.create_named(kind, namespace, named, write).await {
                Err(error) if error.reason == "AlreadyExists" && attempt < 8 => attempt += 1,
                other => return other,
            }
        }
    }

    async fn create_named(
        &self,
        kind: &Kind,
        namespace: &str,
        mut object: Value,
        write: &mut Write,
    ) -> Result<Written, ApiError> {
        self.check_namespace(kind, namespace, &object)?;
        let version = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        if !version.is_empty() && version != "0" {
            return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
        }
        self.admit(kind, &mut object, write)?;
        let now = self.now();
        let metadata = meta::metadata(&mut object);
        for key in
            ["selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion", "generation"]
        {
            metadata.remove(key);
        }
        metadata.insert("uid".to_string(), uuid::Uuid::new_v4().to_string().into());
        metadata.insert("creationTimestamp".to_string(), now.clone().into());
        if kind.generation {
            metadata.insert("generation".to_string(), 1.into());
        }
        if kind.status {
            drop_status(&mut object);
        }
        if write.manager.operation == Operation::Update {
            meta::metadata(&mut object).remove("managedFields");
            track_update(None, &mut object, &kind.schema, &write.manager, &now);
        }
        strategy::prepare_create(kind, &mut object, &now);
        self.check(kind, &object, None)?;
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_string();
        let key = kind.key(namespace, &name);
        if self.collection(kind).get(&key).is_some() {
            return Err(ApiError::already_exists(kind, &name));
        }
        let taken = match kind.builtin {
            Some(Builtin::Service) => Some(self.allocate(kind, &mut object, None, write.dry_run).await?),
            _ => None,
        };
        self.warn(kind, &object, write);
        let result = self.put(kind, &key, object, Expect::Absent, write.dry_run).await;
        if !matches!(result, Ok(Ok(_)))
            && let Some(taken) = taken
        {
            self.give_back(taken).await;
        }
        match result? {
            Ok(object) => Ok(Written { object, created: true }),
            Err(_) => Err(ApiError::already_exists(kind, &name)),
        }
    }

    /// Changes an object. `compute` gets it as it is, or nothing if it is absent, and returns what it should be; it
    /// may be called several times. When it is absent, the result is created.
    pub(crate) async fn modify(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        part: Part,
        write: &mut Write,
        compute: &mut (dyn FnMut(Option<&Value>) -> Result<Value, ApiError> + Send),
    ) -> Result<Written, ApiError> {
        let key = kind.key(namespace, name);
        let mut current = self.collection(kind).get(&key);
        for _ in 0..ATTEMPTS {
            let Some(object) = current else {
                let mut fresh = compute(None)?;
                check_identity(kind, &fresh)?;
                place(kind, namespace, name, &mut fresh)?;
                if !fresh["metadata"]["uid"].is_null() {
                    let why = format!(
                        "Precondition failed: UID in precondition: {}, UID in object meta: ",
                        fresh["metadata"]["uid"].as_str().unwrap_or_default()
                    );
                    return Err(ApiError::conflict(kind, name, &why));
                }
                match self.create_named(kind, namespace, fresh, write).await {
                    Err(error) if error.reason == "AlreadyExists" => {
                        current = self.fresh(kind, &key).await?;
                        continue;
                    }
                    other => return other,
                }
            };
            write.warnings.clear();
            match self.replace(kind, &key, &object, part, write, compute).await? {
                Ok(object) => return Ok(Written { object, created: false }),
                Err(now) => current = now,
            }
        }
        Err(ApiError::conflict(kind, name, "it is changed by others all the time; try again"))
    }

    /// One attempt. `Ok(Err(_))`: somebody was faster, and this is what they wrote.
    async fn replace(
        &self,
        kind: &Kind,
        key: &str,
        old: &Arc<Object>,
        part: Part,
        write: &mut Write,
        compute: &mut (dyn FnMut(Option<&Value>) -> Result<Value, ApiError> + Send),
    ) -> Result<Result<Arc<Object>, Option<Arc<Object>>>, ApiError> {
        let before = present(kind, old);
        let name = old.name().to_string();
        let mut new = compute(Some(&before))?;
        check_identity(kind, &new)?;
        place(kind, old.namespace(), &name, &mut new)?;
        check_versions(kind, &name, &new, old)?;
        self.admit(kind, &mut new, write)?;
        let now = self.now();
        keep_metadata(&mut new, &before);
        keep_part(kind, part, &mut new, &before);
        if part == Part::Main {
            strategy::prepare_update(kind, &mut new, &before, &now);
        }
        if kind.generation && generation_moves(kind, &new, &before) {
            let next = before["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
            new["metadata"]["generation"] = next.into();
        }
        if write.manager.operation == Operation::Update {
            track_update(Some(&before), &mut new, &kind.schema, &write.manager, &now);
        }
        self.check(kind, &new, Some(&before))?;
        if part == Part::Main {
            self.warn(kind, &new, write);
        }
        let finished = new["metadata"]["deletionTimestamp"].is_string() && !held(kind, &new);
        if finished {
            if write.dry_run {
                return Ok(Ok(Arc::new(Object::new(new, old.revision))));
            }
            return match self
                .store
                .delete(&store_key(&kind.collection(), key), Expect::Revision(old.revision))
                .await?
            {
                StoreWrite::Done { revision, .. } => {
                    self.after_removal(kind, &old.value).await;
                    Ok(Ok(Arc::new(Object::new(new, revision))))
                }
                StoreWrite::Conflict(current) => Ok(Err(decode(current.as_ref()))),
            };
        }
        if same(&new, &before) {
            return Ok(Ok(Arc::clone(old)));
        }
        let taken = match kind.builtin {
            Some(Builtin::Service) if part == Part::Main => {
                Some(self.allocate(kind, &mut new, Some(&before), write.dry_run).await?)
            }
            _ => None,
        };
        let result = self.put(kind, key, new, Expect::Revision(old.revision), write.dry_run).await;
        match (&result, taken) {
            (Ok(Ok(written)), Some(_)) if !write.dry_run => {
                self.release(&old.value, Some(&written.value)).await
            }
            (Ok(Ok(_)), _) | (_, None) => {}
            (_, Some(taken)) => self.give_back(taken).await,
        }
        result
    }

    /// Writes an object in its stored version.
    async fn put(
        &self,
        kind: &Kind,
        key: &str,
        mut object: Value,
        expect: Expect,
        dry_run: bool,
    ) -> Result<Result<Arc<Object>, Option<Arc<Object>>>, ApiError> {
        object["kind"] = kind.kind.clone().into();
        object["apiVersion"] = crate::kinds::api_version(&kind.group, &kind.storage_version).into();
        if dry_run {
            let revision = match expect {
                Expect::Revision(revision) => revision,
                Expect::Any | Expect::Absent => 0,
            };
            let mut object = Object::new(object, revision);
            if revision == 0 {
                meta::metadata(&mut object.value).remove("resourceVersion");
            }
            return Ok(Ok(Arc::new(object)));
        }
        meta::metadata(&mut object).remove("resourceVersion");
        let json = Bytes::from(object.to_string());
        match self.store.put(&store_key(&kind.collection(), key), json, expect, None).await? {
            StoreWrite::Done { revision, .. } => Ok(Ok(Arc::new(Object::new(object, revision)))),
            StoreWrite::Conflict(current) => Ok(Err(decode(current.as_ref()))),
        }
    }

    async fn fresh(&self, kind: &Kind, key: &str) -> Result<Option<Arc<Object>>, ApiError> {
        let kv = self.store.get(&store_key(&kind.collection(), key)).await?;
        Ok(decode(kv.as_ref()))
    }

    /// Fields that nobody knows, types, defaults.
    fn admit(&self, kind: &Kind, object: &mut Value, write: &mut Write) -> Result<(), ApiError> {
        if write.validation != Validation::Ignore {
            let unknown = schema::unknown_fields(object, &kind.schema);
            let texts: Vec<String> = unknown.iter().map(|path| format!("unknown field {path:?}")).collect();
            if write.validation == Validation::Strict && !texts.is_empty() {
                let why = format!("strict decoding error: {}", texts.join(", "));
                return Err(ApiError::undecodable(kind, &why));
            }
            write.warnings.extend(texts);
        }
        if let Some(why) = kind.builtin.and_then(|_| schema::go_type_error(object, &kind.schema)) {
            return Err(ApiError::undecodable(kind, &why));
        }
        schema::prune(object, &kind.schema);
        match kind.builtin {
            Some(builtin) => {
                drop_empty(object);
                strategy::apply_defaults(builtin, object);
            }
            None => schema::apply_defaults(object, &kind.schema),
        }
        Ok(())
    }

    fn check(&self, kind: &Kind, object: &Value, old: Option<&Value>) -> Result<(), ApiError> {
        let mut causes = meta::validate(kind, object);
        match kind.builtin {
            Some(builtin) => causes.extend(strategy::validate(builtin, object, old)),
            None => causes.extend(schema::validate(object, &kind.schema)),
        }
        if causes.is_empty() {
            return Ok(());
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        Err(ApiError::invalid(kind, name, causes))
    }

    fn warn(&self, kind: &Kind, object: &Value, write: &mut Write) {
        write.warnings.extend(kind.deprecation.clone());
        write.warnings.extend((self.config.warnings)(object));
    }

    /// New objects need a namespace that exists and is not being deleted.
    fn check_namespace(&self, kind: &Kind, namespace: &str, object: &Value) -> Result<(), ApiError> {
        if !kind.namespaced {
            return Ok(());
        }
        let namespaces = self.core("namespaces")?;
        let found = self.get(&namespaces, "", namespace)?;
        if found.value["metadata"]["deletionTimestamp"].is_string() {
            let why = format!(
                "unable to create new content in namespace {namespace} because it is being terminated"
            );
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let cause = Cause {
                reason: "NamespaceTerminating",
                message: format!("namespace {namespace} is being terminated"),
                field: "metadata.namespace".to_string(),
            };
            return Err(ApiError::forbidden(kind, name, &why).with_causes(&[cause]));
        }
        Ok(())
    }
}

fn decode(kv: Option<&KeyValue>) -> Option<Arc<Object>> {
    let kv = kv?;
    let value = serde_json::from_slice(&kv.value).ok()?;
    Some(Arc::new(Object::new(value, kv.mod_revision)))
}
