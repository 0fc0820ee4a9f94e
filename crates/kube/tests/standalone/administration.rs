//! Mesh description, tokens, peers, gateways.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use isthmus_kube::mesh::{Granted, HOST_AUDIENCE, MeshInfo, SYSTEM_NAMESPACE, TokenError, VM_AUDIENCE};
use isthmus_resources::Kind;
use isthmus_resources::peer::{Peer, PeerStatus};
use serde_json::json;

use crate::world::{World, is_conflict, world};

/// A Secret that grants something, and a token that is bound to it.
async fn token(
    world: &World,
    secret: (&str, &str, &str),
    data: (&str, &str),
    account: (&str, &str),
    audience: &str,
) -> String {
    let (namespace, name, kind) = secret;
    let object = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "type": kind,
        "data": {data.0: STANDARD.encode(data.1)},
    });
    let created = world.create(Kind::Secret, object).await;
    world.admin.ensure_service_account(account.0, account.1).await.unwrap();
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {
            "audiences": [audience], "expirationSeconds": 3600,
            "boundObjectRef": {
                "apiVersion": "v1", "kind": "Secret", "name": name, "uid": created["metadata"]["uid"],
            },
        },
    });
    let answer =
        world.admin.post_to(Kind::ServiceAccount, Some(account.0), account.1, "token", body).await.unwrap();
    answer["status"]["token"].as_str().unwrap().to_string()
}

async fn vm_token(world: &World, audience: &str) -> String {
    world.namespace("vm").await;
    let secret = ("vm", "isthmus-join-a", "isthmus.io/vm-join");
    token(world, secret, ("group", "vm/mysqldb-vm"), ("vm", "mysql"), audience).await
}

#[tokio::test]
async fn a_vms_token_works_once() {
    let world = world().await;
    let token = vm_token(&world, VM_AUDIENCE).await;
    let granted = world.cluster.verify_token(&token).await.unwrap();
    let Granted::Vm { group, service_account, .. } = &granted else { panic!("{granted:?}") };
    assert_eq!((group.to_string(), service_account.to_string()), ("vm/mysqldb-vm".into(), "vm/mysql".into()));

    // Two that have both verified it: one gets it.
    let again = world.cluster.verify_token(&token).await.unwrap();
    let (first, second) =
        tokio::join!(world.cluster.consume_token(&granted), world.cluster.consume_token(&again));
    assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
    assert!([first, second].contains(&Err(TokenError::Used)));
    let error = world.cluster.verify_token(&token).await.unwrap_err();
    assert!(matches!(error, TokenError::Invalid(_) | TokenError::Used), "{error}");
}

#[tokio::test]
async fn a_hosts_token_works_until_its_secret_is_deleted() {
    let world = world().await;
    let secret = (SYSTEM_NAMESPACE, "isthmus-host-a", "isthmus.io/host");
    let accounts = ("serviceAccounts", "web/reviews,web/ratings");
    let token = token(&world, secret, accounts, (SYSTEM_NAMESPACE, "isthmus-host"), HOST_AUDIENCE).await;
    for _ in 0..2 {
        let granted = world.cluster.verify_token(&token).await.unwrap();
        let Granted::Host { service_accounts, .. } = &granted else { panic!("{granted:?}") };
        assert_eq!(service_accounts.len(), 2);
        world.cluster.consume_token(&granted).await.unwrap();
    }
    let revoked =
        world.admin.delete(Kind::Secret, Some(SYSTEM_NAMESPACE), "isthmus-host-a", Default::default());
    assert!(revoked.await.unwrap());
    assert!(world.cluster.verify_token(&token).await.is_err());
}

#[tokio::test]
async fn tokens_for_others_and_forgeries_grant_nothing() {
    let world = world().await;
    let foreign = vm_token(&world, "istio-ca").await;
    assert!(matches!(world.cluster.verify_token(&foreign).await, Err(TokenError::Invalid(_))));
    let reviewed = world.cluster.review_token(&foreign, "istio-ca").await.unwrap();
    assert_eq!(reviewed.unwrap().to_string(), "vm/mysql");
    assert_eq!(world.cluster.review_token(&foreign, VM_AUDIENCE).await.unwrap(), None);
    let (head, signature) = foreign.rsplit_once('.').unwrap();
    let forged = format!("{head}.{}", signature.chars().rev().collect::<String>());
    assert!(matches!(world.cluster.verify_token(&forged).await, Err(TokenError::Invalid(_))));
    assert!(matches!(world.cluster.verify_token("nonsense").await, Err(TokenError::Invalid(_))));
}

