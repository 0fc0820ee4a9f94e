//! Controllers.

use isthmus_kube::controllers::roots::{self, ROOT_CONFIG_MAP, ROOT_KEY};
use isthmus_kube::controllers::{self, Which};
use isthmus_resources::mesh::{Mesh, MeshConfig};
use isthmus_resources::{Kind, Object};
use serde_json::json;

use crate::world::{soon, world};

#[tokio::test]
async fn pods_of_a_selector_are_endpoints_of_its_service() {
    let world = world().await;
    world.namespace("web").await;
    controllers::run(&world.cluster, "east".parse().unwrap(), Which::Standalone, &world.tasks);
    let mut slices = world.watch(&[Kind::EndpointSlice]);
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "reviews", "namespace": "web"},
        "spec": {"selector": {"app": "reviews"}, "ports": [{"name": "http", "port": 80, "targetPort": "web"}]},
    });
    world.create(Kind::Service, service).await;
    let sizes = |object: &Object, wanted: usize| match object {
        Object::EndpointSlice(slice) if slice.spec.endpoints.len() == wanted => Some(slice.spec.clone()),
        _ => None,
    };
    slices.find("the empty slice", |object| sizes(object, 0)).await;

    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "reviews-v1", "namespace": "web", "labels": {"app": "reviews"}},
        "spec": {"containers": [{"name": "app", "image": "x", "ports": [{"name": "web", "containerPort": 9080}]}]},
    });
    world.create(Kind::Pod, pod).await;
    let status = json!({"status": {
        "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }});
    world.admin.merge(Kind::Pod, Some("web"), "reviews-v1", Some("status"), status).await.unwrap();
    let full = slices.find("the endpoint", |object| sizes(object, 1)).await;
    assert_eq!(*full.ports, [("http".into(), 9080)]);
    assert!(full.endpoints[0].ready);
    assert_eq!(full.endpoints[0].pod, Some(("web".into(), "reviews-v1".into())));

    world.admin.delete(Kind::Pod, Some("web"), "reviews-v1", Default::default()).await.unwrap();
    slices.find("the empty slice", |object| sizes(object, 0)).await;
    world.admin.delete(Kind::Service, Some("web"), "reviews", Default::default()).await.unwrap();
    let gone = async {
        while !world.admin.list(Kind::EndpointSlice, Some("web"), None).await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    crate::world::soon("the slices' removal", gone).await;
}

#[tokio::test]
async fn service_entries_get_addresses_and_keep_them() {
    let world = world().await;
    world.namespace("web").await;
    let spec =
        |host: &str| json!({"hosts": [host], "ports": [{"number": 443, "name": "tls"}], "resolution": "DNS"});
    world.networking(Kind::ServiceEntry, "web", "a", spec("a.example")).await;
    controllers::run(&world.cluster, "east".parse().unwrap(), Which::Kubernetes, &world.tasks);
    let mut entries = world.watch(&[Kind::ServiceEntry]);
    let addresses = |object: &Object, name: &str| match object {
        Object::ServiceEntry(entry)
            if &*entry.meta.name == name && entry.spec.status.addresses.len() == 2 =>
        {
            Some(entry.spec.status.addresses[0].value.clone())
        }
        _ => None,
    };
    assert_eq!(entries.find("the first address", |object| addresses(object, "a")).await, "240.240.0.1");
    world.networking(Kind::ServiceEntry, "web", "b", spec("b.example")).await;
    assert_eq!(entries.find("the second address", |object| addresses(object, "b")).await, "240.240.0.2");
    let first = world.get(Kind::ServiceEntry, "web", "a").await.unwrap();
    assert_eq!(first["status"]["addresses"][1], json!({"value": "2001:2::1", "host": "a.example"}));
}

#[tokio::test]
async fn every_namespace_of_the_mesh_has_its_roots_whatever_becomes_of_the_config_map() {
    let world = world().await;
    for name in ["web", "kube-system", "lab"] {
        world.namespace(name).await;
    }
    let isolated = json!({"metadata": {"labels": {"isolated": "yes"}}});
    world.admin.merge(Kind::Namespace, None, "lab", None, isolated).await.unwrap();
    let selectors = "discoverySelectors: [{matchExpressions: [{key: isolated, operator: DoesNotExist}]}]";
    let (config, _) = MeshConfig::read(selectors).unwrap();
    let mesh = tokio::sync::watch::Sender::new(Mesh { config, ..Mesh::default() });
    let id = "east".parse().unwrap();
    roots::run(&world.cluster, id, "PEM".to_string(), mesh.subscribe(), &world.tasks);
    let found = async |namespace: &str| world.admin.config_map(namespace, ROOT_CONFIG_MAP).await.unwrap();
    let good = async |what: &str, namespace: &str| {
        let look = async {
            loop {
                match found(namespace).await {
                    Some(data) if data.get(ROOT_KEY).is_some_and(|pem| pem == "PEM") => return data,
                    _ => tokio::task::yield_now().await,
                }
            }
        };
        soon(what, look).await
    };
    good("the first", "web").await;
    let object = world.get(Kind::ConfigMap, "web", ROOT_CONFIG_MAP).await.unwrap();
    assert_eq!(object["metadata"]["labels"]["istio.io/config"], "true");
    world.namespace("later").await;
    good("that of a later namespace", "later").await;
    let other = json!({"data": {ROOT_KEY: "another's", "own": "kept"}});
    world.admin.merge(Kind::ConfigMap, Some("web"), ROOT_CONFIG_MAP, None, other).await.unwrap();
    assert_eq!(good("a changed one", "web").await["own"], "kept");
    world.admin.delete(Kind::ConfigMap, Some("later"), ROOT_CONFIG_MAP, Default::default()).await.unwrap();
    good("a deleted one", "later").await;
    assert_eq!((found("kube-system").await, found("lab").await), (None, None));
    mesh.send_replace(Mesh::default());
    good("that of a namespace which was let in", "lab").await;
}
