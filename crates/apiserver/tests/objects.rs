//! Objects: created, listed, watched, changed, patched, deleted.

#[path = "support/client.rs"]
mod client;

use std::sync::Arc;

use client::Api;
use http::StatusCode;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SERVICES: &str = "/api/v1/namespaces/default/services";

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"n": name}}, "data": data})
}

fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80}]}})
}

#[tokio::test]
async fn a_stale_update_is_a_conflict_and_a_current_one_is_not() {
    let api = Api::start(|_| {}).await;
    let first = api.admin.post(MAPS, &map("a", json!({"k": "1"}))).await.good();
    let path = format!("{MAPS}/a");
    let mut second = first.clone();
    second["data"]["k"] = "2".into();
    let second = api.admin.put(&path, &second).await.good();
    assert_ne!(first["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);
    let stale = api.admin.put(&path, &first).await;
    assert_eq!((stale.code, stale.body["reason"].as_str()), (StatusCode::CONFLICT, Some("Conflict")));
    assert_eq!(
        stale.message(),
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes \
         to the latest version and try again"
    );
    let same = api.admin.put(&path, &second).await.good();
    assert_eq!(
        same["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"],
        "nothing has changed"
    );
}

#[tokio::test]
async fn pages_show_one_revision_and_selectors_select() {
    let api = Api::start(|_| {}).await;
    for name in ["a", "b", "c", "d", "e"] {
        api.admin.post(MAPS, &map(name, json!({}))).await.good();
    }
    let one = api.admin.get(&format!("{MAPS}?limit=2")).await.good();
    assert_eq!(one["metadata"]["remainingItemCount"], 3);
    api.admin.delete(&format!("{MAPS}/c")).await.good();
    let token = one["metadata"]["continue"].as_str().expect("a token");
    let two = api.admin.get(&format!("{MAPS}?limit=10&continue={token}")).await.good();
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().expect("items").iter();
        items.map(|item| item["metadata"]["name"].as_str().expect("a name").to_string()).collect()
    };
    assert_eq!(names(&two), ["c", "d", "e"], "the deleted one is still in the list that was begun");
    assert_eq!(one["metadata"]["resourceVersion"], two["metadata"]["resourceVersion"]);
    let selected =
        api.admin.get(&format!("{MAPS}?labelSelector=n%20in%20(a,e)&fieldSelector=metadata.name!=e")).await;
    assert_eq!(names(&selected.good()), ["a"]);
    let bad = api.admin.get(&format!("{MAPS}?fieldSelector=data=x")).await;
    assert_eq!(
        (bad.code, bad.message()),
        (
            StatusCode::BAD_REQUEST,
            "\"data\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        )
    );
}

#[tokio::test]
async fn a_watch_tells_changes_in_order_and_a_selector_turns_them_into_comings_and_goings() {
    let api = Api::start(|_| {}).await;
    let first = api.admin.post(MAPS, &map("a", json!({}))).await.good();
    let version = first["metadata"]["resourceVersion"].as_str().expect("a version").to_string();
    let mut all = api.admin.watch(&format!("{MAPS}?watch=true&resourceVersion={version}")).await;
    let mut some =
        api.admin.watch(&format!("{MAPS}?watch=true&resourceVersion={version}&labelSelector=n=a")).await;
    api.admin.merge(&format!("{MAPS}/a"), &json!({"metadata": {"labels": {"n": "z"}}})).await.good();
    api.admin.post(MAPS, &map("b", json!({}))).await.good();
    api.admin.delete(&format!("{MAPS}/b")).await.good();
    let mut told = Vec::new();
    for _ in 0..3 {
        let (event, object) = all.next().await;
        told.push(format!("{event} {}", object["metadata"]["name"].as_str().expect("a name")));
    }
    assert_eq!(told, ["MODIFIED a", "ADDED b", "DELETED b"]);
    let (event, object) = some.next().await;
    assert_eq!((event.as_str(), &object["metadata"]["labels"]["n"]), ("DELETED", &json!("a")));
}

#[tokio::test]
async fn a_watch_can_begin_with_what_is_there_and_marks_its_end() {
    let api = Api::start(|_| {}).await;
    api.admin.post(MAPS, &map("a", json!({}))).await.good();
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = api.admin.watch(&format!("{MAPS}?{query}")).await;
    assert_eq!(watch.next().await.0, "ADDED");
    let (event, object) = watch.next().await;
    assert_eq!(event, "BOOKMARK");
    assert_eq!(object["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let mut old = api.admin.watch(&format!("{MAPS}?watch=1&resourceVersion=1")).await;
    let (event, status) = old.next().await;
    assert_eq!(
        (event.as_str(), &status["code"]),
        ("ERROR", &json!(410)),
        "what was before the start is not known"
    );
}

#[tokio::test]
async fn services_get_unique_addresses_and_give_them_back() {
    let api = Api::start(|config| config.service_cidr = "10.0.0.0/29".parse().expect("a range")).await;
    let mut taken = std::collections::BTreeSet::new();
    for name in ["a", "b", "c", "d", "e"] {
        let made = api.admin.post(SERVICES, &service(name)).await.good();
        let ip = made["spec"]["clusterIP"].as_str().expect("an address").to_string();
        assert_eq!(made["spec"]["clusterIPs"], json!([ip]));
        assert!(taken.insert(ip));
    }
    let full = api.admin.post(SERVICES, &service("f")).await;
    assert_eq!(full.code, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(full.message().contains("is full"), "{}", full.message());
    let a = api.admin.delete(&format!("{SERVICES}/a")).await.good();
    let mut wanted = service("f");
    wanted["spec"]["clusterIP"] = a["spec"]["clusterIP"].clone();
    let f = api.admin.post(SERVICES, &wanted).await.good();
    assert_eq!(f["spec"]["clusterIP"], a["spec"]["clusterIP"]);
    wanted["metadata"]["name"] = "g".into();
    let twice = api.admin.post(SERVICES, &wanted).await;
    assert_eq!(twice.code, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(twice.message().contains("provided IP is already allocated"), "{}", twice.message());
    let change = json!({"spec": {"clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.9"]}});
    let moved = api.admin.merge(&format!("{SERVICES}/f"), &change).await;
    assert!(moved.message().contains("may not change once set"));
}

#[tokio::test]
async fn a_bad_object_is_refused_with_every_cause() {
    let api = Api::start(|_| {}).await;
    let mut bad = service("a");
    bad["spec"]["ports"] = json!([{"port": 70000}, {"port": 81, "name": "x"}]);
    bad["spec"]["externalIPs"] = json!(["nowhere"]);
    let refused = api.admin.post(SERVICES, &bad).await;
    assert_eq!(refused.code, StatusCode::UNPROCESSABLE_ENTITY);
    let causes = refused.body["details"]["causes"].as_array().expect("causes").clone();
    let fields: Vec<&str> = causes.iter().filter_map(|cause| cause["field"].as_str()).collect();
    assert_eq!(
        fields,
        ["spec.ports[0].name", "spec.ports[0].port", "spec.ports[0].targetPort", "spec.externalIPs[0]"]
    );
    for body in [
        "",
        "{",
        "[]",
        "null",
        "{\"metadata\": 5}",
        "{\"metadata\": {\"labels\": 3}}",
        "{\"spec\": {\"ports\": 7}}",
    ] {
        let refused = api.admin.call("POST", SERVICES, "application/json", body).await;
        assert_eq!(refused.code, StatusCode::BAD_REQUEST, "{body}: {}", refused.body);
    }
    let huge = "x".repeat(3 * 1024 * 1024 + 1);
    let refused = api.admin.call("POST", SERVICES, "application/json", &huge).await;
    assert_eq!(refused.code, StatusCode::PAYLOAD_TOO_LARGE);
    let nowhere = api.admin.post("/api/v1/namespaces/none/services", &service("a")).await;
    assert_eq!((nowhere.code, nowhere.message()), (StatusCode::NOT_FOUND, "namespaces \"none\" not found"));
}

#[tokio::test]
async fn a_dry_run_answers_and_keeps_nothing() {
    let api = Api::start(|_| {}).await;
    let made = api.admin.post(&format!("{SERVICES}?dryRun=All"), &service("a")).await.good();
    assert!(made["spec"]["clusterIP"].is_string());
    assert_eq!(api.admin.get(&format!("{SERVICES}/a")).await.code, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn finalizers_hold_and_owners_take_their_dependents_along() {
    let api = Api::start(|_| {}).await;
    let mut owner = map("owner", json!({}));
    owner["metadata"]["finalizers"] = json!(["test.io/hold"]);
    let owner = api.admin.post(MAPS, &owner).await.good();
    let mut child = map("child", json!({}));
    child["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner",
        "uid": owner["metadata"]["uid"]}]);
    api.admin.post(MAPS, &child).await.good();
    let marked = api.admin.delete(&format!("{MAPS}/owner")).await.good();
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(api.admin.get(&format!("{MAPS}/child")).await.code, StatusCode::OK);
    let drop_it = "[{\"op\": \"remove\", \"path\": \"/metadata/finalizers\"}]";
    api.admin.call("PATCH", &format!("{MAPS}/owner"), "application/json-patch+json", drop_it).await.good();
    api.admin.gone(&format!("{MAPS}/owner"), MAPS).await;
    api.admin.gone(&format!("{MAPS}/child"), MAPS).await;
    let mut late = child.clone();
    late["metadata"]["name"] = "late".into();
    api.admin.post(MAPS, &late).await.good();
    api.admin.gone(&format!("{MAPS}/late"), MAPS).await;
}

#[tokio::test]
async fn deleting_in_the_foreground_or_orphaning_is_up_to_the_caller() {
    let api = Api::start(|_| {}).await;
    for (policy, survives) in [("Foreground", false), ("Orphan", true)] {
        let owner = api.admin.post(MAPS, &map("owner", json!({}))).await.good();
        let mut child = map("child", json!({}));
        child["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner",
            "uid": owner["metadata"]["uid"], "blockOwnerDeletion": true}]);
        api.admin.post(MAPS, &child).await.good();
        let path = format!("{MAPS}/owner?propagationPolicy={policy}");
        api.admin.delete(&path).await.good();
        api.admin.gone(&format!("{MAPS}/owner"), MAPS).await;
        let left = api.admin.get(&format!("{MAPS}/child")).await;
        assert_eq!(left.code == StatusCode::OK, survives, "{policy}");
        if survives {
            assert!(left.body["metadata"]["ownerReferences"].is_null());
        }
    }
}

#[tokio::test]
async fn preconditions_guard_a_deletion() {
    let api = Api::start(|_| {}).await;
    let made = api.admin.post(MAPS, &map("a", json!({}))).await.good();
    let path = format!("{MAPS}/a");
    let options = |uid: &str| {
        json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": uid}}).to_string()
    };
    let wrong = api.admin.call("DELETE", &path, "application/json", &options("other")).await;
    assert_eq!(wrong.code, StatusCode::CONFLICT);
    let uid = made["metadata"]["uid"].as_str().expect("a uid");
    let right = api.admin.call("DELETE", &path, "application/json", &options(uid)).await.good();
    assert_eq!((&right["kind"], &right["status"]), (&json!("Status"), &json!("Success")));
    let again = api.admin.call("DELETE", &path, "application/json", &options(uid)).await;
    assert_eq!((again.code, again.message()), (StatusCode::NOT_FOUND, "configmaps \"a\" not found"));
}

#[tokio::test]
async fn warnings_of_the_program_and_of_unknown_fields_reach_the_client() {
    let api = Api::start(|config| {
        config.warnings =
            Arc::new(|object| vec![format!("{} is \"kept\" only", object["kind"].as_str().unwrap_or(""))]);
    })
    .await;
    let mut object = map("a", json!({}));
    object["unheard"] = 1.into();
    let made = api.admin.post(MAPS, &object).await;
    assert_eq!(made.code, StatusCode::CREATED);
    assert_eq!(
        made.warnings,
        ["299 - \"unknown field \\\"unheard\\\"\"", "299 - \"ConfigMap is \\\"kept\\\" only\""]
    );
    assert!(made.body["unheard"].is_null());
    let strict = api.admin.post(&format!("{MAPS}?fieldValidation=Strict"), &object).await;
    assert_eq!(strict.code, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn ten_thousand_objects_are_listed_in_a_moment() {
    let api = Api::start(|_| {}).await;
    let names: Vec<String> = (0..10_000).map(|n| format!("m{n}")).collect();
    for names in names.chunks(500) {
        futures::future::join_all(names.iter().map(|name| async {
            api.admin.post(MAPS, &map(name, json!({"k": "v"}))).await.good();
        }))
        .await;
    }
    let started = std::time::Instant::now();
    let list = api.admin.get(MAPS).await.good();
    let took = started.elapsed();
    assert_eq!(list["items"].as_array().map(Vec::len), Some(10_000));
    println!("a list of 10,000: {took:?}");
    assert!(took < std::time::Duration::from_secs(10), "{took:?}");
}
