//! Kinds by definition: served as soon as created, pruned, defaulted, checked, applied.

#[path = "support/client.rs"]
mod client;

use client::Api;
use http::StatusCode;
use serde_json::{Value, json};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const SHIPS: &str = "/apis/sea.io/v1/namespaces/default/ships";

fn definition() -> Value {
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {
        "spec": {"type": "object", "required": ["name"], "properties": {
            "name": {"type": "string", "minLength": 2},
            "crew": {"type": "integer", "default": 3, "minimum": 1},
            "kind": {"type": "string", "enum": ["sail", "steam"]},
            "holds": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"],
                "items": {"type": "object", "required": ["id"], "properties": {
                    "id": {"type": "string"}, "size": {"type": "integer"}}}},
        }},
        "status": {"type": "object", "properties": {"port": {"type": "string"}}},
    }}});
    let version = |name: &str, storage: bool| {
        json!({"name": name, "served": true, "storage": storage, "schema": schema,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [{"name": "Crew", "type": "integer", "jsonPath": ".spec.crew"}]})
    };
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "ships.sea.io"},
        "spec": {"group": "sea.io", "scope": "Namespaced", "names": {"kind": "Ship", "plural": "ships"},
            "versions": [version("v1", true), version("v1beta1", false)]}})
}

fn ship(name: &str) -> Value {
    json!({"apiVersion": "sea.io/v1", "kind": "Ship", "metadata": {"name": name}, "spec": {"name": "Argo"}})
}

