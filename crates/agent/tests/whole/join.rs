use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use isthmus_agent::enroll::EnrollError;
use isthmus_agent::{Enrollment, JoinError, enroll};
use isthmus_lifecycle::SystemClock;
use isthmus_model::token::JoinToken;
use isthmus_testkit::MeshCa;

use crate::plane::Plane;

pub(crate) fn enrollment(data_dir: &Path, token: Option<JoinToken>) -> Enrollment {
    Enrollment {
        data_dir: data_dir.to_path_buf(),
        token,
        service_account: None,
        hostname: "host1".into(),
        mark: None,
        leaf_ttl: None,
        patience: Some(Duration::ZERO),
        clock: Arc::new(SystemClock),
    }
}

async fn refused(enrollment: Enrollment) -> String {
    enroll(enrollment).await.map(drop).unwrap_err().to_string()
}

#[tokio::test]
async fn a_vm_joins_once_and_needs_neither_token_nor_control_plane_again() {
    let plane = Plane::start().await;
    let data = tempfile::tempdir().unwrap();
    let token = plane.vm_token();
    let enrolled = enroll(enrollment(data.path(), Some(token.clone()))).await.unwrap();
    assert_eq!(enrolled.membership.spiffe().to_string(), "spiffe://cluster.local/ns/vm/sa/mysql");
    assert_eq!(enrolled.membership.network.as_str(), "site");
    assert_eq!(enrolled.membership.group_spec.clone().unwrap()["template"]["ports"]["tcp"], 3306);
    let serial = enrolled.identity.leaf().unwrap().certificate().serial.clone();
    drop(enrolled);

    // The token is used up, and of no use to another machine.
    let other = tempfile::tempdir().unwrap();
    let message = refused(enrollment(other.path(), Some(token.clone()))).await;
    assert!(message.contains("cluster west") && message.contains("isthmus vm token"), "{message}");

    plane.stop().await;
    for token in [None, Some(token)] {
        let again = enroll(enrollment(data.path(), token)).await.unwrap();
        assert_eq!(again.identity.leaf().unwrap().certificate().serial, serial);
    }
}

#[tokio::test]
async fn keys_on_disk_have_one_reader() {
    use std::os::unix::fs::PermissionsExt;
    let plane = Plane::start().await;
    let data = tempfile::tempdir().unwrap();
    let root = data.path().join("agent");
    drop(enroll(enrollment(&root, Some(plane.vm_token()))).await.unwrap());
    let mode = |path: &str| root.join(path).metadata().unwrap().permissions().mode() & 0o777;
    for file in ["membership.json", "identity/key.pem", "identity/cert-chain.pem", "identity/root-cert.pem"] {
        assert_eq!(mode(file), 0o600, "{file}");
    }
    assert_eq!((mode(""), mode("identity")), (0o700, 0o700));
}

#[tokio::test]
async fn a_host_token_gives_the_accounts_that_it_names() {
    let plane = Plane::start().await;
    let data = tempfile::tempdir().unwrap();
    let ask = |account: Option<&str>| Enrollment {
        service_account: account.map(|account| account.parse().unwrap()),
        ..enrollment(data.path(), Some(plane.host_token()))
    };
    assert!(refused(ask(None)).await.contains("--service-account"));
    let message = refused(ask(Some("default/ratings"))).await;
    assert!(message.contains("allows default/reviews, not default/ratings"), "{message}");
    let enrolled = enroll(ask(Some("default/reviews"))).await.unwrap();
    assert_eq!(enrolled.membership.spiffe().to_string(), "spiffe://cluster.local/ns/default/sa/reviews");
}

#[tokio::test]
async fn a_control_plane_of_another_mesh_is_not_told_the_token() {
    let plane = Plane::start().await;
    let data = tempfile::tempdir().unwrap();
    let mut stranger = plane.vm_token();
    stranger.roots = MeshCa::new().roots_pem().into();
    let message = refused(enrollment(data.path(), Some(stranger))).await;
    assert!(message.contains(&plane.address.to_string()) && message.contains("does not chain"), "{message}");

    let mut misnamed = plane.vm_token();
    misnamed.server_name = "default.east.federation.isthmus.internal".into();
    let message = refused(enrollment(data.path(), Some(misnamed))).await;
    assert!(message.contains("default.east.federation.isthmus.internal"), "{message}");

    // Neither used the token up.
    enroll(enrollment(data.path(), Some(plane.vm_token()))).await.unwrap();
}

#[tokio::test]
async fn a_dead_address_is_passed_over_and_all_dead_is_temporary() {
    let plane = Plane::start().await;
    let data = tempfile::tempdir().unwrap();
    let (listener, dead) = isthmus_testkit::listener().await;
    drop(listener);
    let mut token = plane.vm_token();
    token.addresses = vec![dead.to_string().into()];
    let error = enroll(enrollment(data.path(), Some(token.clone()))).await.map(drop).unwrap_err();
    assert!(matches!(&error, EnrollError::Join(JoinError::Unavailable { .. })), "{error}");
    assert!(error.to_string().contains(&dead.to_string()), "{error}");
    token.addresses.push(plane.address.to_string().into());
    enroll(enrollment(data.path(), Some(token))).await.unwrap();
}

#[tokio::test]
async fn without_token_or_membership_the_error_says_what_to_do() {
    let data = tempfile::tempdir().unwrap();
    assert!(refused(enrollment(data.path(), None)).await.contains("join TOKEN"));
}

#[tokio::test]
async fn an_expired_identity_joins_anew_with_a_token_and_says_so_without() {
    let plane = Plane::start().await;
    *plane.mesh.join_ttl.lock() = Duration::ZERO;
    let data = tempfile::tempdir().unwrap();
    drop(enroll(enrollment(data.path(), Some(plane.vm_token()))).await.unwrap());
    assert!(refused(enrollment(data.path(), None)).await.contains("new token"));
    *plane.mesh.join_ttl.lock() = Duration::from_secs(3600);
    enroll(enrollment(data.path(), Some(plane.vm_token()))).await.unwrap();
}
