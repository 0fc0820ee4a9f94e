//! Services.

use serde_json::{Value, json};

use super::{MERGE, STRATEGIC, Step, TABLE, get, patch, step};

const SERVICES: &str = "/api/v1/namespaces/shop/services";

pub(super) fn steps() -> Vec<Step> {
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
