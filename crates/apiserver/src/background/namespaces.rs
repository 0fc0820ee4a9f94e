//! Namespaces: a default ServiceAccount in each, and an end that takes everything with it.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::{Api, DeleteOptions, Part, Policy, Write};
use crate::kinds::Kind;
use crate::status::ApiError;

/// Brings a namespace to where it should be.
pub(super) async fn settle(api: &Api, name: &str) -> Result<(), ApiError> {
    let kind = api.core("namespaces")?;
    let Ok(namespace) = api.get(&kind, "", name) else { return Ok(()) };
    if namespace.value["metadata"]["deletionTimestamp"].is_string() {
        return end(api, &kind, name).await;
    }
    let accounts = api.core("serviceaccounts")?;
    if api.get(&accounts, name, "default").is_ok() {
        return Ok(());
    }
    let account = json!({"metadata": {"name": "default"}});
    match api.create(&accounts, name, account, &mut Write::internal("isthmus-collector")).await {
        Err(error) if !matches!(error.reason, "AlreadyExists" | "NotFound" | "Forbidden") => Err(error),
        _ => Ok(()),
    }
}

/// Deletes what is in a namespace; once it is empty, lets it go.
async fn end(api: &Api, kind: &Kind, name: &str) -> Result<(), ApiError> {
    let mut left = 0;
    let table = api.kinds.table();
    let mut done = std::collections::BTreeSet::new();
    for kind in table.values().filter(|kind| kind.namespaced && !kind.is_virtual()) {
        if !done.insert(kind.collection()) {
            continue;
        }
        let objects = api.collection(kind).list(&format!("{name}/"));
        left += objects.len();
        let deletions =
            objects.iter().filter(|object| !object.value["metadata"]["deletionTimestamp"].is_string());
        let deletions =
            deletions.map(|object| delete(api, Arc::clone(kind), object.namespace(), object.name()));
        for result in futures::future::join_all(deletions).await {
            result?;
        }
    }
    if left > 0 {
        // Their deletions bring us back.
        return Ok(());
    }
    let mut compute = |current: Option<&Value>| {
        let mut value = current.cloned().ok_or_else(|| ApiError::not_found(kind, name))?;
        if let Some(list) = value["spec"].get_mut("finalizers").and_then(Value::as_array_mut) {
            list.retain(|finalizer| finalizer != "kubernetes");
        }
        Ok(value)
    };
    let mut write = Write::internal("isthmus-collector");
    match api.modify(kind, "", name, Part::Finalize, &mut write, &mut compute).await {
        Err(error) if error.reason != "NotFound" => Err(error),
        _ => Ok(()),
    }
}

async fn delete(api: &Api, kind: Arc<Kind>, namespace: &str, name: &str) -> Result<(), ApiError> {
    let options = DeleteOptions { policy: Some(Policy::Background), ..DeleteOptions::default() };
    match api.remove(&kind, namespace, name, &options).await {
        Err(error) if error.reason != "NotFound" => Err(error),
        _ => Ok(()),
    }
}
