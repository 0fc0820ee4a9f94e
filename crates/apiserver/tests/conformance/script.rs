//! The requests, in order, by kind. `{rv:STEP}` and `{uid:STEP}` stand for what that step's object had.

mod custom;
mod maps;
mod services;
mod workloads;

use serde_json::Value;

/// One request.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) media: &'static str,
    pub(crate) accept: &'static str,
    pub(crate) body: String,
}

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const JSON_PATCH: &str = "application/json-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
const PARTIAL: &str = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io,application/json";

/// Fills in what earlier steps answered.
pub(crate) fn fill(text: &str, answers: &[(String, Value)]) -> String {
    let mut text = text.to_string();
    for (name, body) in answers {
        for (what, field) in [("rv", "resourceVersion"), ("uid", "uid")] {
            let value = body["metadata"][field].as_str().unwrap_or_default();
            text = text.replace(&format!("{{{what}:{name}}}"), value);
        }
        if let Some(token) = body["metadata"]["continue"].as_str() {
            text = text.replace(&format!("{{continue:{name}}}"), token);
        }
    }
    text
}

fn step(name: &'static str, method: &'static str, path: &'static str, body: Value) -> Step {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    Step { name, method, path, media: JSON, accept: JSON, body }
}

fn patch(name: &'static str, path: &'static str, media: &'static str, body: Value) -> Step {
    Step { name, method: "PATCH", path, media, accept: JSON, body: body.to_string() }
}

fn get(name: &'static str, path: &'static str) -> Step {
    step(name, "GET", path, Value::Null)
}

/// All requests.
pub(crate) fn steps() -> Vec<Step> {
    let mut steps = maps::steps();
    steps.extend(services::steps());
    steps.extend(workloads::pods_and_slices());
    steps.extend(workloads::tokens());
    steps.extend(custom::steps());
    steps
}
