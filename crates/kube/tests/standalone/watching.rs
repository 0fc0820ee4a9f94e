//! Watches.

use isthmus_kube::watch::MESH_KINDS;
use isthmus_lifecycle::{Readiness, SystemClock};
use isthmus_resources::{Change, Kind, Object};
use serde_json::json;

use crate::world::{networking, soon, with_crds, world};

#[tokio::test]
async fn a_watch_lists_once_and_then_tells_changes() {
    let world = world().await;
    world.namespace("web").await;
    let spec = json!({"hosts": ["a.example"], "resolution": "DNS"});
    world.networking(Kind::ServiceEntry, "web", "a", spec).await;
    let mut events = world.watch(&[Kind::ServiceEntry]);
    let Change::Listed(Kind::ServiceEntry, list) = events.next().await else {
        panic!("the list comes first")
    };
    assert_eq!(list.len(), 1);

    let spec = json!({"hosts": ["b.example"], "resolution": "DNS"});
    world.networking(Kind::ServiceEntry, "web", "b", spec).await;
    assert!(
        matches!(events.next().await, Change::Applied(Object::ServiceEntry(entry)) if &*entry.meta.name == "b")
    );
    world.admin.delete(Kind::ServiceEntry, Some("web"), "a", Default::default()).await.unwrap();
    assert!(matches!(events.next().await, Change::Removed(Kind::ServiceEntry, _, name) if &*name == "a"));
}

#[tokio::test]
async fn kinds_that_are_not_installed_hold_nothing_up() {
    let world = with_crds(Vec::new()).await;
    let readiness = Readiness::new();
    let mut events = world.watch_with(&MESH_KINDS, Some(&readiness), None);
    let mut listed = 0;
    while listed < MESH_KINDS.len() {
        if let Change::Listed(kind, list) = events.next().await {
            assert!(list.is_empty() || !kind.is_custom());
            listed += 1;
        }
    }
    soon("readiness", readiness.ready()).await;
    assert!(events.status.awaited().is_empty());
}

#[tokio::test]
async fn a_peer_where_its_kind_is_not_installed_is_told_what_installs_it() {
    let world = with_crds(Vec::new()).await;
    assert!(world.admin.peers().await.unwrap().is_empty());
    let error = world.admin.put_peer("west", &Default::default()).await.unwrap_err().to_string();
    assert!(error.contains("isthmus crds"), "{error}");
}

#[tokio::test]
async fn a_bad_object_is_rejected_by_name_and_its_last_good_state_stays() {
    let world = world().await;
    world.namespace("web").await;
    let good = json!({"hosts": ["a.example"], "resolution": "DNS"});
    world.networking(Kind::ServiceEntry, "web", "a", good).await;
    let mut events = world.watch(&[Kind::ServiceEntry]);
    events.next().await;

    // The schema lets a wildcard host pass; it cannot be resolved by DNS.
    let bad = json!({"hosts": ["*.example"], "resolution": "DNS"});
    world.networking(Kind::ServiceEntry, "web", "a", bad).await;
    let neighbour = json!({"hosts": ["n.example"], "resolution": "DNS"});
    world.networking(Kind::ServiceEntry, "web", "n", neighbour).await;
    let Change::Applied(next) = events.next().await else { panic!("the neighbour comes next") };
    assert_eq!(&*next.meta().name, "n", "nothing is said of the bad one");
    let rejections = events.status.rejections();
    assert_eq!(rejections.len(), 1);
    assert_eq!(rejections[0].1.object, "web/a");
    assert!(rejections[0].1.problem.contains("spec.hosts[0]"), "{}", rejections[0].1.problem);
    assert_eq!(events.status.rejected_total(Kind::ServiceEntry), 1);

    let better = json!({"hosts": ["b.example"], "resolution": "DNS"});
    world.networking(Kind::ServiceEntry, "web", "a", better).await;
    let Change::Applied(next) = events.next().await else { panic!("the better one comes") };
    assert_eq!(&*next.meta().name, "a");
    assert!(events.status.rejections().is_empty());
}

#[tokio::test]
async fn what_is_not_enforced_says_so_in_its_status_once() {
    let world = world().await;
    world.namespace("web").await;
    let findings =
        isthmus_kube::conditions::writer(&world.cluster, std::sync::Arc::new(SystemClock), &world.tasks);
    let mut events = world.watch_with(&[Kind::EnvoyFilter], None, Some(findings));
    events.next().await;
    world.networking(Kind::EnvoyFilter, "web", "f", json!({"configPatches": []})).await;
    events.next().await;
    let condition = async {
        loop {
            let object = world.get(Kind::EnvoyFilter, "web", "f").await.unwrap();
            if let Some(condition) = object["status"]["conditions"].get(0) {
                return (condition.clone(), object["metadata"]["resourceVersion"].clone());
            }
            tokio::task::yield_now().await;
        }
    };
    let (condition, version) = soon("the condition", condition).await;
    assert_eq!(condition["type"], "NotEnforced");
    assert_eq!(condition["status"], "True");

    // The write itself is a change, which must not lead to another write: a later object is seen and this one is as it was.
    world.networking(Kind::EnvoyFilter, "web", "g", json!({"configPatches": []})).await;
    events.find("the second filter", |object| (&*object.meta().name == "g").then_some(())).await;
    let object = world.get(Kind::EnvoyFilter, "web", "f").await.unwrap();
    assert_eq!(object["metadata"]["resourceVersion"], version);
}

#[tokio::test]
async fn an_error_names_the_object_and_what_is_wrong() {
    let world = world().await;
    let object = networking(Kind::ServiceEntry, "nowhere", "a", json!({"hosts": ["a.example"]}));
    let error = world.admin.create(Kind::ServiceEntry, object).await.unwrap_err().to_string();
    assert!(error.starts_with("creating ServiceEntry nowhere/a: not found: "), "{error}");
}
