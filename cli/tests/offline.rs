//! The built command, where it needs no API server.

use std::path::Path;
use std::process::{Command, Output};

fn isthmus(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_isthmus"))
        .args(arguments)
        .current_dir(directory)
        .env_remove("KUBECONFIG")
        .env("HOME", directory)
        .output()
        .expect("the built command starts")
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("it writes UTF-8")
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("it writes UTF-8")
}

fn openssl(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("openssl").args(arguments).current_dir(directory).output();
    let output = output.expect("openssl is installed");
    assert!(output.status.success(), "openssl {arguments:?}: {}", err(&output));
    out(&output)
}

#[test]
fn a_root_and_two_intermediates_are_made_and_openssl_verifies_them() {
    let place = tempfile::tempdir().unwrap();
    let made = isthmus(place.path(), &["ca", "root", "--out", "root", "--trust-domain", "shop.example"]);
    assert!(made.status.success(), "{}", err(&made));
    assert!(out(&made).contains("trust domain shop.example, valid until 20"), "{}", out(&made));
    assert!(err(&made).contains("isthmus ca intermediate --root root"), "{}", err(&made));
    for cluster in ["east", "west"] {
        let directory = format!("{cluster}-ca");
        let arguments = ["ca", "intermediate", "--root", "root", "--cluster", cluster, "--out", &directory];
        let made = isthmus(place.path(), &arguments);
        assert!(made.status.success(), "{}", err(&made));
        openssl(
            place.path(),
            &["verify", "-x509_strict", "-CAfile", "root/root-cert.pem", &format!("{directory}/ca-cert.pem")],
        );
        let again = isthmus(place.path(), &arguments);
        assert_eq!(again.status.code(), Some(1));
        assert!(
            err(&again).contains("there is a CA already; use another directory, or --force"),
            "{}",
            err(&again)
        );
    }
    let text = openssl(place.path(), &["x509", "-in", "west-ca/ca-cert.pem", "-noout", "-text"]);
    assert!(text.contains("URI:spiffe://shop.example") && text.contains("pathlen:0"), "{text}");
}

#[test]
fn an_intermediate_needs_a_root_and_says_how_to_make_one() {
    let place = tempfile::tempdir().unwrap();
    let arguments = ["ca", "intermediate", "--root", "nowhere", "--cluster", "east", "--out", "x"];
    let failed = isthmus(place.path(), &arguments);
    assert_eq!(failed.status.code(), Some(1));
    assert_eq!(
        err(&failed),
        "isthmus: nowhere: no root-key.pem; make a root with `isthmus ca root --out nowhere`\n"
    );
}

#[test]
fn wrong_usage_exits_with_2_and_says_what_is_right() {
    let place = tempfile::tempdir().unwrap();
    for (arguments, right) in [
        (vec!["vm", "token", "--group", "database"], "must be written NAMESPACE/NAME"),
        (vec!["ca", "intermediate", "--root", "r", "--cluster", "East", "--out", "x"], "may hold only a-z"),
        (vec!["host", "token", "--service-account", "a/b", "--ttl", "1w"], "such as 90d or 1h"),
        (vec!["proxy-config", "clusters", "reviews"], "is not NAME.NAMESPACE"),
        (vec!["link", "create"], "--to <CLUSTER>"),
        (vec!["status", "--context", "a", "--all-contexts"], "cannot be used with"),
    ] {
        let wrong = isthmus(place.path(), &arguments);
        assert_eq!(wrong.status.code(), Some(2), "{arguments:?}: {}", err(&wrong));
        assert!(err(&wrong).contains(right), "{arguments:?}: {}", err(&wrong));
    }
}

#[test]
fn a_missing_kubeconfig_and_a_token_of_another_kind_are_told() {
    let place = tempfile::tempdir().unwrap();
    let failed = isthmus(place.path(), &["--kubeconfig", "none.kubeconfig", "status"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(err(&failed).contains("none.kubeconfig"), "{}", err(&failed));
    let failed = isthmus(place.path(), &["link", "accept", "isthmus-join.v1.xxxx"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(
        err(&failed).contains("not a link token") && err(&failed).contains("isthmus link create"),
        "{}",
        err(&failed)
    );
}

#[test]
fn validate_names_file_object_and_field_and_fails() {
    let place = tempfile::tempdir().unwrap();
    let good = "apiVersion: networking.istio.io/v1\nkind: WorkloadGroup\nmetadata: {name: db, namespace: shop}\n\
                spec: {template: {serviceAccount: db}}\n";
    let bad = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: x, namespace: shop}\n\
               spec: {hosts: [], ports: [{number: 70000, name: tcp, protocol: TCP}]}\n";
    std::fs::write(place.path().join("good.yaml"), good).unwrap();
    std::fs::write(place.path().join("bad.yaml"), format!("{good}---\n{bad}")).unwrap();
    let fine = isthmus(place.path(), &["validate", "-f", "good.yaml"]);
    assert!(fine.status.success(), "{}", err(&fine));
    assert_eq!(out(&fine), "1 objects valid, 0 warnings\n");
    let failed = isthmus(place.path(), &["validate", "-f", "."]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(out(&failed).contains("bad.yaml:9: error: ServiceEntry shop/x"), "{}", out(&failed));
    let json = isthmus(place.path(), &["validate", "-f", "bad.yaml", "-o", "json"]);
    let findings: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(
        findings[0]["severity"] == "error" && findings[0]["file"] == "bad.yaml" && findings[0]["line"] == 9,
        "{findings}"
    );
    let empty = isthmus(place.path(), &["validate", "-f", "/dev/null"]);
    assert!(err(&empty).contains("no objects found"), "{}", err(&empty));
}

#[test]
fn completion_scripts_and_version_are_printed_plain() {
    let place = tempfile::tempdir().unwrap();
    let script = isthmus(place.path(), &["completion", "bash"]);
    assert!(out(&script).contains("complete -F _isthmus"), "{}", err(&script));
    let version = isthmus(place.path(), &["version", "-o", "json"]);
    assert!(out(&version).starts_with("{\n  \"version\":"), "{}", out(&version));
}

#[test]
fn the_definitions_are_printed_as_documents_that_kubectl_takes() {
    let place = tempfile::tempdir().unwrap();
    let printed = isthmus(place.path(), &["crds"]);
    assert!(printed.status.success(), "{}", err(&printed));
    let text = out(&printed);
    let documents: Vec<serde_yaml::Value> = serde_yaml::Deserializer::from_str(&text)
        .map(|document| serde::Deserialize::deserialize(document).unwrap())
        .collect();
    assert_eq!(documents.len(), isthmus_resources::crds().len());
    for document in &documents {
        assert_eq!(document["kind"], "CustomResourceDefinition", "{document:?}");
    }
    assert!(text.contains("name: peers.isthmus.io"), "{text}");
}
