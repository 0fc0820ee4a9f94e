//! A peer that shares none of our code: openssl as client and as server, in both TLS versions.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use isthmus_testkit::{MeshCa, listener};
use isthmus_tls::{ClientAuth, ClientCertificate, Expected, Terminator, client_config, connect};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(10);

fn openssl(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("openssl");
    command.args(arguments).current_dir(directory).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[tokio::test]
async fn openssl_as_client_is_known_by_its_certificate_or_refused_without_one() {
    let (ca, place) = (MeshCa::new(), tempfile::tempdir().unwrap());
    ca.workload_material("east", "default/productpage").save(place.path()).unwrap();
    let serve = Terminator::without_sessions(&ca.control_plane("west"), ClientAuth::Required, &[b"h2"]);
    let (listener, address) = listener().await;
    let address = address.to_string();
    for version in ["-tls1_2", "-tls1_3"] {
        let common =
            ["s_client", "-connect", &address, version, "-CAfile", "root-cert.pem", "-verify_return_error"];
        let named =
            ["-verify_hostname", "default.west.federation.isthmus.internal", "-alpn", "h2", "-ign_eof"];
        let own = ["-cert", "cert-chain.pem", "-cert_chain", "cert-chain.pem", "-key", "key.pem"];
        let mut child = openssl(place.path(), &[&common[..], &named, &own].concat()).spawn().unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let (mut stream, peer) = serve.accept(stream, LIMIT).await.unwrap();
        assert!(peer.unwrap().name().ends_with("/ns/default/sa/productpage"));
        stream.write_all(b"hello\n").await.unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut agreed = false;
        while let Some(line) = said.next_line().await.unwrap().filter(|line| line != "hello") {
            agreed |= line == "ALPN protocol: h2";
        }
        assert!(agreed, "{version}");

        let child = openssl(place.path(), &[&common[..], &named].concat()).spawn().unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        assert_eq!(serve.accept(stream, LIMIT).await.unwrap_err().label(), "no_certificate");
        drop(child);
    }
}

#[tokio::test]
async fn openssl_as_server_is_verified_by_its_spiffe_id() {
    let (ca, place) = (MeshCa::new(), tempfile::tempdir().unwrap());
    ca.workload_material("west", "default/reviews").save(place.path()).unwrap();
    let client = ca.workload("east", "default/productpage");
    let id = |account: &str| format!("spiffe://cluster.local/ns/default/sa/{account}").parse().unwrap();
    for version in ["-tls1_2", "-tls1_3"] {
        let arguments = [
            "s_server",
            "-accept",
            "127.0.0.1:0",
            version,
            "-cert",
            "cert-chain.pem",
            "-cert_chain",
            "cert-chain.pem",
            "-key",
            "key.pem",
            "-CAfile",
            "root-cert.pem",
            "-Verify",
            "3",
            "-verify_return_error",
        ];
        let mut child = openssl(place.path(), &arguments).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = loop {
            let line = lines.next_line().await.unwrap().expect("openssl says where it listens");
            if let Some(address) = line.strip_prefix("ACCEPT ") {
                break address.to_string();
            }
        };
        for (account, right) in [("ratings", false), ("reviews", true)] {
            let expected = Expected::Spiffe(std::sync::Arc::new([id(account)].into()));
            let reach = client_config(&client, expected, &[], ClientCertificate::Send);
            let stream = TcpStream::connect(&address).await.unwrap();
            let name = ServerName::try_from("outbound_.9080_._.reviews.default.svc.cluster.local").unwrap();
            match connect(stream, &reach, name, LIMIT).await {
                Ok((mut stream, peer)) => {
                    assert!(right, "{peer} was taken for {account}");
                    child.stdin.as_mut().unwrap().write_all(b"x").await.unwrap();
                    assert_eq!(stream.read_u8().await.unwrap(), b'x');
                }
                Err(error) => assert!(!right && error.label() == "wrong_identity", "{account}: {error}"),
            }
        }
    }
}
