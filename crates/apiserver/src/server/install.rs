//! What a server begins with: namespaces and the program's definitions.

use serde_json::{Value, json};

use super::StartError;
use crate::api::{Api, Part, Write};
use crate::status::ApiError;

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

pub(super) async fn install(api: &Api) -> Result<(), StartError> {
    let failed = |name: &str, error: ApiError| StartError::Install {
        name: name.to_string(),
        reason: error.to_string(),
    };
    api.cache.catch_up().await.map_err(|error| failed("the cache", error))?;
    let own = api.config.namespaces.iter().map(String::as_str);
    let namespaces: Vec<&str> = NAMESPACES.into_iter().chain(own).collect();
    let create = namespaces.iter().map(|name| async move { (*name, namespace(api, name).await) });
    for (name, result) in futures::future::join_all(create).await {
        result.map_err(|error| failed(name, error))?;
    }
    // At the same time, so that they share commits.
    let define = api.config.crds.iter().map(|definition| async move {
        let name = definition["metadata"]["name"].as_str().unwrap_or_default();
        (name, crd(api, name, definition).await)
    });
    for (name, result) in futures::future::join_all(define).await {
        result.map_err(|error| failed(name, error))?;
    }
    api.cache.catch_up().await.map_err(|error| failed("the cache", error))?;
    api.repair_addresses().await.map_err(|error| failed("the service addresses", error))?;
    Ok(())
}

async fn namespace(api: &Api, name: &str) -> Result<(), ApiError> {
    let kind = api.core("namespaces")?;
    if api.get(&kind, "", name).is_ok() {
        return Ok(());
    }
    let object = json!({"metadata": {"name": name}});
    match api.create(&kind, "", object, &mut Write::internal("isthmus")).await {
        Err(error) if error.reason != "AlreadyExists" => Err(error),
        _ => Ok(()),
    }
}

async fn crd(api: &Api, name: &str, definition: &Value) -> Result<(), ApiError> {
    let kind = api
        .kinds
        .find("apiextensions.k8s.io", "v1", "customresourcedefinitions")
        .ok_or_else(ApiError::no_such_path)?;
    let mut compute = |current: Option<&Value>| {
        let mut wanted = definition.clone();
        if let Some(current) = current {
            let spec = wanted["spec"].clone();
            wanted = current.clone();
            wanted["spec"] = spec;
        }
        Ok(wanted)
    };
    let mut write = Write::internal("isthmus");
    api.modify(&kind, "", name, Part::Main, &mut write, &mut compute).await.map(|_| ())
}
