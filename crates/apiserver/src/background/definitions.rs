//! Definitions that end take their objects with them.

use serde_json::Value;

use crate::api::{Api, DeleteOptions, Part, Policy, Write};
use crate::kinds::{collection, crd};
use crate::meta;
use crate::status::ApiError;

/// The name of the definition whose objects are in a collection.
pub(super) fn of(collection: &str) -> Option<String> {
    let (group, plural) = collection.split_once('/')?;
    (group != "core").then(|| format!("{plural}.{group}"))
}

/// Brings a definition to where it should be.
pub(super) async fn settle(api: &Api, name: &str) -> Result<(), ApiError> {
    let Some(kind) = api.kinds.find("apiextensions.k8s.io", "v1", "customresourcedefinitions") else {
        return Ok(());
    };
    let Ok(definition) = api.get(&kind, "", name) else { return Ok(()) };
    if !definition.value["metadata"]["deletionTimestamp"].is_string() {
        return Ok(());
    }
    let (group, plural) = crd::names(&definition.value);
    let objects = api.cache.collection(&collection(&group, &plural)).list("");
    let table = api.kinds.table();
    if let Some(served) = table.values().find(|kind| kind.group == group && kind.plural == plural) {
        let waiting =
            objects.iter().filter(|object| !object.value["metadata"]["deletionTimestamp"].is_string());
        let options = DeleteOptions { policy: Some(Policy::Background), ..DeleteOptions::default() };
        let deletions = waiting.map(|object| api.remove(served, object.namespace(), object.name(), &options));
        for result in futures::future::join_all(deletions).await {
            match result {
                Err(error) if error.reason != "NotFound" => return Err(error),
                _ => {}
            }
        }
    }
    if !objects.is_empty() {
        // Their deletions bring us back.
        return Ok(());
    }
    let mut compute = |current: Option<&Value>| {
        let mut value = current.cloned().ok_or_else(|| ApiError::not_found(&kind, name))?;
        if let Some(list) = meta::metadata(&mut value).get_mut("finalizers").and_then(Value::as_array_mut) {
            list.retain(|finalizer| finalizer != crd::CLEANUP);
        }
        Ok(value)
    };
    let mut write = Write::internal("isthmus-collector");
    match api.modify(&kind, "", name, Part::Main, &mut write, &mut compute).await {
        Err(error) if error.reason != "NotFound" => Err(error),
        _ => Ok(()),
    }
}
