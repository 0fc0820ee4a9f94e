//! A real API server over an etcd that was filled below it.

use serde_json::Value;

use super::*;
use crate::xds::world::{self, Write};

/// Of an object, what no two objects share.
fn own(mut object: Value) -> Value {
    for pointer in ["/metadata/uid", "/metadata/resourceVersion", "/metadata/creationTimestamp"] {
        let value = object.pointer_mut(pointer).unwrap();
        assert!(!value.take().as_str().unwrap_or_default().is_empty(), "{pointer}");
    }
    for pointer in ["/metadata/managedFields/0/time", "/metadata/managedFields/1/time"] {
        if let Some(value) = object.pointer_mut(pointer) {
            value.take();
        }
    }
    for pointer in ["/spec/clusterIP", "/spec/clusterIPs/0"] {
        if let Some(value) = object.pointer_mut(pointer) {
            assert!(value.take().as_str().unwrap().starts_with("10.96."));
        }
    }
    object
}

/// The same text with other names, and back.
fn renamed(text: &str, back: bool) -> String {
    let names = [("ns-0", "ns-9"), ("svc-0", "svc-9"), ("node-", "knot-")];
    names.iter().fold(text.to_string(), |text, (ours, others)| {
        if back { text.replace(others, ours) } else { text.replace(ours, others) }
    })
}

fn path(write: &Write) -> String {
    format!("{}/{}", write.path, write.object["metadata"]["name"].as_str().unwrap())
}

#[tokio::test]
async fn objects_written_below_an_api_server_are_shown_as_if_they_had_been_created() {
    let bin = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kube/bin");
    if !bin.join("kube-apiserver").exists() {
        eprintln!(
            "no Kubernetes in tests/kube/bin (make kube-assets builds it): filling its etcd is not tested"
        );
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let shape = Shape { services: 1, endpoints: 2, namespaces: 1, selectors: true };
    let kubernetes = Kubernetes::start(&bin, folder.path(), shape, |_| ()).await.unwrap();
    let mut connection = kubernetes.api.connect().await.unwrap();
    let mut written = world::foundations(shape);
    written.extend(world::service(shape, 0));
    for write in written {
        let path = path(&write);
        let below = own(connection.get(&path).await.unwrap());
        let other = Write {
            path: renamed(&write.path, false),
            object: renamed(&write.object.to_string(), false).parse().unwrap(),
            status: write.status.map(|status| renamed(&status, false)),
        };
        connection.write(&other).await.unwrap();
        let shown = connection.get(&renamed(&path, false)).await.unwrap().to_string();
        assert_eq!(below, own(renamed(&shown, true).parse().unwrap()), "{path}");
    }

    let addresses = connection.get("/apis/networking.k8s.io/v1/ipaddresses").await.unwrap();
    let service = connection.get("/api/v1/namespaces/ns-0/services/svc-0").await.unwrap();
    let given = addresses["items"].as_array().unwrap().iter().find(|item| {
        item["spec"]["parentRef"]["name"] == "svc-0"
            && item["metadata"]["name"] == service["spec"]["clusterIP"]
    });
    assert!(given.is_some(), "{addresses}");

    // A list in pages has them all.
    let page = connection.get("/api/v1/namespaces/ns-0/pods?limit=1").await.unwrap();
    let rest = page["metadata"]["continue"].as_str().unwrap();
    let rest =
        connection.get(&format!("/api/v1/namespaces/ns-0/pods?limit=5&continue={rest}")).await.unwrap();
    let names = [&page, &rest].map(|page| page["items"][0]["metadata"]["name"].as_str().unwrap());
    assert_eq!(names, ["svc-0-0", "svc-0-1"]);
}
