//! Owners and dependents: what Kubernetes' garbage collector does.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

use super::Place;
use crate::api::{Api, DeleteOptions, FOREGROUND, ORPHAN, Part, Policy, Write};
use crate::cache::Object;
use crate::kinds::Kind;
use crate::meta;
use crate::status::ApiError;

/// Who depends on whom, by uid.
#[derive(Debug, Default)]
pub(super) struct Owners {
    dependents: HashMap<String, BTreeSet<Place>>,
    owners: HashMap<Place, Vec<String>>,
    /// Where each owner that waits for its dependents is.
    waiting: HashMap<String, Place>,
}

impl Owners {
    /// Notes an object's owners. Whether it has any.
    pub(super) fn note(&mut self, place: &Place, object: &Object) -> bool {
        self.forget(place);
        let finalizers = object.value["metadata"]["finalizers"].as_array().into_iter().flatten();
        if finalizers.into_iter().any(|finalizer| finalizer == FOREGROUND || finalizer == ORPHAN) {
            self.waiting.insert(object.uid().to_string(), place.clone());
        }
        let uids: Vec<String> =
            references(&object.value).filter_map(|owner| owner["uid"].as_str().map(str::to_string)).collect();
        for uid in &uids {
            self.dependents.entry(uid.clone()).or_default().insert(place.clone());
        }
        let any = !uids.is_empty();
        if any {
            self.owners.insert(place.clone(), uids);
        }
        any
    }

    pub(super) fn forget(&mut self, place: &Place) {
        for uid in self.owners.remove(place).into_iter().flatten() {
            if let Some(places) = self.dependents.get_mut(&uid) {
                places.remove(place);
                if places.is_empty() {
                    self.dependents.remove(&uid);
                }
            }
        }
        self.waiting.retain(|_, waiting| waiting != place);
    }

    pub(super) fn dependents(&self, uid: &str) -> Vec<Place> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }

    /// The waiting owners of an object.
    pub(super) fn waiting_for(&self, object: &Object) -> Vec<Place> {
        let uids = references(&object.value).filter_map(|owner| owner["uid"].as_str());
        uids.filter_map(|uid| self.waiting.get(uid).cloned()).collect()
    }

    /// Deletes a dependent whose owners are all gone.
    pub(super) async fn settle_dependent(&self, api: &Api, place: &Place) -> Result<(), ApiError> {
        let Some((kind, object)) = find(api, place) else { return Ok(()) };
        let mut any = false;
        for owner in references(&object.value) {
            any = true;
            if owner_lives(api, object.namespace(), owner) {
                return Ok(());
            }
        }
        if !any || object.value["metadata"]["deletionTimestamp"].is_string() {
            return Ok(());
        }
        let options = DeleteOptions {
            uid: Some(object.uid().to_string()),
            resource_version: Some(object.revision.to_string()),
            policy: Some(Policy::Background),
            dry_run: false,
        };
        tolerant(api.remove(&kind, object.namespace(), object.name(), &options).await.map(|_| ()))
    }

    /// Does for an owner that is being deleted what its finalizers ask for.
    pub(super) async fn settle_owner(&self, api: &Api, place: &Place) -> Result<(), ApiError> {
        let Some((kind, object)) = find(api, place) else { return Ok(()) };
        if !object.value["metadata"]["deletionTimestamp"].is_string() {
            return Ok(());
        }
        let finalizers = object.value["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        let dependents = self.dependents(object.uid());
        if finalizers.iter().any(|finalizer| finalizer == ORPHAN) {
            for dependent in &dependents {
                release(api, dependent, object.uid()).await?;
            }
            return drop_finalizer(api, &kind, &object, ORPHAN).await;
        }
        if !finalizers.iter().any(|finalizer| finalizer == FOREGROUND) {
            return Ok(());
        }
        let mut blocked = false;
        for dependent in &dependents {
            let Some((kind, found)) = find(api, dependent) else { continue };
            let blocks = references(&found.value)
                .any(|owner| owner["uid"] == object.uid() && owner["blockOwnerDeletion"] == true);
            blocked |= blocks;
            if found.value["metadata"]["deletionTimestamp"].is_string() {
                continue;
            }
            let options = DeleteOptions {
                uid: Some(found.uid().to_string()),
                policy: Some(Policy::Foreground),
                ..DeleteOptions::default()
            };
            tolerant(api.remove(&kind, found.namespace(), found.name(), &options).await.map(|_| ()))?;
        }
        if blocked {
            return Ok(());
        }
        drop_finalizer(api, &kind, &object, FOREGROUND).await
    }
}

