//! Namespaces, ConfigMaps, Secrets and Leases: what all kinds have in common.

use serde_json::{Value, json};

use super::{APPLY, JSON, JSON_PATCH, MERGE, PARTIAL, STRATEGIC, Step, TABLE, get, patch, step};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"n": name}}, "data": data})
}

pub(super) fn steps() -> Vec<Step> {
    let a = "/api/v1/namespaces/default/configmaps/a";
    let raw = |name, method, path, media, body: &str| Step {
        name,
        method,
        path,
        media,
        accept: JSON,
        body: body.to_string(),
    };
    let mut steps = vec![
        step("namespace", "POST", "/api/v1/namespaces", json!({"metadata": {"name": "shop"}})),
        step("namespace again", "POST", "/api/v1/namespaces", json!({"metadata": {"name": "shop"}})),
        step("namespace bad name", "POST", "/api/v1/namespaces", json!({"metadata": {"name": "Shop"}})),
        get("namespace read", "/api/v1/namespaces/shop"),
        step("map", "POST", MAPS, map("a", json!({"k": "1"}))),
        step("map again", "POST", MAPS, map("a", json!({"k": "1"}))),
        get("map read", a),
        get("map absent", "/api/v1/namespaces/default/configmaps/none"),
        step("map no name", "POST", MAPS, json!({"data": {}})),
        step("map bad name", "POST", MAPS, map("A_B", json!({}))),
        step("map bad key", "POST", MAPS, map("b", json!({"a b": ""}))),
        step("map bad label", "POST", MAPS, json!({"metadata": {"name": "b", "labels": {"a b": "c d"}}})),
        step("map bad type", "POST", MAPS, json!({"metadata": {"name": "b"}, "data": {"a": 1}})),
        step(
            "map other kind",
            "POST",
            MAPS,
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "b"}}),
        ),
        step(
            "map other version",
            "POST",
            MAPS,
            json!({"apiVersion": "v2", "kind": "ConfigMap", "metadata": {"name": "b"}}),
        ),
        step("map other namespace", "POST", MAPS, json!({"metadata": {"name": "b", "namespace": "shop"}})),
        step("map nowhere", "POST", "/api/v1/namespaces/none/configmaps", map("a", json!({}))),
        step("map with version", "POST", MAPS, json!({"metadata": {"name": "b", "resourceVersion": "1"}})),
        step(
            "map unknown field strict",
            "POST",
            "/api/v1/namespaces/default/configmaps?fieldValidation=Strict",
            json!({"metadata": {"name": "b"}, "unheard": 1}),
        ),
        step(
            "map unknown field",
            "POST",
            "/api/v1/namespaces/default/configmaps?dryRun=All",
            json!({"metadata": {"name": "b"}, "unheard": 1}),
        ),
        raw("map not json", "POST", MAPS, JSON, "{"),
        raw("map text", "POST", MAPS, "text/plain", "x"),
        step(
            "map put",
            "PUT",
            a,
            json!({"metadata": {"name": "a", "resourceVersion": "{rv:map}"}, "data": {"k": "2"}}),
        ),
        step(
            "map put stale",
            "PUT",
            a,
            json!({"metadata": {"name": "a", "resourceVersion": "{rv:map}"}, "data": {"k": "3"}}),
        ),
        step("map put unconditional", "PUT", a, map("a", json!({"k": "4"}))),
        step("map put other name", "PUT", a, map("b", json!({}))),
        step("map put other uid", "PUT", a, json!({"metadata": {"name": "a", "uid": "x"}})),
        step("map put absent", "PUT", "/api/v1/namespaces/default/configmaps/none", map("none", json!({}))),
        patch("map merge", a, MERGE, json!({"data": {"k": null, "l": "5"}})),
        patch("map merge stale", a, MERGE, json!({"metadata": {"resourceVersion": "1"}, "data": {"l": "6"}})),
        patch("map json patch", a, JSON_PATCH, json!([{"op": "add", "path": "/data/m", "value": "6"}])),
        patch(
            "map json patch fails",
            a,
            JSON_PATCH,
            json!([{"op": "test", "path": "/data/m", "value": "7"}]),
        ),
        patch("map strategic", a, STRATEGIC, json!({"data": {"n": "8"}})),
        patch("map patch unknown media", a, "application/x", json!({})),
        patch("map patch absent", "/api/v1/namespaces/default/configmaps/none", MERGE, json!({})),
        patch("map apply without manager", a, APPLY, map("a", json!({}))),
        patch(
            "map apply conflict",
            "/api/v1/namespaces/default/configmaps/a?fieldManager=one",
            APPLY,
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"n": "9", "o": "1"}}),
        ),
        patch(
            "map apply force",
            "/api/v1/namespaces/default/configmaps/a?fieldManager=one&force=true",
            APPLY,
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"n": "9", "o": "1"}}),
        ),
        patch(
            "map apply less",
            "/api/v1/namespaces/default/configmaps/a?fieldManager=one",
            APPLY,
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"n": "9"}}),
        ),
        patch(
            "map apply creates",
            "/api/v1/namespaces/default/configmaps/applied?fieldManager=one",
            APPLY,
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": {"n": "9"}}),
        ),
        step(
            "immutable",
            "POST",
            MAPS,
            json!({"metadata": {"name": "fixed"}, "immutable": true, "data": {"a": "b"}}),
        ),
        patch(
            "immutable changed",
            "/api/v1/namespaces/default/configmaps/fixed",
            MERGE,
            json!({"data": {"a": "c"}}),
        ),
        get("map list selected", "/api/v1/namespaces/default/configmaps?labelSelector=n%3Da"),
        get("map list by name", "/api/v1/namespaces/default/configmaps?fieldSelector=metadata.name%3Dfixed"),
        get("map list bad field", "/api/v1/namespaces/default/configmaps?fieldSelector=data.x%3Dy"),
        get("map list bad continue", "/api/v1/namespaces/default/configmaps?continue=%21"),
        step("map delete wrong uid", "DELETE", a, json!({"preconditions": {"uid": "x"}})),
        step("map delete", "DELETE", a, Value::Null),
        step("map delete again", "DELETE", a, Value::Null),
        step("held", "POST", MAPS, json!({"metadata": {"name": "held", "finalizers": ["test.io/hold"]}})),
        step("held delete", "DELETE", "/api/v1/namespaces/default/configmaps/held", Value::Null),
        patch(
            "held released",
            "/api/v1/namespaces/default/configmaps/held",
            MERGE,
            json!({"metadata": {"finalizers": null}}),
        ),
        get("held gone", "/api/v1/namespaces/default/configmaps/held"),
        step(
            "collection delete",
            "DELETE",
            "/api/v1/namespaces/default/configmaps?labelSelector=n%3Dnone",
            Value::Null,
        ),
        get("no such resource", "/api/v1/namespaces/default/nothings"),
        get("no such group", "/apis/nothing.io/v1/things"),
        step("method", "POST", a, map("a", json!({}))),
        step(
            "secret",
            "POST",
            "/api/v1/namespaces/default/secrets",
            json!({"metadata": {"name": "s"}, "stringData": {"a": "b"}, "data": {"c": "ZA=="}}),
        ),
        step(
            "secret bad data",
            "POST",
            "/api/v1/namespaces/default/secrets",
            json!({"metadata": {"name": "t"}, "data": {"a": "%"}}),
        ),
        patch("secret type changed", "/api/v1/namespaces/default/secrets/s", MERGE, json!({"type": "x/y"})),
        step(
            "lease",
            "POST",
            "/apis/coordination.k8s.io/v1/namespaces/default/leases",
            json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "me", "leaseDurationSeconds": 10}}),
        ),
        step(
            "lease put unconditional",
            "PUT",
            "/apis/coordination.k8s.io/v1/namespaces/default/leases/l",
            json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "you"}}),
        ),
        get("lease absent", "/apis/coordination.k8s.io/v1/namespaces/default/leases/none"),
    ];
    steps.push(Step {
        accept: TABLE,
        ..get("map table", "/api/v1/namespaces/default/configmaps?fieldSelector=metadata.name%3Dfixed")
    });
    steps.push(Step {
        accept: PARTIAL,
        ..get("map metadata only", "/api/v1/namespaces/default/configmaps/fixed")
    });
    steps
}
