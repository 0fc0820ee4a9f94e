//! Registration of Pods and WorkloadEntries.

use std::time::Duration;

use isthmus_kube::api::LEASE;
use isthmus_kube::registration::{
    Registrar, RegistrarConfig, Registration, RegistrationError, RegistrationRequest,
};
use isthmus_lifecycle::{Drain, TaskGroup};
use isthmus_model::Locality;
use isthmus_resources::{Kind, Object};
use serde_json::json;

use crate::world::{World, soon, world};

fn registrar(world: &World, grace: Duration) -> Registrar {
    let config = RegistrarConfig { grace, ..RegistrarConfig::new("primary") };
    Registrar::new(world.cluster.clone(), config, world.tasks.clone())
}

fn request(registration: Registration, account: &str) -> RegistrationRequest {
    RegistrationRequest {
        registration,
        namespace: "web".parse().unwrap(),
        name: "reviews-v1".to_string(),
        service_account: account.to_string(),
        identity: format!("spiffe://cluster.local/ns/web/sa/{account}").parse().unwrap(),
        ips: vec!["192.0.2.7".parse().unwrap()],
        network: "east".parse().unwrap(),
        locality: Locality::parse("r/z"),
        labels: [("app", "reviews")].into_iter().collect(),
        ports: vec![("http".to_string(), 9080)],
        node: None,
        health_checked: true,
    }
}

async fn prepared(accounts: &[&str]) -> World {
    let world = world().await;
    world.namespace("web").await;
    for account in accounts {
        world.admin.ensure_service_account("web", account).await.unwrap();
    }
    world
}

const LONG: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(50);

fn is_ready(object: &Object, wanted: bool) -> Option<()> {
    match object {
        Object::Pod(pod) if pod.spec.ready == wanted && !pod.spec.ips.is_empty() => Some(()),
        _ => None,
    }
}

#[tokio::test]
async fn a_stream_becomes_a_pod_that_is_ready_when_its_agent_says_so() {
    let world = prepared(&["reviews"]).await;
    let registrar = registrar(&world, LONG);
    let mut pods = world.watch(&[Kind::Pod]);
    let registered = registrar.connect(request(Registration::Pod, "reviews")).await.unwrap();
    assert_eq!(registered.object(), "web/reviews-v1");
    pods.find("the unready pod", |object| is_ready(object, false)).await;
    let pod = world.get(Kind::Pod, "web", "reviews-v1").await.unwrap();
    assert_eq!(pod["spec"]["serviceAccountName"], "reviews");
    assert_eq!(pod["status"]["podIPs"], json!([{"ip": "192.0.2.7"}]));
    assert_eq!(pod["metadata"]["labels"]["security.istio.io/tlsMode"], "istio");
    assert_eq!(pod["metadata"]["labels"]["topology.istio.io/network"], "east");
    let lease = world.admin.get(LEASE, Some("web"), "reviews-v1").await.unwrap().unwrap();
    assert_eq!(lease["spec"]["holderIdentity"], "primary");

    registrar.health(&registered, true, "").await.unwrap();
    pods.find("the ready pod", |object| is_ready(object, true)).await;
    registrar.health(&registered, false, "connection refused").await.unwrap();
    pods.find("the unready pod", |object| is_ready(object, false)).await;
}

#[tokio::test]
async fn a_pod_goes_after_the_grace_and_its_record_with_it() {
    let world = prepared(&["reviews"]).await;
    let registrar = registrar(&world, SHORT);
    let mut pods = world.watch(&[Kind::Pod]);
    let registered = registrar.connect(request(Registration::Pod, "reviews")).await.unwrap();
    registrar.disconnect(registered);
    pods.removal("the pod's removal", "reviews-v1").await;
    assert!(world.admin.get(LEASE, Some("web"), "reviews-v1").await.unwrap().is_none());
    assert!(registrar.connected().is_empty());
}

#[tokio::test]
async fn a_workload_that_is_back_within_the_grace_keeps_its_object() {
    let world = prepared(&["reviews"]).await;
    let registrar = registrar(&world, LONG);
    let first = registrar.connect(request(Registration::Pod, "reviews")).await.unwrap();
    registrar.health(&first, true, "").await.unwrap();
    let before = world.get(Kind::Pod, "web", "reviews-v1").await.unwrap();
    registrar.disconnect(first);
    let mut moved = request(Registration::Pod, "reviews");
    moved.ips = vec!["192.0.2.8".parse().unwrap()];
    let _second = registrar.connect(moved).await.unwrap();
    let after = world.get(Kind::Pod, "web", "reviews-v1").await.unwrap();
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(after["status"]["podIP"], "192.0.2.8");
    let ready =
        after["status"]["conditions"].as_array().unwrap().iter().find(|entry| entry["type"] == "Ready");
    assert_eq!(ready.unwrap()["status"], "True", "health holds until the agent says otherwise");
}

