//! Pods: written by registration here, by kubelets elsewhere.

use serde_json::{Map, Value, json};

use super::list_mut;
use crate::meta;
use crate::status::Cause;

fn set(target: &mut Value, key: &str, value: Value) {
    if target.is_object() && (target[key].is_null() || target[key] == "") {
        target[key] = value;
    }
}

pub(super) fn apply_defaults(object: &mut Value) {
    let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    set(spec, "restartPolicy", "Always".into());
    set(spec, "dnsPolicy", "ClusterFirst".into());
    set(spec, "schedulerName", "default-scheduler".into());
    set(spec, "terminationGracePeriodSeconds", 30.into());
    set(spec, "enableServiceLinks", true.into());
    set(spec, "securityContext", json!({}));
    set(spec, "serviceAccountName", "default".into());
    let account = spec["serviceAccountName"].clone();
    set(spec, "serviceAccount", account);
    for list in ["containers", "initContainers"] {
        for container in list_mut(spec, list).into_iter().flatten() {
            set(container, "terminationMessagePath", "/dev/termination-log".into());
            set(container, "terminationMessagePolicy", "File".into());
            set(container, "resources", json!({}));
            let image = container["image"].as_str().unwrap_or_default();
            let latest =
                image.ends_with(":latest") || !image.rsplit('/').next().unwrap_or_default().contains(':');
            set(container, "imagePullPolicy", if latest { "Always" } else { "IfNotPresent" }.into());
            for port in list_mut(container, "ports").into_iter().flatten() {
                set(port, "protocol", "TCP".into());
            }
        }
    }
}

pub(super) fn first_status(object: &mut Value) {
    object["status"] = json!({"phase": "Pending", "qosClass": "BestEffort"});
}

pub(super) fn validate(object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let spec = &object["spec"];
    let containers: Vec<&Value> = spec["containers"].as_array().into_iter().flatten().collect();
    if containers.is_empty() {
        causes.push(Cause::required("spec.containers", ""));
    }
    let mut names = std::collections::HashSet::new();
    for (index, container) in containers.iter().enumerate() {
        let at = |field: &str| format!("spec.containers[{index}].{field}");
        let name = container["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            causes.push(Cause::required(at("name"), ""));
        } else if !meta::is_label(name) {
            causes.push(Cause::invalid(at("name"), &container["name"], "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"));
        } else if !names.insert(name) {
            causes.push(Cause::duplicate(at("name"), &container["name"]));
        }
        if container["image"].as_str().unwrap_or_default().is_empty() {
            causes.push(Cause::required(at("image"), ""));
        }
        for (port, value) in container["ports"].as_array().into_iter().flatten().enumerate() {
            if !value["containerPort"].as_i64().is_some_and(|port| (1..=65535).contains(&port)) {
                let field = at(&format!("ports[{port}].containerPort"));
                if value["containerPort"].is_null() {
                    causes.push(Cause::required(field, ""));
                } else {
                    let detail = "must be between 1 and 65535, inclusive";
                    causes.push(Cause::invalid(field, &value["containerPort"], detail));
                }
            }
        }
    }
    if let Some(old) = old
        && fixed(spec) != fixed(&old["spec"])
    {
        let detail = "pod updates may not change fields other than `spec.containers[*].image`,\
                      `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to \
                      existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
                      previously negative)";
        causes.push(Cause::forbidden("spec", detail));
    }
    causes
}

/// The part of a spec that may not change.
fn fixed(spec: &Value) -> Value {
    let mut spec = spec.clone();
    let Some(fields) = spec.as_object_mut() else { return Value::Object(Map::new()) };
    for free in ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds"] {
        fields.remove(free);
    }
    for list in ["containers", "initContainers"] {
        for container in fields.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(container) = container.as_object_mut() {
                container.remove("image");
            }
        }
    }
    spec
}