#[tokio::test]
async fn a_kind_is_served_once_defined_and_goes_with_its_definition() {
    let api = Api::start(|_| {}).await;
    assert_eq!(api.admin.get(SHIPS).await.code, StatusCode::NOT_FOUND);
    let made = api.admin.post(DEFINITIONS, &definition()).await.good();
    assert!(made["status"]["conditions"].to_string().contains("Established"));
    let mut argo = ship("argo");
    argo["spec"]["unheard"] = 1.into();
    let argo = api.admin.post(SHIPS, &argo).await;
    assert_eq!(argo.warnings, ["299 - \"unknown field \\\"spec.unheard\\\"\""]);
    let argo = argo.good();
    assert_eq!(argo["spec"], json!({"name": "Argo", "crew": 3}));
    assert_eq!(argo["metadata"]["generation"], 1);
    let beta = api.admin.get("/apis/sea.io/v1beta1/namespaces/default/ships/argo").await.good();
    assert_eq!(beta["apiVersion"], "sea.io/v1beta1");
    let bad = json!({"apiVersion": "sea.io/v1", "kind": "Ship", "metadata": {"name": "x"},
        "spec": {"crew": 0, "kind": "oar", "holds": [{"id": "a"}, {"id": "a"}, {}]}});
    let refused = api.admin.post(SHIPS, &bad).await;
    assert_eq!(refused.code, StatusCode::UNPROCESSABLE_ENTITY);
    for text in [
        "Ship.sea.io \"x\" is invalid: [",
        "spec.name: Required value",
        "spec.crew: Invalid value: 0: spec.crew in body should be greater than or equal to 1",
        "spec.kind: Unsupported value: \"oar\": supported values: \"sail\", \"steam\"",
        "spec.holds[1]: Duplicate value",
        "spec.holds[2].id: Required value",
    ] {
        assert!(refused.message().contains(text), "{text} is not in {}", refused.message());
    }
    api.admin.delete(&format!("{DEFINITIONS}/ships.sea.io")).await.good();
    api.admin.gone(&format!("{DEFINITIONS}/ships.sea.io"), DEFINITIONS).await;
    assert_eq!(api.admin.get(SHIPS).await.code, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn spec_and_status_are_written_apart_and_only_the_spec_counts_generations() {
    let api = Api::start(|config| config.crds = vec![definition()]).await;
    let mut sent = ship("argo");
    sent["status"] = json!({"port": "Iolcus"});
    let made = api.admin.post(SHIPS, &sent).await.good();
    assert!(made["status"].is_null());
    let path = format!("{SHIPS}/argo");
    let change = json!({"spec": {"crew": 50}, "status": {"port": "Colchis"}});
    let after = api.admin.merge(&format!("{path}/status"), &change).await.good();
    assert_eq!((&after["spec"]["crew"], &after["status"]["port"]), (&json!(3), &json!("Colchis")));
    assert_eq!(after["metadata"]["generation"], 1);
    let after = api.admin.merge(&path, &change).await.good();
    assert_eq!((&after["spec"]["crew"], &after["metadata"]["generation"]), (&json!(50), &json!(2)));
    let without = api.admin.put(&path, &ship("argo")).await;
    assert!(
        without.message().contains("metadata.resourceVersion: Invalid value: 0"),
        "{}",
        without.message()
    );
}

#[tokio::test]
async fn appliers_share_an_object_by_its_schema() {
    let api = Api::start(|config| config.crds = vec![definition()]).await;
    let path = format!("{SHIPS}/argo");
    let with = |spec: Value| json!({"apiVersion": "sea.io/v1", "kind": "Ship", "metadata": {"name": "argo"}, "spec": spec});
    let one = with(json!({"name": "Argo", "holds": [{"id": "a", "size": 1}]}));
    let made = api.admin.apply(&format!("{path}?fieldManager=one"), &one).await;
    assert_eq!(made.code, StatusCode::CREATED);
    let two = with(json!({"holds": [{"id": "b", "size": 2}]}));
    let both = api.admin.apply(&format!("{path}?fieldManager=two"), &two).await.good();
    assert_eq!(both["spec"]["holds"], json!([{"id": "a", "size": 1}, {"id": "b", "size": 2}]));
    let fight = with(json!({"holds": [{"id": "a", "size": 9}]}));
    let conflict = api.admin.apply(&format!("{path}?fieldManager=two"), &fight).await;
    assert_eq!((conflict.code, conflict.body["reason"].as_str()), (StatusCode::CONFLICT, Some("Conflict")));
    assert_eq!(conflict.body["details"]["causes"][0]["field"], ".spec.holds[id=\"a\"].size");
    let forced = api.admin.apply(&format!("{path}?fieldManager=two&force=true"), &fight).await.good();
    assert_eq!(forced["spec"]["holds"], json!([{"id": "a", "size": 9}]));
    let again = api.admin.apply(&format!("{path}?fieldManager=two&force=true"), &fight).await.good();
    assert_eq!(again["metadata"]["resourceVersion"], forced["metadata"]["resourceVersion"]);
    let nameless = api.admin.apply(&path, &fight).await;
    assert_eq!(nameless.code, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn tables_show_the_columns_of_the_definition() {
    let api = Api::start(|config| config.crds = vec![definition()]).await;
    api.admin.post(SHIPS, &ship("argo")).await.good();
    let request = http::Request::builder()
        .uri(SHIPS)
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json");
    let table = api.admin.send(request.body(axum::body::Body::empty()).expect("a request")).await.good();
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["columnDefinitions"][1]["name"], "Crew");
    assert_eq!(table["rows"][0]["cells"], json!(["argo", 3]));
}

#[tokio::test]
async fn a_definition_that_makes_no_sense_is_refused_and_the_old_one_stays() {
    let api = Api::start(|config| config.crds = vec![definition()]).await;
    let mut bad = definition();
    bad["metadata"]["name"] = "boats.sea.io".into();
    let refused = api.admin.post(DEFINITIONS, &bad).await;
    assert!(
        refused.message().contains("metadata.name: Invalid value: \"boats.sea.io\""),
        "{}",
        refused.message()
    );
    let change = json!({"spec": {"versions": []}});
    let refused = api.admin.merge(&format!("{DEFINITIONS}/ships.sea.io"), &change).await;
    assert_eq!(refused.code, StatusCode::UNPROCESSABLE_ENTITY);
    api.admin.post(SHIPS, &ship("argo")).await.good();
}
