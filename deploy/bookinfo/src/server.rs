//! The HTTP server that every service uses: bounded connections, headers, bodies and waits.

use std::convert::Infallible;
use std::future::Future;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

const MAX_CONNECTIONS: usize = 1024;
const MAX_HEADERS: usize = 32 * 1024;
const MAX_BODY: usize = 64 * 1024;
/// How long a client may take over its headers, which is also how long an idle connection is kept.
const HEADERS_WITHIN: Duration = Duration::from_secs(30);
const STOP_WITHIN: Duration = Duration::from_secs(3);

/// An answer.
pub(crate) type Reply = Response<Full<Bytes>>;

/// What one request brought; its body is whole and bounded.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Ask {
    /// The path's segments, without empty ones.
    pub(crate) fn segments(&self) -> Vec<&str> {
        self.path.split('/').filter(|segment| !segment.is_empty()).collect()
    }
}

/// One of Bookinfo's services.
pub(crate) trait Answer: Send + Sync + 'static {
    /// Answers one request; errors are answers too.
    fn answer(&self, ask: Ask) -> impl Future<Output = Reply> + Send;
}

/// Serves until SIGTERM or SIGINT, then lets what runs finish for a few seconds.
pub(crate) async fn serve<A: Answer>(port: u16, service: A) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
        .await
        .with_context(|| format!("port {port} cannot be listened on"))?;
    println!("listening on port {port}");
    let service = Arc::new(service);
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        // The semaphore is never closed; waiting for a permit leaves further clients in the kernel's queue.
        let next = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let accepted = tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            Some(_) = connections.join_next() => continue,
            accepted = next => accepted,
        };
        match accepted {
            (permit, Ok((stream, _))) => {
                let service = Arc::clone(&service);
                connections.spawn(async move {
                    connection(stream, service).await;
                    drop(permit);
                });
            }
            // Out of descriptors, or the client is gone already: neither ends the service.
            (_, Err(error)) => {
                eprintln!("accept: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    let _ =
        tokio::time::timeout(STOP_WITHIN, async { while connections.join_next().await.is_some() {} }).await;
    Ok(())
}

async fn connection<A: Answer>(stream: TcpStream, service: Arc<A>) {
    // Only a latency hint.
    let _ = stream.set_nodelay(true);
    let handler = service_fn(move |request: Request<Incoming>| {
        let service = Arc::clone(&service);
        async move { Ok::<_, Infallible>(handle(request, &*service).await) }
    });
    // A client that breaks off is its own affair.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        .max_buf_size(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), handler)
        .await;
}

async fn handle<A: Answer>(request: Request<Incoming>, service: &A) -> Reply {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let (method, path) = (parts.method, parts.uri.path().to_string());
    let body = tokio::time::timeout(HEADERS_WITHIN, Limited::new(body, MAX_BODY).collect()).await;
    let reply = match body {
        Ok(Ok(body)) => {
            let ask = Ask {
                method: method.clone(),
                path: path.clone(),
                headers: parts.headers,
                body: body.to_bytes(),
            };
            service.answer(ask).await
        }
        Ok(Err(_)) => failure(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large or was cut off"),
        Err(_) => failure(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"),
    };
    if path != "/health" {
        println!("{method} {path} {} {} ms", reply.status().as_u16(), started.elapsed().as_millis());
    }
    reply
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Reply {
    match serde_json::to_vec(value) {
        Ok(body) => with_type(status, "application/json", body.into()),
        Err(error) => {
            failure(StatusCode::INTERNAL_SERVER_ERROR, &format!("the answer cannot be written: {error}"))
        }
    }
}

/// `{"error": …}`.
pub(crate) fn failure(status: StatusCode, error: &str) -> Reply {
    let body = serde_json::json!({ "error": error }).to_string();
    with_type(status, "application/json", body.into())
}

/// An answer of this media type.
pub(crate) fn with_type(status: StatusCode, kind: &'static str, body: Bytes) -> Reply {
    let mut reply = Response::new(Full::new(body));
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    reply
}

/// For an id in `/SERVICE/ID` that is no number.
pub(crate) fn not_an_id() -> Reply {
    failure(StatusCode::BAD_REQUEST, "please provide numeric product ID")
}

/// For what no service serves.
pub(crate) fn not_found(ask: &Ask) -> Reply {
    failure(StatusCode::NOT_FOUND, &format!("nothing is served at {} {}", ask.method, ask.path))
}
