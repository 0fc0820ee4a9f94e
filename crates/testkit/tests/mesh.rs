//! The throw-away mesh works as a mesh.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use isthmus_testkit::{Logs, MeshCa, listener};
use isthmus_tls::{ClientAuth, ClientCertificate, Expected, Terminator, client_config, connect};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;

#[tokio::test]
async fn workloads_of_two_clusters_under_one_root_meet_and_their_logs_are_seen() {
    let logs = Logs::capture();
    let ca = MeshCa::new();
    let (server, client) =
        (ca.workload("west", "default/reviews"), ca.workload("east", "default/productpage"));
    let expected = Expected::Spiffe(Arc::new(BTreeSet::from([server.spiffe().unwrap()])));
    let serve = Terminator::without_sessions(&server, ClientAuth::Required, &[b"istio"]);
    let reach = client_config(&client, expected, &[b"istio"], ClientCertificate::Send);
    let (listener, address) = listener().await;
    let limit = Duration::from_secs(5);
    let serving = async {
        let (stream, _) = listener.accept().await.unwrap();
        serve.accept(stream, limit).await.unwrap().1
    };
    let reaching = async {
        let stream = TcpStream::connect(address).await.unwrap();
        connect(stream, &reach, ServerName::try_from("localhost").unwrap(), limit).await.unwrap().1
    };
    let (seen, reached) = tokio::join!(serving, reaching);
    tracing::info!(peer = %seen.unwrap(), "met");
    assert!(logs.has_line(&["met", "sa/productpage", "isthmus intermediate east"]), "{}", logs.text());
    assert!(reached.issuer.contains("intermediate west"), "{reached}");
}

#[tokio::test]
async fn an_expired_workload_is_expired() {
    let ca = MeshCa::new();
    let (server, client) =
        (ca.workload("west", "default/reviews"), ca.expired_workload("east", "default/productpage"));
    let serve = Terminator::without_sessions(&server, ClientAuth::Required, &[]);
    let any = Expected::AnyInDomain(ca.trust_domain().clone());
    let reach = client_config(&client, any, &[], ClientCertificate::Send);
    let (near, far) = tokio::io::duplex(1 << 16);
    let limit = Duration::from_secs(5);
    let name = ServerName::try_from("localhost").unwrap();
    let (served, _) = tokio::join!(serve.accept(far, limit), connect(near, &reach, name, limit));
    assert_eq!(served.unwrap_err().label(), "expired");
}