#[tokio::test]
async fn the_end_of_an_older_stream_takes_nothing_from_a_newer_one() {
    let world = prepared(&["reviews"]).await;
    let registrar = registrar(&world, Duration::ZERO);
    let first = registrar.connect(request(Registration::Pod, "reviews")).await.unwrap();
    let _second = registrar.connect(request(Registration::Pod, "reviews")).await.unwrap();
    registrar.disconnect(first);
    assert_eq!(registrar.connected(), ["web/reviews-v1"]);
    assert!(world.get(Kind::Pod, "web", "reviews-v1").await.is_some());
}

#[tokio::test]
async fn a_name_belongs_to_the_identity_that_has_it() {
    let world = prepared(&["reviews", "intruder"]).await;
    let registrar = registrar(&world, LONG);
    let _first = registrar.connect(request(Registration::Pod, "reviews")).await.unwrap();
    let error = registrar.connect(request(Registration::Pod, "intruder")).await.unwrap_err();
    assert!(matches!(error, RegistrationError::NameTaken { .. }), "{error}");
    assert!(error.to_string().contains("spiffe://cluster.local/ns/web/sa/reviews"), "{error}");
    let pod = world.get(Kind::Pod, "web", "reviews-v1").await.unwrap();
    assert_eq!(pod["spec"]["serviceAccountName"], "reviews");
}

#[tokio::test]
async fn a_pod_that_nobody_registered_is_left_alone() {
    let world = prepared(&["reviews"]).await;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "reviews-v1", "namespace": "web"},
        "spec": {"serviceAccountName": "reviews", "containers": [{"name": "app", "image": "real"}]},
    });
    world.create(Kind::Pod, pod).await;
    let registrar = registrar(&world, LONG);
    let error = registrar.connect(request(Registration::Pod, "reviews")).await.unwrap_err();
    assert!(matches!(error, RegistrationError::NameTaken { .. }), "{error}");
}

#[tokio::test]
async fn what_is_missing_is_named_with_the_command_that_makes_it() {
    let world = prepared(&[]).await;
    let registrar = registrar(&world, LONG);
    let error = registrar.connect(request(Registration::Pod, "reviews")).await.unwrap_err().to_string();
    assert!(error.contains("kubectl create serviceaccount -n web reviews"), "{error}");
    let group = Registration::Group("none".to_string());
    let error = registrar.connect(request(group, "reviews")).await.unwrap_err();
    assert!(matches!(error, RegistrationError::Missing { .. }), "{error}");
    assert!(registrar.connected().is_empty());
}

async fn with_group() -> World {
    let world = prepared(&["mysql"]).await;
    let group = json!({
        "metadata": {"labels": {"app": "mysqldb"}},
        "template": {"serviceAccount": "mysql", "ports": {"tcp": 3306}},
        "probe": {"tcpSocket": {"port": 3306}},
    });
    world.networking(Kind::WorkloadGroup, "web", "mysql", group).await;
    world
}

const ENTRY: &str = "mysql-192.0.2.7-east";

#[tokio::test]
async fn a_vm_becomes_an_entry_of_its_group_and_its_health_decides() {
    let world = with_group().await;
    let registrar = registrar(&world, LONG);
    let group = Registration::Group("mysql".to_string());
    let registered = registrar.connect(request(group, "mysql")).await.unwrap();
    assert_eq!(registered.name(), ENTRY);
    let entry = world.get(Kind::WorkloadEntry, "web", ENTRY).await.unwrap();
    assert_eq!(entry["spec"]["address"], "192.0.2.7");
    assert_eq!(entry["spec"]["labels"], json!({"app": "reviews"}), "the workload's own word wins");
    assert_eq!(entry["metadata"]["annotations"]["istio.io/workloadController"], "primary");

    let mut entries = world.watch(&[Kind::WorkloadEntry]);
    registrar.health(&registered, false, "connection refused").await.unwrap();
    let healthy = |object: &Object| match object {
        Object::WorkloadEntry(entry) => entry.spec.status.condition("Healthy").map(String::from),
        _ => None,
    };
    assert_eq!(entries.find("the condition", healthy).await, "False");
    registrar.health(&registered, true, "").await.unwrap();
    assert_eq!(
        entries.find("the condition", |object| healthy(object).filter(|status| status == "True")).await,
        "True"
    );
}

