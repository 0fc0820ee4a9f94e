//! Bad input gets an error, and never takes the server down.

#[path = "support/client.rs"]
mod client;

use client::Api;
use serde_json::{Value, json};

/// A small generator of numbers: the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or(0) % sides
    }

    fn junk(&mut self) -> Value {
        let all = [
            Value::Null,
            json!(true),
            json!(-1),
            json!(1.5e300),
            json!(u64::MAX),
            json!(""),
            json!("\u{0}\u{feff}x/y z"),
            json!([]),
            json!([null, [], {}, "a"]),
            json!({}),
            json!({"": null, "$patch": "delete", "a": {"b": []}}),
            json!({"$patch": "replace"}),
            json!([{"name": 1}, {"name": null}, {"port": []}]),
        ];
        all[self.roll(all.len())].clone()
    }

    /// Replaces something somewhere in a value.
    fn spoil(&mut self, value: &mut Value) {
        let deeper = self.roll(4) > 0;
        match value {
            Value::Object(fields) if deeper && !fields.is_empty() => {
                let at = self.roll(fields.len());
                if let Some(field) = fields.values_mut().nth(at) {
                    self.spoil(field);
                }
            }
            Value::Array(items) if deeper && !items.is_empty() => {
                let at = self.roll(items.len());
                self.spoil(&mut items[at]);
            }
            other => *other = self.junk(),
        }
    }
}

fn samples() -> Vec<(&'static str, &'static str, Value)> {
    let meta = |name: &str| {
        json!({"name": name, "labels": {"a": "b"}, "annotations": {"c": "d"}, "finalizers": ["x/y"],
        "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}], "managedFields": [
            {"manager": "m", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:x": {}}}]})
    };
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string", "pattern": "^a", "default": "a"}}}}}}}});
    vec![
        (
            "/api/v1/namespaces/default/services",
            "a",
            json!({"metadata": meta("a"), "spec": {"type": "NodePort", "clusterIP": "",
            "clusterIPs": ["10.96.0.9"], "selector": {"a": "b"}, "externalIPs": ["10.0.0.1"],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "x", "nodePort": 30001}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}}),
        ),
        (
            "/api/v1/namespaces/default/pods",
            "a",
            json!({"metadata": meta("a"), "spec": {"containers": [
            {"name": "c", "image": "i", "ports": [{"containerPort": 80}]}], "tolerations": [{"key": "a"}]},
            "status": {"phase": "x", "conditions": [{"type": "Ready", "status": "True"}], "podIPs": [{"ip": "1.1.1.1"}]}}),
        ),
        (
            "/api/v1/namespaces/default/secrets",
            "a",
            json!({"metadata": meta("a"), "data": {"a": "eA=="}, "stringData": {"b": "c"},
            "type": "x/y", "immutable": false}),
        ),
        (
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
            "a",
            json!({"metadata": meta("a"), "addressType": "IPv4",
            "endpoints": [{"addresses": ["1.1.1.1"], "conditions": {"ready": true}}], "ports": [{"port": 80, "name": "x"}]}),
        ),
        (
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
            "things.x.io",
            json!({"metadata": meta("things.x.io"),
            "spec": {"group": "x.io", "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing", "shortNames": ["t"]},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
                    "subresources": {"status": {}}, "additionalPrinterColumns": [{"name": "K", "type": "string", "jsonPath": ".spec.list[0].k"}]}]}}),
        ),
        (
            "/apis/x.io/v1/namespaces/default/things",
            "a",
            json!({"metadata": meta("a"), "spec": {"list": [{"k": "a"}, {"k": "ab"}]}}),
        ),
        (
            "/api/v1/namespaces",
            "shop",
            json!({"metadata": meta("shop"), "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "x"}}),
        ),
        (
            "/api/v1/namespaces/default/serviceaccounts/default/token",
            "",
            json!({"spec": {"audiences": ["a"], "expirationSeconds": 700,
            "boundObjectRef": {"kind": "Secret", "name": "a", "apiVersion": "v1", "uid": "x"}}}),
        ),
        (
            "/apis/authentication.k8s.io/v1/tokenreviews",
            "",
            json!({"spec": {"token": "a.b.c", "audiences": ["x"]}}),
        ),
        (
            "/apis/authorization.k8s.io/v1/subjectaccessreviews",
            "",
            json!({"spec": {"user": "u", "groups": ["g"],
            "resourceAttributes": {"verb": "get", "resource": "pods"}}}),
        ),
    ]
}

#[tokio::test]
async fn spoiled_objects_and_patches_are_refused_or_taken_and_never_break_the_server() {
    let api = Api::start(|_| {}).await;
    let mut dice = Dice(42);
    let samples = samples();
    let whole = &samples[4];
    api.admin.post(whole.0, &whole.2).await.good();
    let medias = [
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
        "application/json-patch+json",
        "application/apply-patch+yaml",
    ];
    let mut codes = std::collections::BTreeMap::new();
    for round in 0..4_000 {
        let (path, name, sample) = &samples[dice.roll(samples.len())];
        let mut body = sample.clone();
        for _ in 0..=dice.roll(3) {
            dice.spoil(&mut body);
        }
        let one = format!("{path}/{name}");
        let answer = match dice.roll(6) {
            0 | 1 => api.admin.post(path, &body).await,
            2 => api.admin.put(&one, &body).await,
            3 => {
                let part = if dice.roll(2) == 0 { "/status" } else { "" };
                let media = medias[dice.roll(medias.len())];
                let path = format!(
                    "{one}{part}?fieldManager=m&force={}",
                    dice.roll(2) == 0 && media.contains("apply")
                );
                api.admin.call("PATCH", &path, media, &body.to_string()).await
            }
            4 => {
                let operations = json!([{"op": "replace", "path": "/metadata", "value": dice.junk()},
                    {"op": "add", "path": "/spec", "value": dice.junk()}]);
                let text = operations.to_string();
                api.admin.call("PATCH", &one, "application/json-patch+json", &text).await
            }
            _ => api.admin.call("DELETE", &one, "application/json", &body.to_string()).await,
        };
        *codes.entry(answer.code.as_u16()).or_insert(0) += 1;
        assert!(answer.code.as_u16() < 500, "round {round}: {path} {body}: {}", answer.body);
    }
    println!("{codes:?}");
    // Otherwise it is too spoiled to get anywhere.
    assert!(codes[&200] > 100 && codes[&201] > 100 && codes[&422] > 100, "{codes:?}");
    for path in [
        "/api/v1/pods",
        "/api/v1/services",
        "/apis/x.io/v1/things",
        "/api/v1/namespaces",
        "/openapi/v2",
        "/apis",
    ] {
        let answer = api.admin.get(path).await;
        assert!(answer.code.is_success() || path.contains("x.io"), "{path}: {}", answer.body);
    }
    for query in [
        "limit=x",
        "continue=AAAA",
        "labelSelector=%zz",
        "resourceVersion=-1",
        "timeoutSeconds=a&watch=1",
        "fieldSelector=,,=,",
    ] {
        let answer = api.admin.get(&format!("/api/v1/pods?{query}")).await;
        assert!(answer.code.is_client_error() || query.contains("fieldSelector"), "{query}: {}", answer.code);
    }
}
