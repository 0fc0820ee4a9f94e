//! MeshConfig and MeshNetworks while a control plane runs; and what it says of Gateway objects that lose to others.

use std::sync::Arc;

use isthmus_proto::type_url::LISTENER;
use isthmus_resources::Kind;
use isthmus_testkit::MeshCa;
use serde_json::{Value, json};

use crate::plane::{Plane, Site, until};
use crate::streams::{Stream, node};

fn config_map(name: &str, mesh: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "istio-system"},
        "data": { "mesh": mesh },
    })
}

/// How MeshConfig is, as `isthmus status` reads it.
async fn report(plane: &Plane) -> Value {
    let text = plane.admin.raw_get("/debug/isthmus/status").await.unwrap();
    let status: Value = serde_json::from_str(&text).unwrap();
    status["configuration"][0].clone()
}

/// Where the proxy sends what nobody declared.
async fn unknown(plane: &Plane) -> Option<String> {
    let path = "/debug/isthmus/proxy/shop/web-1?type=listeners";
    let page = plane.admin.raw_get(path).await.ok()?;
    let both = ["PassthroughCluster", "BlackHoleCluster"];
    let page: Value = serde_json::from_str(&page).unwrap();
    let all = page["listeners"].as_array()?;
    let outbound = all.iter().find(|one| one["name"] == "virtualOutbound")?;
    let last = outbound["chains"].as_array()?.last()?.to_string();
    both.into_iter().find(|name| last.contains(name)).map(String::from)
}

async fn reaches(plane: &Plane, cluster: &str) {
    until(cluster, || async { (unknown(plane).await? == cluster).then_some(()) }).await;
}

#[tokio::test]
async fn a_config_map_is_followed_and_a_bad_one_changes_nothing_but_the_report() {
    let plane = Plane::start().await;
    let channel = plane.channel(&plane.site.ca.workload("east", "shop/web")).await;
    let mut stream =
        Stream::open(&channel, &node("shop", "web", &[("ISTHMUS_REGISTER", "pod")])).await.unwrap();
    stream.ask(LISTENER, None).await;
    stream.name(LISTENER, |name| name == "virtualOutbound").await;
    reaches(&plane, "PassthroughCluster").await;
    plane.create(Kind::ConfigMap, config_map("istio", "outboundTrafficPolicy: {mode: REGISTRY_ONLY}")).await;
    reaches(&plane, "BlackHoleCluster").await;
    assert_eq!(report(&plane).await["source"], "ConfigMap istio-system/istio");

    let bad = config_map("istio", "{outboundTrafficPolicy: {mode: ALLOW_ANY}, connectTimeout: soon}");
    plane.admin.put(Kind::ConfigMap, bad).await.unwrap();
    until("the refusal", || async {
        let error = report(&plane).await["error"].as_str()?.to_string();
        error.starts_with("mesh config: connectTimeout: ").then_some(())
    })
    .await;
    let metrics = plane.metrics().await;
    assert!(metrics.contains("isthmus_mesh_document_refused{document=\"MeshConfig\"} 1"), "{metrics}");
    assert_eq!(unknown(&plane).await.unwrap(), "BlackHoleCluster");

    let idle = config_map("istio", "{novelty: 1, trustDomain: other.example}");
    plane.admin.put(Kind::ConfigMap, idle).await.unwrap();
    reaches(&plane, "PassthroughCluster").await;
    let told = report(&plane).await;
    assert_eq!(told["error"], Value::Null);
    let fields = told["notInForce"].as_array().unwrap();
    assert_eq!(fields[0], "novelty");
    assert!(
        fields[1].as_str().unwrap().starts_with("trustDomain other.example (now cluster.local"),
        "{told}"
    );

    let strict = config_map("istio", "outboundTrafficPolicy: {mode: REGISTRY_ONLY}");
    plane.admin.put(Kind::ConfigMap, strict).await.unwrap();
    reaches(&plane, "BlackHoleCluster").await;
    plane.admin.delete(Kind::ConfigMap, Some("istio-system"), "istio", Default::default()).await.unwrap();
    reaches(&plane, "PassthroughCluster").await;
    plane.stop().await;
}