#[tokio::test]
async fn an_entry_keeps_its_identity_over_a_reconnect_and_goes_after_the_grace() {
    let world = with_group().await;
    let group = || Registration::Group("mysql".to_string());
    let patient = registrar(&world, LONG);
    let first = patient.connect(request(group(), "mysql")).await.unwrap();
    let before = world.get(Kind::WorkloadEntry, "web", ENTRY).await.unwrap();
    patient.disconnect(first);
    let gone = async {
        loop {
            let entry = world.get(Kind::WorkloadEntry, "web", ENTRY).await.unwrap();
            if entry["metadata"]["annotations"].get("istio.io/disconnectedAt").is_some() {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    soon("the record of the disconnect", gone).await;
    let _back = patient.connect(request(group(), "mysql")).await.unwrap();
    let after = world.get(Kind::WorkloadEntry, "web", ENTRY).await.unwrap();
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert!(after["metadata"]["annotations"].get("istio.io/disconnectedAt").is_none());

    let hasty = registrar(&world, SHORT);
    let mut entries = world.watch(&[Kind::WorkloadEntry]);
    let third = hasty.connect(request(group(), "mysql")).await.unwrap();
    hasty.disconnect(third);
    entries.removal("the entry's removal", ENTRY).await;
}

#[tokio::test]
async fn an_entry_of_one_service_account_is_not_adopted_by_another() {
    let world = with_group().await;
    world.admin.ensure_service_account("web", "other").await.unwrap();
    let registrar = registrar(&world, LONG);
    let group = || Registration::Group("mysql".to_string());
    let _first = registrar.connect(request(group(), "mysql")).await.unwrap();
    let error = registrar.connect(request(group(), "other")).await.unwrap_err();
    assert!(matches!(error, RegistrationError::Identity { .. }), "{error}");
}

#[tokio::test]
async fn a_workload_that_does_not_come_back_to_a_restarted_control_plane_is_taken_away() {
    let world = with_group().await;
    let group = Registration::Group("mysql".to_string());
    let first = registrar(&world, LONG);
    let _entry = first.connect(request(group, "mysql")).await.unwrap();
    world.admin.ensure_service_account("web", "reviews").await.unwrap();
    let _pod = first.connect(request(Registration::Pod, "reviews")).await.unwrap();
    drop(first);

    let mut objects = world.watch(&[Kind::WorkloadEntry, Kind::Pod]);
    let config = RegistrarConfig { grace: SHORT, settle: SHORT, ..RegistrarConfig::new("primary") };
    let _restarted = Registrar::new(world.cluster.clone(), config, world.tasks.clone());
    let mut gone = Vec::new();
    while gone.len() < 2 {
        if let isthmus_resources::Change::Removed(kind, ..) = objects.next().await {
            gone.push(kind);
        }
    }
    gone.sort_unstable();
    assert_eq!(gone, [Kind::Pod, Kind::WorkloadEntry]);
}

#[tokio::test]
async fn a_workload_that_moves_to_another_control_plane_is_not_taken_away_by_the_first() {
    let world = with_group().await;
    let own = TaskGroup::new("first", Drain::new());
    let replica = |holder: &str, tasks: &TaskGroup| {
        let config = RegistrarConfig { grace: Duration::ZERO, ..RegistrarConfig::new(holder) };
        Registrar::new(world.cluster.clone(), config, tasks.clone())
    };
    let (first, second) = (replica("first", &own), replica("second", &world.tasks));
    let upkeep = own.len();
    let group = || Registration::Group("mysql".to_string());
    let old = first.connect(request(group(), "mysql")).await.unwrap();
    let before = world.get(Kind::WorkloadEntry, "web", ENTRY).await.unwrap();
    let _new = second.connect(request(group(), "mysql")).await.unwrap();
    first.disconnect(old);
    // The first has nothing left to do once its task has ended.
    let quiet = async {
        while own.len() > upkeep {
            tokio::task::yield_now().await;
        }
    };
    soon("the end of the first's task", quiet).await;
    let after = world.get(Kind::WorkloadEntry, "web", ENTRY).await.unwrap();
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    let annotations = &after["metadata"]["annotations"];
    assert_eq!(annotations["istio.io/workloadController"], "second");
    assert!(
        annotations.get("istio.io/connectedAt").is_some()
            && annotations.get("istio.io/disconnectedAt").is_none()
    );
}
