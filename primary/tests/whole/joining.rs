//! Tokens to certificates.

use isthmus_ca::KeyAndCsr;
use isthmus_kube::api::Preconditions;
use isthmus_proto::istio_ca::IstioCertificateRequest;
use isthmus_proto::istio_ca::istio_certificate_service_client::IstioCertificateServiceClient;
use isthmus_proto::join::{JoinKind, JoinRequest};
use isthmus_resources::Kind;
use isthmus_tls::Material;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tonic::Code;

use crate::plane::{Plane, host, host_token, identity, soon, vm_token};

#[tokio::test]
async fn a_host_token_gives_certificates_for_its_service_accounts_and_no_others() {
    let plane = Plane::start().await;
    let token = host_token(&plane.admin, "shop/web").await;
    let key = KeyAndCsr::generate();
    let joined = plane.join(&token, host("shop/web", &key.csr_pem)).await.unwrap();
    assert_eq!((joined.namespace.as_str(), joined.service_account.as_str()), ("shop", "web"));
    assert_eq!((joined.cluster_id.as_str(), joined.network.as_str()), ("east", "east"));
    let web = identity(&key, &joined);
    assert_eq!(web.spiffe().unwrap().to_string(), "spiffe://cluster.local/ns/shop/sa/web");

    // It works again, until it is revoked; never for another account.
    plane.join(&token, host("shop/web", &KeyAndCsr::generate().csr_pem)).await.unwrap();
    let refused = plane.join(&token, host("shop/db", &key.csr_pem)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(refused.message().contains("shop/db"), "{refused}");
    let spoiled = plane.join(&format!("{token}x"), host("shop/web", &key.csr_pem)).await.unwrap_err();
    assert_eq!(spoiled.code(), Code::Unauthenticated, "{spoiled}");
    let secret = (Some("istio-system"), "isthmus-host-1");
    plane.admin.delete(Kind::Secret, secret.0, secret.1, Preconditions::default()).await.unwrap();
    let revoked = plane.join(&token, host("shop/web", &key.csr_pem)).await.unwrap_err();
    assert_eq!(revoked.code(), Code::Unauthenticated, "{revoked}");

    // The certificate renews itself, whatever the token's fate.
    let next = KeyAndCsr::generate();
    let request = IstioCertificateRequest { csr: next.csr_pem, ..Default::default() };
    let mut service = IstioCertificateServiceClient::new(plane.channel(&web).await);
    let renewed = service.create_certificate(request.clone()).await.unwrap().into_inner();
    let material = Material::from_response(next.key_pem, &renewed.cert_chain).unwrap();
    assert_eq!(material.parse().unwrap().0.spiffe(), web.spiffe().as_ref());
    let mut service = IstioCertificateServiceClient::new(plane.stranger().await);
    let stranger = service.create_certificate(request).await.unwrap_err();
    assert_eq!(stranger.code(), Code::Unauthenticated, "{stranger}");
    plane.stop().await;
}

#[tokio::test]
async fn strangers_who_say_one_byte_and_no_more_hold_up_nobody() {
    let plane = Plane::start().await;
    let token = host_token(&plane.admin, "shop/web").await;
    let mut strangers = Vec::new();
    for _ in 0..300 {
        let mut stranger = TcpStream::connect(plane.grpc).await.unwrap();
        stranger.write_all(&[0x16]).await.unwrap();
        strangers.push(stranger);
    }
    let joining = plane.join(&token, host("shop/web", &KeyAndCsr::generate().csr_pem));
    soon("joining beside strangers", joining).await.unwrap();
    plane.stop().await;
}

fn vm(csr: &str) -> JoinRequest {
    JoinRequest {
        kind: JoinKind::Vm.into(),
        csr: csr.to_string(),
        workload_group: "shop/db".to_string(),
        ..JoinRequest::default()
    }
}

#[tokio::test]
async fn a_vm_token_works_once() {
    let plane = Plane::start().await;
    let group = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "WorkloadGroup",
        "metadata": {"name": "db", "namespace": "shop"},
        "spec": {"template": {"serviceAccount": "db", "network": "site"}},
    });
    plane.create(Kind::WorkloadGroup, group).await;
    let token = vm_token(&plane.admin, "shop/db", "db").await;
    let key = KeyAndCsr::generate();
    // What could not be signed uses nothing up.
    let spoiled = plane.join(&token, vm("spoiled")).await.unwrap_err();
    assert_eq!(spoiled.code(), Code::InvalidArgument, "{spoiled}");
    let (csr, other) = (key.csr_pem.as_str(), KeyAndCsr::generate().csr_pem);
    // Of two that race with one token, one gets a certificate.
    let (one, two) = tokio::join!(plane.join(&token, vm(csr)), plane.join(&token, vm(csr)));
    let (joined, late) = match (one, two) {
        (Ok(joined), Err(late)) | (Err(late), Ok(joined)) => (joined, late),
        (one, two) => panic!("{one:?} {two:?}"),
    };
    assert_eq!(late.code(), Code::Unauthenticated, "{late}");
    assert_eq!(identity(&key, &joined).spiffe().unwrap().to_string(), "spiffe://cluster.local/ns/shop/sa/db");
    assert_eq!(joined.network, "site");
    assert!(joined.workload_group_json.contains("serviceAccount"), "{}", joined.workload_group_json);
    let again = plane.join(&token, vm(&other)).await.unwrap_err();
    assert_eq!(again.code(), Code::Unauthenticated, "{again}");
    plane.stop().await;
}

#[tokio::test]
async fn a_request_that_is_none_is_refused_and_the_next_one_is_served() {
    let plane = Plane::start().await;
    let token = host_token(&plane.admin, "shop/web").await;
    let pem = |body: &str| {
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n")
    };
    let key = KeyAndCsr::generate();
    let cut: String = key.csr_pem.chars().take(key.csr_pem.len() / 2).collect();
    let garbage = [
        String::new(),
        "\0\u{1}garbage".to_string(),
        pem("AAAA"),
        pem("MIIB//8="),
        cut,
        "A".repeat(1 << 20),
        key.key_pem.clone(),
    ];
    for csr in garbage {
        let refused = plane.join(&token, host("shop/web", &csr)).await.unwrap_err();
        let shown: String = csr.chars().take(60).collect();
        assert_eq!(refused.code(), Code::InvalidArgument, "{shown:?}: {refused}");
        assert!(!refused.message().contains(&key.key_pem), "a key is told to nobody");
    }
    let joined = plane.join(&token, host("shop/web", &key.csr_pem)).await.unwrap();
    let web = identity(&key, &joined);
    let mut service = IstioCertificateServiceClient::new(plane.channel(&web).await);
    let request = IstioCertificateRequest { csr: "garbage".to_string(), ..Default::default() };
    let refused = service.create_certificate(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let request = IstioCertificateRequest { csr: key.csr_pem.clone(), ..Default::default() };
    service.create_certificate(request).await.unwrap();
    plane.stop().await;
}
