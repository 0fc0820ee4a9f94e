//! The requests, in order. `{rv:STEP}` and `{uid:STEP}` stand for what that step's object had.

use serde_json::{Value, json};

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
    let mut steps = config_maps();
    steps.extend(services());
    steps.extend(pods_and_slices());
    steps.extend(tokens());
    steps.extend(custom());
    steps
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"n": name}}, "data": data})
}

fn config_maps() -> Vec<Step> {
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

const SERVICES: &str = "/api/v1/namespaces/shop/services";

fn services() -> Vec<Step> {
    let web = "/api/v1/namespaces/shop/services/web";
    let service = |name: &str, spec: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec});
    vec![
        step(
            "service",
            "POST",
            SERVICES,
            service("web", json!({"selector": {"app": "web"}, "ports": [{"port": 80, "name": "http"}]})),
        ),
        step(
            "service headless",
            "POST",
            SERVICES,
            service("headless", json!({"clusterIP": "None", "selector": {"a": "b"}})),
        ),
        step(
            "service external name",
            "POST",
            SERVICES,
            service("ext", json!({"type": "ExternalName", "externalName": "example.com"})),
        ),
        step(
            "service external ip",
            "POST",
            SERVICES,
            service(
                "gw",
                json!({"externalIPs": ["10.1.2.3"], "ports": [
            {"name": "tls", "port": 15443}, {"name": "tls-istiod", "port": 15012}]}),
            ),
        ),
        step("service no ports", "POST", SERVICES, service("x", json!({"selector": {"a": "b"}}))),
        step(
            "service bad ports",
            "POST",
            SERVICES,
            service("x", json!({"ports": [{"port": 70000}, {"port": 0, "name": "A"}]})),
        ),
        step(
            "service twin ports",
            "POST",
            SERVICES,
            service("x", json!({"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "a"}]})),
        ),
        step(
            "service bad protocol",
            "POST",
            SERVICES,
            service("x", json!({"ports": [{"port": 80, "protocol": "HTTP"}]})),
        ),
        step(
            "service bad type",
            "POST",
            SERVICES,
            service("x", json!({"type": "Other", "ports": [{"port": 80}]})),
        ),
        step(
            "service bad ip",
            "POST",
            SERVICES,
            service("x", json!({"clusterIP": "nowhere", "ports": [{"port": 80}]})),
        ),
        step(
            "service ip outside",
            "POST",
            SERVICES,
            service("x", json!({"clusterIP": "1.2.3.4", "ports": [{"port": 80}]})),
        ),
        step(
            "service bad external ip",
            "POST",
            SERVICES,
            service("x", json!({"externalIPs": ["nowhere"], "ports": [{"port": 80}]})),
        ),
        step("service bad name", "POST", SERVICES, service("a.b", json!({"ports": [{"port": 80}]}))),
        step("service port text", "POST", SERVICES, service("x", json!({"ports": [{"port": "80"}]}))),
        patch(
            "service strategic",
            web,
            STRATEGIC,
            json!({"spec": {"ports": [{"port": 80, "targetPort": 8080}, {"port": 81, "name": "b"}]}}),
        ),
        patch(
            "service strategic delete",
            web,
            STRATEGIC,
            json!({"spec": {"ports": [{"port": 81, "$patch": "delete"}]}}),
        ),
        step("service put keeps address", "PUT", web, service("web", json!({"ports": [{"port": 90}]}))),
        patch(
            "service address moved",
            web,
            MERGE,
            json!({"spec": {"clusterIP": "10.96.77.77", "clusterIPs": ["10.96.77.77"]}}),
        ),
        patch(
            "service status",
            "/api/v1/namespaces/shop/services/web/status",
            MERGE,
            json!({"spec": {"ports": [{"port": 1}]}, "status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}}),
        ),
        patch(
            "service spec keeps status",
            web,
            MERGE,
            json!({"metadata": {"labels": {"x": "y"}}, "status": {"loadBalancer": {}}}),
        ),
        step(
            "service node port",
            "POST",
            SERVICES,
            service("np", json!({"type": "NodePort", "ports": [{"port": 80}]})),
        ),
        patch(
            "service to external name",
            web,
            MERGE,
            json!({"spec": {"type": "ExternalName", "externalName": "a.b", "clusterIP": null, "clusterIPs": null}}),
        ),
        step("service delete", "DELETE", "/api/v1/namespaces/shop/services/headless", Value::Null),
        Step { accept: TABLE, ..get("service table", "/api/v1/namespaces/shop/services/gw") },
    ]
}

fn pods_and_slices() -> Vec<Step> {
    let pods = "/api/v1/namespaces/shop/pods";
    let slices = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"serviceAccountName": "default",
        "containers": [{"name": "c", "image": "i:1", "ports": [{"containerPort": 80}]}]}});
    vec![
        step("pod", "POST", pods, pod),
        step("pod empty", "POST", pods, json!({"metadata": {"name": "q"}, "spec": {"containers": []}})),
        step(
            "pod without image",
            "POST",
            pods,
            json!({"metadata": {"name": "q"}, "spec": {"containers": [{"name": "c"}]}}),
        ),
        patch(
            "pod status",
            "/api/v1/namespaces/shop/pods/p/status",
            MERGE,
            json!({"status": {"phase": "Running", "podIP": "10.1.0.5",
            "podIPs": [{"ip": "10.1.0.5"}], "conditions": [{"type": "Ready", "status": "True"}]}}),
        ),
        patch(
            "pod spec fixed",
            "/api/v1/namespaces/shop/pods/p",
            MERGE,
            json!({"spec": {"hostNetwork": true}}),
        ),
        get("pods by phase", "/api/v1/namespaces/shop/pods?fieldSelector=status.phase%3DPending"),
        step("pod delete", "DELETE", "/api/v1/namespaces/shop/pods/p?gracePeriodSeconds=0", Value::Null),
        step(
            "slice",
            "POST",
            slices,
            json!({"metadata": {"name": "s", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "endpoints": [{"addresses": ["10.1.0.5"], "conditions": {"ready": true}}], "ports": [{"port": 80}]}),
        ),
        step(
            "slice bad",
            "POST",
            slices,
            json!({"metadata": {"name": "t"}, "addressType": "IPv4", "endpoints": [{"addresses": ["x"]}]}),
        ),
        step("slice no type", "POST", slices, json!({"metadata": {"name": "t"}, "endpoints": []})),
        patch(
            "slice changed",
            "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices/s",
            MERGE,
            json!({"endpoints": []}),
        ),
        patch(
            "slice type changed",
            "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices/s",
            MERGE,
            json!({"addressType": "IPv6"}),
        ),
        step("node", "POST", "/api/v1/nodes", json!({"metadata": {"name": "n"}})),
    ]
}

fn tokens() -> Vec<Step> {
    let accounts = "/api/v1/namespaces/shop/serviceaccounts";
    let token = "/api/v1/namespaces/shop/serviceaccounts/web/token";
    vec![
        step("account", "POST", accounts, json!({"metadata": {"name": "web"}})),
        step("token", "POST", token, json!({"spec": {"audiences": ["x"], "expirationSeconds": 600}})),
        step("token short", "POST", token, json!({"spec": {"expirationSeconds": 60}})),
        step(
            "token of nobody",
            "POST",
            "/api/v1/namespaces/shop/serviceaccounts/none/token",
            json!({"spec": {}}),
        ),
        step(
            "token bound to nothing",
            "POST",
            token,
            json!({"spec": {"boundObjectRef": {"kind": "Secret", "apiVersion": "v1", "name": "none"}}}),
        ),
        step(
            "token bound to another kind",
            "POST",
            token,
            json!({"spec": {"boundObjectRef": {"kind": "Service", "apiVersion": "v1", "name": "web"}}}),
        ),
        step("review nothing", "POST", "/apis/authentication.k8s.io/v1/tokenreviews", json!({"spec": {}})),
        step(
            "access",
            "POST",
            "/apis/authorization.k8s.io/v1/subjectaccessreviews",
            json!({"spec": {"user": "nobody",
            "resourceAttributes": {"verb": "get", "resource": "pods"}}}),
        ),
    ]
}

fn custom() -> Vec<Step> {
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
