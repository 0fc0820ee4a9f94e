//! A few verbs of a Kubernetes-style API over plain HTTP on loopback: enough for the command, and no more.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// Objects by path.
#[derive(Clone, Default)]
pub(crate) struct Api {
    objects: Arc<Mutex<BTreeMap<String, Value>>>,
    /// Bodies of TokenRequests, by path.
    pub(crate) asked: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Api {
    /// Stores an object.
    pub(crate) fn put(&self, path: &str, object: Value) {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_string(), object);
    }

    /// An object.
    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned()
    }

    /// Paths below this one.
    pub(crate) fn below(&self, path: &str) -> Vec<String> {
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.keys().filter(|key| key.starts_with(path)).cloned().collect()
    }

    /// Serves it on a port of the kernel's choice, in a thread of its own; the address.
    pub(crate) fn serve(&self) -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        listener.set_nonblocking(true).expect("a listener can be made non-blocking");
        let address = listener.local_addr().expect("a bound listener has an address").to_string();
        let router = Router::new().fallback(answer).with_state(self.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime starts").block_on(async {
                let listener =
                    tokio::net::TcpListener::from_std(listener).expect("the listener is fit for tokio");
                axum::serve(listener, router).await.expect("loopback serves");
            });
        });
        address
    }

    fn answer(&self, method: &Method, path: &str, body: Value) -> Response {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let status = |code: StatusCode, reason: &str| {
            let message = format!("{path}: {reason}");
            let body = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": reason,
                "message": message, "code": code.as_u16(),
            });
            (code, axum::Json(body)).into_response()
        };
        match *method {
            Method::GET => match objects.get(path) {
                Some(object) => axum::Json(object.clone()).into_response(),
                None if path.ends_with("/peers") || path.ends_with("/services") => {
                    let prefix = format!("{path}/");
                    let kind = path.rsplit('/').next().unwrap_or_default();
                    let items: Vec<Value> = objects
                        .iter()
                        .filter(|(key, _)| key.starts_with(&prefix) || key.contains(&format!("/{kind}/")))
                        .map(|(_, object)| object.clone())
                        .collect();
                    axum::Json(json!({ "kind": "List", "apiVersion": "v1", "metadata": {}, "items": items }))
                        .into_response()
                }
                None => status(StatusCode::NOT_FOUND, "NotFound"),
            },
            Method::POST if path.ends_with("/token") => {
                self.asked
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push((path.to_string(), body.clone()));
                let mut answer = body;
                answer["status"] =
                    json!({ "token": "the.bearer.part", "expirationTimestamp": "2026-11-24T08:00:00Z" });
                axum::Json(answer).into_response()
            }
            Method::POST => {
                let key = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap_or_default());
                if objects.contains_key(&key) {
                    return status(StatusCode::CONFLICT, "AlreadyExists");
                }
                let mut object = body;
                object["metadata"]["uid"] = json!(format!("uid-{}", objects.len()));
                object["metadata"]["resourceVersion"] = json!("1");
                objects.insert(key, object.clone());
                (StatusCode::CREATED, axum::Json(object)).into_response()
            }
            Method::PUT => {
                objects.insert(path.to_string(), body.clone());
                axum::Json(body).into_response()
            }
            Method::DELETE => match objects.remove(path) {
                Some(object) => axum::Json(object).into_response(),
                None => status(StatusCode::NOT_FOUND, "NotFound"),
            },
            _ => status(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
        }
    }
}

async fn answer(State(api): State<Api>, method: Method, uri: Uri, body: Bytes) -> Response {
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    api.answer(&method, uri.path(), body)
}

/// Writes a kubeconfig with a context for each API server; the first is the current one.
pub(crate) fn kubeconfig(file: &Path, servers: &[(&str, &str)]) {
    let named = |name: &str, key: &str, value: Value| json!({ "name": name, key: value });
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": servers[0].0,
        "clusters": servers.iter().map(|(name, address)| {
            named(name, "cluster", json!({ "server": format!("http://{address}") }))
        }).collect::<Vec<_>>(),
        "contexts": servers.iter().map(|(name, _)| {
            named(name, "context", json!({ "cluster": name, "user": "admin" }))
        }).collect::<Vec<_>>(),
        "users": [named("admin", "user", json!({}))],
    });
    std::fs::write(file, config.to_string()).expect("a test's directory can be written");
}