#[tokio::test]
async fn a_secret_of_another_kind_turns_no_token_into_a_grant() {
    let world = world().await;
    world.namespace("vm").await;
    let secret = ("vm", "plain", "Opaque");
    let token = token(&world, secret, ("group", "vm/mysqldb-vm"), ("vm", "mysql"), VM_AUDIENCE).await;
    assert!(world.cluster.verify_token(&token).await.is_err());
}

#[tokio::test]
async fn the_description_of_the_mesh_is_read_as_it_was_written() {
    let world = world().await;
    assert_eq!(world.cluster.read_mesh().await.unwrap(), None);
    let info = MeshInfo {
        mesh_id: "mesh1".into(),
        cluster: "east".into(),
        network: "east".into(),
        revision: "default".into(),
        trust_domain: "cluster.local".into(),
        server_name: "default.east.federation.isthmus.internal".into(),
        addresses: vec!["192.0.2.1:15012".into(), "192.0.2.2:15012".into()],
        roots: "PEM".into(),
    };
    world.cluster.write_mesh(&info).await.unwrap();
    world.cluster.write_mesh(&info).await.unwrap();
    assert_eq!(world.cluster.read_mesh().await.unwrap(), Some(info));
}

#[tokio::test]
async fn peers_and_their_state() {
    let world = world().await;
    let peer = Peer { mesh_id: "mesh1".into(), gateways: vec!["192.0.2.1:15443".into()], ..Peer::default() };
    let object = json!({"apiVersion": Kind::Peer.api_version(), "kind": "Peer", "metadata": {"name": "west"}, "spec": peer});
    world.create(Kind::Peer, object).await;
    let status = PeerStatus { state: "Connected".into(), synced: true, services: 4, ..PeerStatus::default() };
    world.cluster.write_peer_status("west", &status).await.unwrap();
    let version = |value: &serde_json::Value| value["metadata"]["resourceVersion"].clone();
    let before = world.admin.get(Kind::Peer, None, "west").await.unwrap().unwrap();
    world.cluster.write_peer_status("west", &status).await.unwrap();
    let after = world.admin.get(Kind::Peer, None, "west").await.unwrap().unwrap();
    assert_eq!(version(&before), version(&after), "the same state is not written twice");
    let peers = world.cluster.peers().await.unwrap();
    assert_eq!(peers[0].spec.gateways, ["192.0.2.1:15443"]);
    assert_eq!(peers[0].spec.status, status);
    assert_eq!(world.cluster.peer_secret("west").await.unwrap(), None);
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "isthmus-peer-west", "namespace": SYSTEM_NAMESPACE},
        "data": {"secret": STANDARD.encode("hidden")},
    });
    world.create(Kind::Secret, secret).await;
    assert_eq!(world.cluster.peer_secret("west").await.unwrap().as_deref(), Some("hidden"));
}

#[tokio::test]
async fn gateways_are_found_by_network_and_purpose() {
    let world = world().await;
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "istio-eastwestgateway", "namespace": SYSTEM_NAMESPACE,
            "labels": {"topology.istio.io/network": "east"},
        },
        "spec": {
            "externalIPs": ["192.0.2.1"],
            "ports": [{"name": "tls", "port": 15443}, {"name": "tls-istiod", "port": 15012}],
        },
    });
    world.create(Kind::Service, service).await;
    assert_eq!(world.cluster.gateways(Some("east"), false).await.unwrap(), ["192.0.2.1:15443"]);
    assert_eq!(world.cluster.gateways(None, true).await.unwrap(), ["192.0.2.1:15012"]);
    assert!(world.cluster.gateways(Some("west"), false).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_deletion_with_a_stale_precondition_deletes_nothing() {
    let world = world().await;
    world.namespace("web").await;
    let object =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "web"}});
    world.create(Kind::ConfigMap, object).await;
    let stale = isthmus_kube::api::Preconditions { uid: Some("another"), ..Default::default() };
    let error = world.admin.delete(Kind::ConfigMap, Some("web"), "a", stale).await.unwrap_err();
    assert!(is_conflict(&error), "{error}");
    assert!(world.get(Kind::ConfigMap, "web", "a").await.is_some());
}

#[tokio::test]
async fn a_control_plane_labels_its_namespace_with_its_network() {
    let world = world().await;
    world.cluster.set_network("east").await.unwrap();
    world.cluster.set_network("east").await.unwrap();
    let namespace = world.admin.get(Kind::Namespace, None, SYSTEM_NAMESPACE).await.unwrap().unwrap();
    assert_eq!(namespace["metadata"]["labels"]["topology.istio.io/network"], "east");
}
