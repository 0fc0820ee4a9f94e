//! Pods, EndpointSlices, Nodes; ServiceAccounts, their tokens and what these may.

use serde_json::{Value, json};

use super::{MERGE, Step, get, patch, step};

pub(super) fn pods_and_slices() -> Vec<Step> {
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

pub(super) fn tokens() -> Vec<Step> {
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
