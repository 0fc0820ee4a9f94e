//! Apply on a small schema: a list by key, a set, an atomic map, plain fields.

use serde_json::{Value, json};

use super::{Manager, Operation, apply, track_update};
use crate::schema::{Node, from_crd};

fn schema() -> Node {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "size": {"type": "integer"},
        "note": {"type": "string"},
        "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port", "protocol"],
            "items": {"type": "object", "properties": {
                "port": {"type": "integer"}, "protocol": {"type": "string", "default": "TCP"}, "name": {"type": "string"}}}},
        "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "hosts": {"type": "array", "items": {"type": "string"}},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
    }}}});
    from_crd(&schema, &std::sync::Arc::new(Node::any()))
}

fn manager(name: &str, operation: Operation) -> Manager {
    Manager { name: name.into(), operation, api_version: "x.io/v1".into(), subresource: String::new() }
}

fn applied(
    live: Option<&Value>,
    spec: Value,
    who: &str,
    force: bool,
) -> Result<Value, crate::status::ApiError> {
    let object = json!({"apiVersion": "x.io/v1", "kind": "X", "metadata": {"name": "a"}, "spec": spec});
    apply(live, &object, &schema(), &manager(who, Operation::Apply), force, "2024-01-01T00:00:00Z")
}

fn owned(object: &Value, who: &str) -> Value {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    entries
        .into_iter()
        .find(|entry| entry["manager"] == who)
        .map_or(Value::Null, |entry| entry["fieldsV1"].clone())
}

#[test]
fn what_is_applied_is_owned_in_kubernetes_notation() {
    let spec = json!({"size": 1, "ports": [{"port": 80, "name": "http"}], "tags": ["a"], "hosts": ["x"],
        "labels": {"l": "v"}});
    let object = applied(None, spec, "one", false).expect("it applies");
    let expected = json!({"f:spec": {
        "f:size": {},
        "f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}, "f:name": {}}},
        "f:tags": {"v:\"a\"": {}},
        "f:hosts": {},
        "f:labels": {"f:l": {}},
    }});
    assert_eq!(owned(&object, "one"), expected);
}

#[test]
fn changing_anothers_field_is_a_conflict_unless_forced() {
    let object = applied(None, json!({"size": 1, "note": "x"}), "one", false).expect("it applies");
    let error = applied(Some(&object), json!({"size": 2}), "two", false).expect_err("a conflict");
    assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"one\": .spec.size");
    assert_eq!(error.details["causes"][0]["field"], ".spec.size");
    let forced = applied(Some(&object), json!({"size": 2}), "two", true).expect("it is forced");
    assert_eq!(forced["spec"], json!({"size": 2, "note": "x"}));
    assert_eq!(owned(&forced, "one"), json!({"f:spec": {"f:note": {}}}));
    let shared = applied(Some(&object), json!({"size": 1}), "two", false).expect("the same value is shared");
    assert_eq!(owned(&shared, "one"), owned(&object, "one"));
}

#[test]
fn what_is_no_longer_applied_goes_unless_another_owns_it() {
    let spec = json!({"size": 1, "note": "x", "ports": [{"port": 80}, {"port": 81}], "tags": ["a", "b"]});
    let object = applied(None, spec, "one", false).expect("it applies");
    let object =
        applied(Some(&object), json!({"note": "x", "ports": [{"port": 82}], "tags": ["c"]}), "two", false)
            .expect("it applies");
    assert_eq!(object["spec"]["ports"], json!([{"port": 80}, {"port": 81}, {"port": 82}]));
    let object = applied(Some(&object), json!({"ports": [{"port": 81}], "tags": ["b"]}), "one", false)
        .expect("it applies");
    let expected = json!({"note": "x", "ports": [{"port": 81}, {"port": 82}], "tags": ["b", "c"]});
    assert_eq!(object["spec"], expected);
}

#[test]
fn an_update_takes_ownership_of_what_it_changes() {
    let object = applied(None, json!({"size": 1, "labels": {"a": "1"}}), "one", false).expect("it applies");
    let mut changed = object.clone();
    changed["spec"]["size"] = 5.into();
    changed["spec"]["labels"]["b"] = "2".into();
    let editor = manager("edit", Operation::Update);
    track_update(Some(&object), &mut changed, &schema(), &editor, "2024-01-02T00:00:00Z");
    assert_eq!(owned(&changed, "edit"), json!({"f:spec": {"f:size": {}, "f:labels": {"f:b": {}}}}));
    assert_eq!(owned(&changed, "one"), json!({"f:spec": {"f:labels": {"f:a": {}}}}));
    let error = applied(Some(&changed), json!({"size": 1}), "one", false).expect_err("a conflict");
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"edit\" using x.io/v1: .spec.size"
    );
}

#[test]
fn applying_the_same_again_changes_nothing() {
    let spec = json!({"size": 1, "ports": [{"port": 80}]});
    let object = applied(None, spec.clone(), "one", false).expect("it applies");
    assert_eq!(applied(Some(&object), spec, "one", false).expect("it applies"), object);
}