#[tokio::test]
async fn files_come_before_the_config_map_and_are_followed_too() {
    let site = Site::new(&Arc::new(MeshCa::new()), "east");
    let file = site.file("mesh.yaml");
    let flags = ["--mesh-config", file.to_str().unwrap(), "--revision", "canary"];
    let flags: Vec<&str> = flags.into();
    std::fs::write(&file, "outboundTrafficPolicy: {mode: REGISTRY_ONLY}").unwrap();
    let plane = Plane::over(site, &flags).await;
    plane.admin.ensure_namespace("shop").await.unwrap();
    plane.admin.ensure_service_account("shop", "web").await.unwrap();
    // Of the ConfigMap only MeshNetworks count; those of another revision do not.
    let networks = |name: &str, text: &str| {
        let mut map = config_map(name, "outboundTrafficPolicy: {mode: ALLOW_ANY}");
        map["data"]["meshNetworks"] = json!(text);
        map
    };
    plane.create(Kind::ConfigMap, networks("istio", "networks: {'': {}}")).await;
    plane.create(Kind::ConfigMap, networks("istio-canary", "networks: {a: {gateways: [{}]}}")).await;
    until("the other document's refusal", || async {
        let text = plane.admin.raw_get("/debug/isthmus/status").await.unwrap();
        let status: Value = serde_json::from_str(&text).unwrap();
        let error = status["configuration"][1]["error"].as_str()?.to_string();
        error.contains("networks.a.gateways[0].port").then_some(())
    })
    .await;
    assert_eq!(report(&plane).await["error"], Value::Null);

    let name = "canary.east.federation.isthmus.internal".to_string();
    let channel =
        crate::plane::channel_to(plane.grpc, name, &plane.site.ca.workload("east", "shop/web")).await;
    let mut stream =
        Stream::open(&channel, &node("shop", "web", &[("ISTHMUS_REGISTER", "pod")])).await.unwrap();
    stream.ask(LISTENER, None).await;
    stream.name(LISTENER, |name| name == "virtualOutbound").await;
    reaches(&plane, "BlackHoleCluster").await;
    std::fs::write(&file, "outboundTrafficPolicy: {mode: NONE_SUCH}").unwrap();
    until("the refusal", || async { report(&plane).await["error"].as_str().map(|_| ()) }).await;
    assert_eq!(unknown(&plane).await.unwrap(), "BlackHoleCluster");
    std::fs::write(&file, "{}").unwrap();
    reaches(&plane, "PassthroughCluster").await;
    plane.stop().await;
}

#[tokio::test]
async fn a_gateway_object_that_loses_says_so_until_it_loses_no_more() {
    let plane = Plane::start().await;
    let gateway = |name: &str, tls: Value, protocol: &str| {
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "Gateway",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"selector": {"app": "gw"}, "servers": [{
                "port": {"number": 9443, "name": "one", "protocol": protocol}, "hosts": ["a.example"], "tls": tls,
            }]},
        })
    };
    let condition = async |name: &str| {
        let object = plane.get(Kind::Gateway, name).await?;
        let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        Some(all.into_iter().find(|one| one["type"] == "Conflicted"))
    };
    let passed = json!({"mode": "PASSTHROUGH"});
    // Of two that were made in one second the first by name is the older.
    plane.create(Kind::Gateway, gateway("a", passed.clone(), "TLS")).await;
    plane.create(Kind::Gateway, gateway("b", passed.clone(), "TLS")).await;
    plane.create(Kind::Gateway, gateway("c", Value::Null, "TCP")).await;
    let lost = until("the conflict", || async { condition("b").await.flatten() }).await;
    assert_eq!((&lost["status"], &lost["reason"]), (&json!("True"), &json!("OlderObject")));
    let message = lost["message"].as_str().unwrap();
    assert!(message.contains("port 9443: Gateway shop/a, which is older, has host */a.example"), "{message}");
    assert!(lost["lastTransitionTime"].is_string());
    let other = until("the other conflict", || async { condition("c").await.flatten() }).await;
    assert!(other["message"].as_str().unwrap().contains("for another protocol"), "{other}");
    assert_eq!(condition("a").await.unwrap(), None);

    plane.admin.delete(Kind::Gateway, Some("shop"), "a", Default::default()).await.unwrap();
    until("the end of the conflict", || async { condition("b").await?.is_none().then_some(()) }).await;
    until("the new owner", || async {
        let lost = condition("c").await.flatten()?;
        lost["message"].as_str()?.contains("Gateway shop/b").then_some(())
    })
    .await;
    plane.stop().await;
}