fn references(object: &Value) -> impl Iterator<Item = &Value> {
    object["metadata"]["ownerReferences"].as_array().into_iter().flatten()
}

/// Gone or changed meanwhile is fine: the change brings the object back here.
fn tolerant(result: Result<(), ApiError>) -> Result<(), ApiError> {
    match result {
        Err(error) if matches!(error.reason, "NotFound" | "Conflict") => Ok(()),
        other => other,
    }
}

fn find(api: &Api, (collection, key): &Place) -> Option<(std::sync::Arc<Kind>, std::sync::Arc<Object>)> {
    let object = api.cache.collection(collection).get(key)?;
    let (group, plural) = collection.split_once('/')?;
    let group = if group == "core" { "" } else { group };
    let table = api.kinds.table();
    let kind = table.values().find(|kind| kind.group == group && kind.plural == plural)?;
    Some((std::sync::Arc::clone(kind), object))
}

/// Whether an owner exists. One of a kind that is not served counts as existing: nothing is known of it.
fn owner_lives(api: &Api, namespace: &str, owner: &Value) -> bool {
    let text = |key: &str| owner[key].as_str().unwrap_or_default();
    let (group, version) = match text("apiVersion").split_once('/') {
        Some((group, version)) => (group, version),
        None => ("", text("apiVersion")),
    };
    let table = api.kinds.table();
    let kind = table
        .values()
        .find(|kind| kind.group == group && kind.version == version && kind.kind == text("kind"));
    let Some(kind) = kind else { return true };
    let found = api.collection(kind).get(&kind.key(namespace, text("name")));
    found.is_some_and(|found| found.uid() == text("uid"))
}

async fn drop_finalizer(api: &Api, kind: &Kind, object: &Object, finalizer: &str) -> Result<(), ApiError> {
    let uid = object.uid().to_string();
    let mut compute = |current: Option<&Value>| {
        let current = current.filter(|current| current["metadata"]["uid"] == uid.as_str());
        let mut value = current.cloned().ok_or_else(|| ApiError::not_found(kind, object.name()))?;
        if let Some(list) = meta::metadata(&mut value).get_mut("finalizers").and_then(Value::as_array_mut) {
            list.retain(|one| one != finalizer);
        }
        Ok(value)
    };
    let mut write = Write::internal("isthmus-collector");
    let written =
        api.modify(kind, object.namespace(), object.name(), Part::Main, &mut write, &mut compute).await;
    tolerant(written.map(|_| ()))
}

/// Takes an owner out of a dependent that is to stay.
async fn release(api: &Api, dependent: &Place, owner: &str) -> Result<(), ApiError> {
    let Some((kind, object)) = find(api, dependent) else { return Ok(()) };
    let mut compute = |current: Option<&Value>| {
        let mut value = current.cloned().ok_or_else(|| ApiError::not_found(&kind, object.name()))?;
        if let Some(list) =
            meta::metadata(&mut value).get_mut("ownerReferences").and_then(Value::as_array_mut)
        {
            list.retain(|one| one["uid"] != owner);
        }
        Ok(value)
    };
    let mut write = Write::internal("isthmus-collector");
    let written =
        api.modify(&kind, object.namespace(), object.name(), Part::Main, &mut write, &mut compute).await;
    tolerant(written.map(|_| ()))
}
