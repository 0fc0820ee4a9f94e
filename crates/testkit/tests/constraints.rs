//! A cluster that turned bad signs, with a tool that asks no questions, a certificate in another cluster's name.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use isthmus_testkit::MeshCa;
use isthmus_tls::{
    ClientAuth, ClientCertificate, Expected, Identity, Material, Terminator, client_config, connect,
};
use rustls::pki_types::ServerName;

fn openssl(directory: &Path, line: &str) -> Result<(), String> {
    let output = Command::new("openssl").args(line.split(' ')).current_dir(directory).output();
    let output = output.expect("openssl is installed");
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// A control plane's certificate for this name, signed by west's intermediate.
fn forged(ca: &MeshCa, directory: &Path, name: &str) -> Material {
    ca.write_cacerts("west", directory);
    let extensions = format!(
        "subjectAltName=DNS:{name},URI:spiffe://cluster.local/ns/istio-system/sa/istiod\nkeyUsage=digitalSignature\n"
    );
    std::fs::write(directory.join("ext"), extensions).expect("a test's directory can be written");
    for line in [
        "req -new -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -subj / -keyout key -out csr",
        "x509 -req -in csr -CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial -days 1 -extfile ext -out leaf",
    ] {
        openssl(directory, line).expect("openssl signs what it is told to");
    }
    let read = |file: &str| std::fs::read_to_string(directory.join(file)).expect("openssl wrote it");
    Material { key: read("key"), chain: read("leaf") + &read("cert-chain.pem"), roots: read("root-cert.pem") }
}

async fn reach(ca: &MeshCa, server: &Material, name: &str) -> Result<(), String> {
    let server = Identity::from_material(server).expect("key and chain belong together");
    let serve = Terminator::without_sessions(&server, ClientAuth::Required, &[]);
    let client = ca.control_plane("east");
    let reach = client_config(&client, Expected::ServerName(name.into()), &[], ClientCertificate::Send);
    let (near, far) = tokio::io::duplex(1 << 16);
    let limit = Duration::from_secs(5);
    let sent = ServerName::try_from(name.to_string()).expect("this is a server name");
    let (_, reached) = tokio::join!(serve.accept(far, limit), connect(near, &reach, sent, limit));
    reached.map(drop).map_err(|error| format!("{}: {error}", error.label()))
}

#[tokio::test]
async fn no_intermediate_can_speak_for_another_cluster() {
    let (ca, place) = (MeshCa::new(), tempfile::tempdir().unwrap());
    let own = "default.west.federation.isthmus.internal";
    let honest = forged(&ca, place.path(), own);
    reach(&ca, &honest, own).await.unwrap();
    let verify = "verify -CAfile root-cert.pem -untrusted cert-chain.pem leaf";
    openssl(place.path(), verify).unwrap();

    let stolen = "default.east.federation.isthmus.internal";
    let liar = forged(&ca, place.path(), stolen);
    let refused = reach(&ca, &liar, stolen).await.unwrap_err();
    assert!(refused.starts_with("forbidden: ") && refused.contains("NameConstraint"), "{refused}");
    let refused = openssl(place.path(), verify).unwrap_err();
    assert!(refused.contains("permitted subtree violation"), "{refused}");
}
