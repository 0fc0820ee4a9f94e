//! A gateway that restarts with every control plane gone: identity and last-good resources on disk are all it has.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use clap::Parser as _;
use isthmus_eastwest_gw::{App, Args};
use isthmus_lifecycle::{Drain, TaskGroup};
use isthmus_testkit::MeshCa;
use isthmus_tls::{ClientAuth, ClientCertificate, Expected};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::left::{SNI, left_behind};

#[tokio::test]
async fn it_serves_from_disk_and_holds_no_key_but_its_own() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let ca = MeshCa::new();
    let workload = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    left_behind(directory.path(), &ca, workload.local_addr().unwrap()).await;

    let line = format!(
        "isthmus-eastwest-gw --data-dir {} --network west --name gw-west --address 127.0.0.1 \
         --metrics-address 127.0.0.1:0 --readiness-address 127.0.0.1:0 --admin-address 127.0.0.1:0",
        directory.path().display()
    );
    let args = Args::try_parse_from(line.split_whitespace()).unwrap();
    let drain = Drain::new();
    let app = App::start(&args, &drain).await.unwrap();
    assert_eq!(app.awaited(), Vec::<&str>::new(), "what is on disk suffices");
    let (gateway, metrics) = (app.listeners()[0].1, app.metrics().unwrap());
    let tasks = TaskGroup::new("test", drain.clone());
    tasks.spawn("gateway", isthmus_lifecycle::OnFailure::Log, app.run());

    // Client and workload shake hands through it, and it sees neither.
    let server = isthmus_tls::Terminator::without_sessions(
        &ca.workload("west", "default/reviews"),
        ClientAuth::Required,
        &[b"istio"],
    );
    let client = isthmus_tls::client_config(
        &ca.workload("east", "default/productpage"),
        Expected::AnyInDomain("cluster.local".parse().unwrap()),
        &[b"istio"],
        ClientCertificate::Send,
    );
    let patience = Duration::from_secs(5);
    let serve = async {
        let (stream, _) = workload.accept().await.unwrap();
        let (mut stream, peer) = server.accept(stream, patience).await.unwrap();
        stream.write_all(b"red stars").await.unwrap();
        stream.shutdown().await.unwrap();
        peer.unwrap().spiffe.as_ref().unwrap().to_string()
    };
    let ask = async {
        let stream = TcpStream::connect(gateway).await.unwrap();
        let name = SNI.try_into().unwrap();
        let (mut stream, peer) = isthmus_tls::connect(stream, &client, name, patience).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        (answer, peer.spiffe.unwrap().to_string())
    };
    let (seen, (answer, peer)) = tokio::join!(serve, ask);
    assert_eq!(answer, "red stars");
    assert_eq!(seen, "spiffe://cluster.local/ns/default/sa/productpage");
    assert_eq!(peer, "spiffe://cluster.local/ns/default/sa/reviews");

    let mut stream = TcpStream::connect(metrics).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    assert!(page.contains("destination_service=\"reviews.default.svc.cluster.local\""), "{page}");

    let key = std::fs::metadata(directory.path().join("identity/key.pem")).unwrap();
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
    drain.immediate();
    tokio::time::timeout(patience, tasks.finished()).await.unwrap();
}

#[tokio::test]
async fn without_token_and_identity_it_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let line = format!("isthmus-eastwest-gw --data-dir {} --network west", directory.path().display());
    let args = Args::try_parse_from(line.split_whitespace()).unwrap();
    let error = App::start(&args, &Drain::new()).await.err().unwrap().to_string();
    assert!(error.contains("--token-file"), "{error}");
}
