//! The controller without an API server: changes in, writes out.

use serde_json::json;

use super::*;
use crate::parse;

fn object(value: Value) -> Object {
    parse(value).unwrap()
}

fn service(target: &Value) -> Object {
    object(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "reviews", "namespace": "web", "uid": "s1", "labels": {"app": "reviews"}},
        "spec": {"clusterIP": "10.96.0.1", "selector": {"app": "reviews"}, "ports": [{"name": "http", "port": 80, "targetPort": target}]},
    }))
}

fn pod(name: &str, ip: &str, port: u16, ready: bool) -> Object {
    object(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "web", "uid": name, "labels": {"app": "reviews"}},
        "spec": {"nodeName": "n1", "containers": [{"ports": [{"name": "web", "containerPort": port}]}]},
        "status": {"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
    }))
}

fn puts(slices: &Slices) -> Vec<Value> {
    let actions = slices.plan(&("web".to_string(), "reviews".to_string()));
    actions
        .into_iter()
        .map(|action| match action {
            Action::Put(object) => object,
            other => panic!("{other:?}"),
        })
        .collect()
}

/// As if the writes had come back by the watch.
fn settle(slices: &mut Slices) {
    for put in puts(slices) {
        slices.applied(object(put));
    }
}

#[test]
fn a_service_without_pods_has_one_empty_slice() {
    let mut slices = Slices::default();
    slices.applied(service(&json!(9080)));
    let puts = puts(&slices);
    assert_eq!(puts.len(), 1);
    assert_eq!(puts[0]["endpoints"], json!([]));
    assert_eq!(puts[0]["metadata"]["labels"][SERVICE_NAME_LABEL], "reviews");
    assert_eq!(puts[0]["metadata"]["ownerReferences"][0]["uid"], "s1");
}

#[test]
fn what_is_written_once_is_not_written_again() {
    let mut slices = Slices::default();
    slices.applied(service(&json!(9080)));
    slices.applied(pod("a", "10.0.0.1", 9080, true));
    slices.applied(pod("b", "10.0.0.2", 9080, false));
    let puts = puts(&slices);
    assert_eq!(puts.len(), 1);
    assert_eq!(puts[0]["ports"], json!([{"name": "http", "protocol": "TCP", "port": 9080}]));
    let ready: Vec<&Value> =
        puts[0]["endpoints"].as_array().unwrap().iter().map(|e| &e["conditions"]["ready"]).collect();
    assert_eq!(ready, [&json!(true), &json!(false)]);
    settle(&mut slices);
    assert_eq!(slices.plan(&("web".to_string(), "reviews".to_string())), []);
}

#[test]
fn pods_whose_named_port_differs_get_slices_of_their_own() {
    let mut slices = Slices::default();
    slices.applied(service(&json!("web")));
    slices.applied(pod("a", "10.0.0.1", 8080, true));
    slices.applied(pod("b", "10.0.0.2", 9090, true));
    let ports: Vec<Value> = puts(&slices).iter().map(|slice| slice["ports"][0]["port"].clone()).collect();
    assert_eq!(ports, [json!(8080), json!(9090)]);
}

#[test]
fn more_than_a_hundred_pods_take_more_than_one_slice() {
    let mut slices = Slices::default();
    slices.applied(service(&json!(9080)));
    for number in 0..150 {
        slices.applied(pod(&format!("p{number:03}"), &format!("10.0.1.{number}"), 9080, true));
    }
    let sizes: Vec<usize> =
        puts(&slices).iter().map(|slice| slice["endpoints"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [100, 50]);
}

#[test]
fn a_change_of_a_pod_touches_the_services_that_select_it() {
    let mut slices = Slices::default();
    slices.applied(service(&json!(9080)));
    slices.dirty.clear();
    let mut other = pod("x", "10.0.0.9", 9080, true);
    if let Object::Pod(inner) = &mut other {
        Arc::make_mut(inner).meta.labels = [("app", "other")].into_iter().collect();
    }
    slices.applied(other);
    assert!(slices.dirty.is_empty());
    slices.applied(pod("x", "10.0.0.9", 9080, true));
    assert_eq!(slices.dirty.len(), 1);
    slices.dirty.clear();
    slices.removed(Kind::Pod, &("web".to_string(), "x".to_string()));
    assert_eq!(slices.dirty.len(), 1);
}

#[test]
fn slices_of_a_service_that_is_gone_are_deleted_and_others_left() {
    let mut slices = Slices::default();
    slices.applied(service(&json!(9080)));
    settle(&mut slices);
    let foreign = object(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "by-hand", "namespace": "web", "labels": {SERVICE_NAME_LABEL: "reviews"}},
        "addressType": "IPv4", "endpoints": [], "ports": [],
    }));
    slices.applied(foreign);
    let key = ("web".to_string(), "reviews".to_string());
    slices.removed(Kind::Service, &key);
    let actions = slices.plan(&key);
    assert!(matches!(&actions[..], [Action::Delete((_, name))] if name != "by-hand"), "{actions:?}");
}

#[test]
fn a_new_list_drops_what_it_does_not_have() {
    let mut slices = Slices::default();
    slices.applied(service(&json!(9080)));
    slices.applied(pod("a", "10.0.0.1", 9080, true));
    slices.apply(Change::Listed(Kind::Pod, vec![pod("b", "10.0.0.2", 9080, true)]));
    let puts = puts(&slices);
    assert_eq!(puts[0]["endpoints"].as_array().unwrap().len(), 1);
    assert_eq!(puts[0]["endpoints"][0]["addresses"], json!(["10.0.0.2"]));
}
