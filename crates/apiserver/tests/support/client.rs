//! Plain requests to the API in process.

#![allow(dead_code, reason = "each test file uses its part")]

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use futures::StreamExt;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use isthmus_apiserver::{ApiServer, Config};
use isthmus_lifecycle::{Drain, TaskGroup};
use isthmus_store::EmbeddedStore;
use serde_json::Value;
use tower::ServiceExt;

/// An API over a store in a temporary folder.
pub(crate) struct Api {
    pub(crate) server: ApiServer,
    pub(crate) admin: Client,
    drain: Drain,
    _dir: tempfile::TempDir,
}

impl Api {
    pub(crate) async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let store = EmbeddedStore::open(&dir.path().join("store.redb")).expect("a store");
        let drain = Drain::new();
        let mut config = Config::new(Arc::new(store), TaskGroup::new("api", drain.clone()));
        change(&mut config);
        let server = ApiServer::start(config).await.expect("the API starts");
        let admin = Client(server.router_as("admin", &["system:masters"]));
        Self { server, admin, drain, _dir: dir }
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.drain.immediate();
    }
}

/// One caller.
#[derive(Clone)]
pub(crate) struct Client(pub(crate) Router);

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: StatusCode,
    pub(crate) warnings: Vec<String>,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }

    /// The body of a success.
    pub(crate) fn good(self) -> Value {
        assert!(self.code.is_success(), "{} {}", self.code, self.body);
        self.body
    }
}

impl Client {
    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.0.clone().oneshot(request).await.expect("an answer");
        let code = response.status();
        let warnings = response.headers().get_all("warning").iter();
        let warnings = warnings.map(|value| value.to_str().expect("text").to_string()).collect();
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Answer { code, warnings, body }
    }

    pub(crate) async fn call(&self, method: &str, path: &str, media: &str, body: &str) -> Answer {
        let request = Request::builder().method(method).uri(path).header("content-type", media);
        self.send(request.body(Body::from(body.to_string())).expect("a request")).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, "application/json", "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call("POST", path, "application/json", &body.to_string()).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.call("PUT", path, "application/json", &body.to_string()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.call("DELETE", path, "application/json", "").await
    }

    pub(crate) async fn merge(&self, path: &str, body: &Value) -> Answer {
        self.call("PATCH", path, "application/merge-patch+json", &body.to_string()).await
    }

    pub(crate) async fn apply(&self, path: &str, body: &Value) -> Answer {
        self.call("PATCH", path, "application/apply-patch+yaml", &body.to_string()).await
    }

    /// A running watch.
    pub(crate) async fn watch(&self, path: &str) -> Watch {
        let request = Request::builder().uri(path).body(Body::empty()).expect("a request");
        let response = self.0.clone().oneshot(request).await.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK);
        Watch { stream: Box::pin(response.into_body().into_data_stream()), buffer: Vec::new() }
    }

    /// Waits until an object is gone.
    pub(crate) async fn gone(&self, path: &str, collection: &str) {
        let wait = async {
            let list = self.get(collection).await.good();
            let version = list["metadata"]["resourceVersion"].as_str().expect("a version").to_string();
            let mut watch = self.watch(&format!("{collection}?watch=1&resourceVersion={version}")).await;
            while self.get(path).await.code != StatusCode::NOT_FOUND {
                watch.next().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), wait).await.expect("it goes");
    }
}

/// A running watch.
pub(crate) struct Watch {
    stream: futures::stream::BoxStream<'static, Result<bytes::Bytes, axum::Error>>,
    buffer: Vec<u8>,
}

impl Watch {
    /// The next event: its type and its object.
    pub(crate) async fn next(&mut self) -> (String, Value) {
        let wait = async {
            loop {
                if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = self.buffer.drain(..=end).collect();
                    return serde_json::from_slice::<Value>(&line).expect("JSON");
                }
                let chunk = self.stream.next().await.expect("the watch runs").expect("a chunk");
                self.buffer.extend_from_slice(&chunk);
            }
        };
        let mut event =
            tokio::time::timeout(std::time::Duration::from_secs(20), wait).await.expect("an event arrives");
        (event["type"].as_str().expect("a type").to_string(), event["object"].take())
    }
}
