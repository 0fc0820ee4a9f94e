//! A kind that a CustomResourceDefinition brings.

use serde_json::{Value, json};

use super::{APPLY, MERGE, STRATEGIC, Step, TABLE, get, patch, step};

pub(super) fn steps() -> Vec<Step> {
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let ships = "/apis/sea.io/v1/namespaces/shop/ships";
    let argo = "/apis/sea.io/v1/namespaces/shop/ships/argo";
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["name"], "properties": {
            "name": {"type": "string", "minLength": 2, "pattern": "^[A-Z]"},
            "crew": {"type": "integer", "default": 3, "minimum": 1},
            "kind": {"type": "string", "enum": ["sail", "steam"]},
            "holds": {"type": "array", "maxItems": 3, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"],
                "items": {"type": "object", "required": ["id"], "properties": {"id": {"type": "string"}, "size": {"type": "integer"}}}}}},
        "status": {"type": "object", "properties": {"port": {"type": "string"}}}}});
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "ships.sea.io"}, "spec": {"group": "sea.io", "scope": "Namespaced",
            "names": {"kind": "Ship", "plural": "ships"}, "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}}}]}});
    let mut wrong = definition.clone();
    wrong["metadata"]["name"] = "boats.sea.io".into();
    let mut unstored = definition.clone();
    unstored["spec"]["versions"][0]["storage"] = false.into();
    let ship = |name: &str, spec: Value| json!({"apiVersion": "sea.io/v1", "kind": "Ship", "metadata": {"name": name}, "spec": spec});
    let mut steps = vec![
        step("definition wrong name", "POST", definitions, wrong),
        step("definition without storage", "POST", definitions, unstored),
        step("definition", "POST", definitions, definition),
    ];
    steps.push(get(
        "definition established",
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/ships.sea.io",
    ));
    steps.extend([
        step(
            "ship",
            "POST",
            ships,
            ship("argo", json!({"name": "Argo", "unheard": 1, "holds": [{"id": "a"}]})),
        ),
        step(
            "ship unknown strict",
            "POST",
            "/apis/sea.io/v1/namespaces/shop/ships?fieldValidation=Strict",
            ship("x", json!({"name": "Xx", "unheard": 1})),
        ),
        step(
            "ship bad",
            "POST",
            ships,
            ship("x", json!({"name": "x", "crew": 0, "kind": "oar", "holds": [{"id": "a"}, {"id": "a"}]})),
        ),
        step("ship bad types", "POST", ships, ship("x", json!({"name": 5, "crew": "many", "holds": {}}))),
        step("ship without spec name", "POST", ships, ship("x", json!({}))),
        step("ship put without version", "PUT", argo, ship("argo", json!({"name": "Argo"}))),
        patch("ship changed", argo, MERGE, json!({"spec": {"crew": 50}, "status": {"port": "x"}})),
        patch(
            "ship status",
            "/apis/sea.io/v1/namespaces/shop/ships/argo/status",
            MERGE,
            json!({"spec": {"crew": 1}, "status": {"port": "Colchis"}}),
        ),
        patch("ship strategic", argo, STRATEGIC, json!({"spec": {"crew": 1}})),
        patch(
            "ship apply",
            "/apis/sea.io/v1/namespaces/shop/ships/argo?fieldManager=two",
            APPLY,
            ship("argo", json!({"holds": [{"id": "b", "size": 2}]})),
        ),
        patch(
            "ship apply conflict",
            "/apis/sea.io/v1/namespaces/shop/ships/argo?fieldManager=two",
            APPLY,
            ship("argo", json!({"name": "Other"})),
        ),
        get("ship absent", "/apis/sea.io/v1/namespaces/shop/ships/none"),
        get("ships", ships),
        get("ships no version", "/apis/sea.io/v2/namespaces/shop/ships"),
        Step { accept: TABLE, ..get("ship table", argo) },
        step("ship delete", "DELETE", argo, Value::Null),
    ]);
    steps
}
