//! The same requests to this server and to Kubernetes' own, and the same answers, less a written list.
//!
//! `tests/kube/build.sh` builds Kubernetes' own. Without it, this server is held against what it answered when it was
//! last asked; with it, that record is checked too, and written anew where it is stale.

mod compare;
mod real;
mod script;

use std::path::Path;
use std::sync::Arc;

use isthmus_apiserver::{ApiServer, Config};
use isthmus_lifecycle::{Drain, TaskGroup};
use isthmus_store::EmbeddedStore;
use isthmus_testkit::Kubernetes;
use serde_json::Value;

/// What every step of the script answered, made comparable.
async fn play(client: &kube::Client) -> Vec<(String, Value)> {
    let mut answers: Vec<(String, Value)> = Vec::new();
    let mut raw: Vec<(String, Value)> = Vec::new();
    for step in script::steps() {
        if step.name == "definition established" {
            real::until_served(client, "/apis/sea.io/v1/ships").await;
        }
        let fill = |text: &str| script::fill(text, &raw);
        let request = http::Request::builder()
            .method(step.method)
            .uri(fill(step.path))
            .header("content-type", step.media)
            .header("user-agent", "conformance/1")
            .header("accept", step.accept);
        let body = kube::client::Body::from(fill(&step.body).into_bytes());
        let response = client.send(request.body(body).expect("a request")).await.expect("an answer");
        let code = response.status().as_u16();
        let bytes = http_body_util::BodyExt::collect(response.into_body()).await.expect("a body").to_bytes();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        raw.push((step.name.to_string(), body.clone()));
        answers.push((step.name.to_string(), compare::comparable(code, body)));
    }
    answers
}

async fn ours() -> Vec<(String, Value)> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = EmbeddedStore::open(&dir.path().join("store.redb")).expect("a store");
    let drain = Drain::new();
    let config = Config::new(Arc::new(store), TaskGroup::new("api", drain.clone()));
    let server = ApiServer::start(config).await.expect("the API starts");
    let client = kube::Client::new(server.router_as("admin", &["system:masters"]), "default");
    let answers = play(&client).await;
    drain.immediate();
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn this_server_answers_as_kubernetes_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/recorded.json");
    let ours = ours().await;
    let recorded: Vec<(String, Value)> = std::fs::read_to_string(&path)
        .ok()
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default();
    let expected = match Kubernetes::start() {
        Some(kubernetes) => {
            let theirs = play(&real::client(&kubernetes).await).await;
            if theirs != recorded {
                let lines: Vec<String> =
                    theirs.iter().map(|step| serde_json::to_string(step).expect("JSON")).collect();
                std::fs::write(&path, format!("[\n{}\n]\n", lines.join(",\n")))
                    .expect("the record is written");
                eprintln!("the record of Kubernetes' answers was stale and is written anew");
            }
            theirs
        }
        None => {
            eprintln!(
                "no Kubernetes in tests/kube/bin (make kube-assets builds it): comparing with its recorded answers"
            );
            recorded
        }
    };
    let mut wrong = Vec::new();
    assert_eq!(ours.len(), expected.len(), "the record does not belong to this script");
    for ((name, ours), (_, theirs)) in ours.iter().zip(&expected) {
        if let Some(difference) = compare::difference(name, ours, theirs) {
            wrong.push(format!("{name}:\n{difference}"));
        }
    }
    assert!(wrong.is_empty(), "{} answers differ\n{}", wrong.len(), wrong.join("\n"));
}
