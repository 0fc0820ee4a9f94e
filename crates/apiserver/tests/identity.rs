//! Tokens, who may do what, and the paths that are open.

#[path = "support/client.rs"]
mod client;
#[path = "support/served.rs"]
mod served;

use std::time::{Duration, UNIX_EPOCH};

use client::{Api, Client};
use http::StatusCode;
use isthmus_lifecycle::ManualClock;
use serde_json::{Value, json};
use served::Served;

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

async fn account(admin: &Client, name: &str) -> Value {
    admin.post(ACCOUNTS, &json!({"metadata": {"name": name}})).await.good()
}

async fn token(admin: &Client, name: &str, spec: Value) -> String {
    let answer = admin.post(&format!("{ACCOUNTS}/{name}/token"), &json!({"spec": spec})).await.good();
    answer["status"]["token"].as_str().expect("a token").to_string()
}

async fn review(admin: &Client, token: &str, audience: &str) -> Value {
    let spec = json!({"spec": {"token": token, "audiences": [audience]}});
    admin.post(REVIEWS, &spec).await.good()["status"].take()
}

#[tokio::test]
async fn a_token_is_good_for_its_audience_until_it_expires() {
    let clock = ManualClock::new(UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    let moved = clock.clone();
    let api = Api::start(|config| config.clock = std::sync::Arc::new(clock)).await;
    let made = account(&api.admin, "web").await;
    let text = token(&api.admin, "web", json!({"audiences": ["x"], "expirationSeconds": 600})).await;
    let good = review(&api.admin, &text, "x").await;
    assert_eq!(good["authenticated"], true);
    assert_eq!(good["user"]["username"], "system:serviceaccount:default:web");
    assert_eq!(good["user"]["uid"], made["metadata"]["uid"]);
    assert_eq!(good["audiences"], json!(["x"]));
    assert!(review(&api.admin, &text, "y").await["authenticated"].is_null());
    let mut forged: Vec<char> = text.chars().collect();
    let middle = text.find('.').expect("a dot") + 5;
    forged[middle] = if forged[middle] == 'A' { 'B' } else { 'A' };
    let forged: String = forged.into_iter().collect();
    assert!(review(&api.admin, &forged, "x").await["authenticated"].is_null());
    moved.advance(Duration::from_secs(601));
    let late = review(&api.admin, &text, "x").await;
    assert!(late["error"].as_str().expect("an error").contains("expired"), "{late}");
    let short =
        api.admin.post(&format!("{ACCOUNTS}/web/token"), &json!({"spec": {"expirationSeconds": 60}})).await;
    assert_eq!(short.code, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn a_token_dies_with_what_it_is_bound_to() {
    let api = Api::start(|_| {}).await;
    account(&api.admin, "web").await;
    let secret = json!({"metadata": {"name": "join"}, "type": "isthmus.io/vm-join"});
    api.admin.post(SECRETS, &secret).await.good();
    let bound =
        json!({"audiences": ["x"], "boundObjectRef": {"kind": "Secret", "apiVersion": "v1", "name": "join"}});
    let text = token(&api.admin, "web", bound).await;
    assert_eq!(review(&api.admin, &text, "x").await["authenticated"], true);
    api.admin.delete(&format!("{SECRETS}/join")).await.good();
    assert!(review(&api.admin, &text, "x").await["authenticated"].is_null());
    api.admin.post(SECRETS, &secret).await.good();
    assert!(review(&api.admin, &text, "x").await["authenticated"].is_null(), "a namesake is another");
    let plain = token(&api.admin, "web", json!({"audiences": ["x"]})).await;
    api.admin.delete(&format!("{ACCOUNTS}/web")).await.good();
    account(&api.admin, "web").await;
    assert!(review(&api.admin, &plain, "x").await["authenticated"].is_null());
}

#[tokio::test]
async fn the_control_plane_writes_what_it_makes_and_not_what_users_own() {
    let api = Api::start(|_| {}).await;
    let plane = Client(api.server.router());
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    plane.post("/api/v1/namespaces/default/pods", &pod).await.good();
    assert_eq!(plane.get("/api/v1/secrets").await.code, StatusCode::OK);
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    let refused = plane.post("/api/v1/namespaces/default/services", &service).await;
    assert_eq!(refused.code, StatusCode::FORBIDDEN);
    assert_eq!(
        refused.message(),
        "services is forbidden: User \"isthmus:control-plane\" cannot create resource \"services\" in API group \"\" in \
         the namespace \"default\""
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_only_the_known_are_served() {
    let served = Served::start().await;
    let Some(kubectl) = served.kubectl() else { return };
    let refused = |text: String, why: &str| assert!(text.contains(why), "{text}");
    kubectl.ok(&["get", "--raw", "/readyz"], "").await;
    kubectl.ok(&["create", "serviceaccount", "web"], "").await;
    let token = kubectl.ok(&["create", "token", "web"], "").await;
    served.write_kubeconfig("guest", "nobody");
    let as_guest = |arguments: &[&str]| {
        let mut all = vec!["--kubeconfig=guest.kubeconfig"];
        all.extend_from_slice(arguments);
        all.into_iter().map(str::to_string).collect::<Vec<_>>()
    };
    let run = async |arguments: Vec<String>| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        kubectl.run(&arguments, "").await
    };
    refused(run(as_guest(&["get", "pods"])).await.err, "User \"guest\" cannot list resource \"pods\"");
    assert_eq!(
        run(as_guest(&["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"])).await.out,
        "guest"
    );
    let server = format!("--server=https://{}", served.address);
    let bare = |token: &str| {
        let mut all = vec!["--kubeconfig=/dev/null".to_string(), server.clone()];
        all.push("--certificate-authority=admin.ca".to_string());
        all.push(format!("--token={token}"));
        all
    };
    let mut own = bare(&token);
    own.extend(["get", "serviceaccount", "web", "-o", "name"].map(str::to_string));
    assert_eq!(run(own).await.out, "serviceaccount/web");
    let mut others = bare(&token);
    others.extend(["get", "secrets"].map(str::to_string));
    refused(run(others).await.err, "cannot list resource \"secrets\"");
    let mut forged = bare("x.y.z");
    forged.extend(["get", "pods"].map(str::to_string));
    refused(run(forged).await.err, "Unauthorized");
}
