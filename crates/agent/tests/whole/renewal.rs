use std::time::Duration;

use isthmus_agent::{Enrollment, enroll, identity};
use isthmus_lifecycle::{Drain, TaskGroup};
use isthmus_tls::Material;

use crate::join::enrollment;
use crate::plane::Plane;

#[tokio::test]
async fn a_certificate_is_renewed_by_itself_and_saved() {
    let plane = Plane::start().await;
    let data = tempfile::tempdir().unwrap();
    // The first one lives a day, which is too long for what is asked: it is replaced at once, and then again and again.
    let enrolled = enroll(Enrollment {
        leaf_ttl: Some(Duration::from_secs(2)),
        ..enrollment(data.path(), Some(plane.vm_token()))
    })
    .await
    .unwrap();
    let serial = || enrolled.identity.leaf().unwrap().certificate().serial.clone();
    let (first, mut changes) = (serial(), enrolled.identity.changes());
    let group = TaskGroup::new("agent", Drain::new());
    enrolled.keep_alive(&group, identity::Metrics::default());
    changes.changed().await.unwrap();
    let second = serial();
    assert_ne!(first, second);
    changes.changed().await.unwrap();
    let third = serial();
    assert_ne!(second, third);
    group.drain().immediate();
    group.finished().await;
    let saved = Material::load(&data.path().join("identity")).unwrap().unwrap();
    assert_eq!(saved.parse().unwrap().0.certificate().serial, third);
}

#[tokio::test]
async fn a_failed_renewal_keeps_the_old_certificate_and_is_tried_again() {
    let plane = Plane::start().await;
    *plane.mesh.no_renewals.lock() = true;
    let data = tempfile::tempdir().unwrap();
    let enrolled = enroll(Enrollment {
        leaf_ttl: Some(Duration::from_secs(600)),
        ..enrollment(data.path(), Some(plane.vm_token()))
    })
    .await
    .unwrap();
    let first = enrolled.identity.leaf().unwrap().certificate().serial.clone();
    let (mut changes, mut attempts) = (enrolled.identity.changes(), plane.mesh.renewals.subscribe());
    let group = TaskGroup::new("agent", Drain::new());
    enrolled.keep_alive(&group, identity::Metrics::default());
    attempts.wait_for(|count| *count >= 1).await.unwrap();
    assert_eq!(enrolled.identity.leaf().unwrap().certificate().serial, first);
    *plane.mesh.no_renewals.lock() = false;
    changes.changed().await.unwrap();
    assert_ne!(enrolled.identity.leaf().unwrap().certificate().serial, first);
    group.drain().immediate();
}

#[tokio::test]
async fn an_expired_certificate_with_a_host_token_is_replaced_by_joining_again() {
    let plane = Plane::start().await;
    *plane.mesh.join_ttl.lock() = Duration::from_secs(1);
    let data = tempfile::tempdir().unwrap();
    let enrolled = enroll(Enrollment {
        service_account: Some("default/reviews".parse().unwrap()),
        ..enrollment(data.path(), Some(plane.host_token()))
    })
    .await
    .unwrap();
    *plane.mesh.join_ttl.lock() = Duration::from_secs(3600);
    *plane.mesh.no_renewals.lock() = true;
    let mut changes = enrolled.identity.changes();
    let group = TaskGroup::new("agent", Drain::new());
    enrolled.keep_alive(&group, identity::Metrics::default());
    tokio::time::timeout(Duration::from_secs(20), changes.changed()).await.unwrap().unwrap();
    group.drain().immediate();
}
