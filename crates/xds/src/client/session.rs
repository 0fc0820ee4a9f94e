//! One connection: from dialing to its end.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use http::{HeaderValue, Method, Request, header};
use http_body::Frame;
use http_body_util::StreamBody;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use isthmus_lifecycle::TaskGroup;
use prost::Message;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::interest::{Told, answer};
use super::{Client, Connection, Handler, Rejection, Version};
use crate::frame::{FrameError, FrameReader, frame};
use crate::wire::DeltaResponse;

const METHOD: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// Requests that the server has not read yet.
const UNREAD: usize = 64;
/// Time for the server to read one of them.
const READING: Duration = Duration::from_secs(30);

/// Why a stream ended.
#[derive(Debug, Error)]
pub enum SessionError {
    /// No connection.
    #[error("cannot connect to the control plane: {0}")]
    Dial(#[from] std::io::Error),
    /// No connection or no answer in time.
    #[error("the control plane did not answer within {0:?}")]
    Timeout(Duration),
    /// HTTP/2 failed, unanswered pings among them.
    #[error("connection to the control plane failed: {0}")]
    Http2(String),
    /// The server answered with something that is not gRPC.
    #[error("the control plane answered HTTP {0} instead of gRPC")]
    NotGrpc(http::StatusCode),
    /// The server ended the stream.
    #[error("the control plane ended the stream: {:?}: {}", .0.code(), .0.message())]
    Status(Box<Status>),
    /// The server ended the stream without a word.
    #[error("the control plane closed the stream")]
    Ended,
    /// What came is no message of the protocol.
    #[error("the control plane sent what cannot be read: {0}")]
    Malformed(String),
    /// The server does not read.
    #[error("the control plane has not read a request for {READING:?}")]
    NotReading,
}

impl From<hyper::Error> for SessionError {
    fn from(error: hyper::Error) -> Self {
        let source =
            std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        Self::Http2(format!("{error}{source}"))
    }
}

/// Runs hyper's tasks in our group.
#[derive(Clone)]
struct Executor(TaskGroup);

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Executor {
    fn execute(&self, future: F) {
        self.0.spawn_infallible("xds client connection", async move {
            future.await;
        });
    }
}

type RequestBody = StreamBody<
    tokio_stream::adapters::Map<ReceiverStream<Bytes>, fn(Bytes) -> Result<Frame<Bytes>, Infallible>>,
>;

impl<H: Handler> Client<H> {
    /// One stream, until it ends.
    pub(super) async fn session(&mut self) -> Result<Infallible, SessionError> {
        let limit = self.config.connect_timeout;
        let io = timeout(limit, self.connector.dial()).await.map_err(|_| SessionError::Timeout(limit))??;
        let handshake = http2::Builder::new(Executor(self.tasks.clone()))
            .timer(TokioTimer::new())
            .keep_alive_interval(self.config.ping)
            .keep_alive_timeout(self.config.ping)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(1024 * 1024)
            .initial_connection_window_size(1024 * 1024)
            .handshake(TokioIo::new(io));
        let (mut sender, connection) =
            timeout(limit, handshake).await.map_err(|_| SessionError::Timeout(limit))??;
        let ended = CancellationToken::new();
        let _ends_with_us = ended.clone().drop_guard();
        self.tasks.spawn_infallible("xds client connection", async move {
            tokio::select! {
                result = connection => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "discovery connection ended");
                    }
                }
                () = ended.cancelled() => {}
            }
        });
        let (requests, outgoing) = mpsc::channel(UNREAD);
        let data: fn(Bytes) -> Result<Frame<Bytes>, Infallible> = |bytes| Ok(Frame::data(bytes));
        let body: RequestBody = StreamBody::new(ReceiverStream::new(outgoing).map(data));
        let answered = sender.send_request(self.http_request(body)?);
        // The server may wait for the first request before it answers.
        let mut told = Told::default();
        let mut introduced = false;
        self.tell(&mut told, &mut introduced, &requests).await?;
        let response = timeout(limit, answered).await.map_err(|_| SessionError::Timeout(limit))??;
        if response.status() != http::StatusCode::OK {
            return Err(SessionError::NotGrpc(response.status()));
        }
        if let Some(status) = Status::from_header_map(response.headers()) {
            return Err(SessionError::Status(Box::new(status)));
        }
        let mut responses = FrameReader::new(response.into_body(), self.config.response_bytes);
        let shared = Arc::clone(&self.shared);
        loop {
            let message = tokio::select! {
                biased;
                () = shared.changed.notified() => {
                    self.tell(&mut told, &mut introduced, &requests).await?;
                    continue;
                }
                message = responses.next() => message,
            };
            let message = message.map_err(|error| match error {
                FrameError::Body(problem) => SessionError::Http2(problem),
                other => SessionError::Malformed(other.to_string()),
            })?;
            let Some(message) = message else { return Err(ending(&responses)) };
            self.connection.send_if_modified(|state| {
                std::mem::replace(state, Connection::Connected) != Connection::Connected
            });
            self.take_in(message, &mut told, &requests).await?;
        }
    }

    fn http_request(&self, body: RequestBody) -> Result<Request<RequestBody>, SessionError> {
        let uri = format!("https://{}{METHOD}", self.config.authority);
        let mut request = Request::builder().method(Method::POST).uri(uri).body(body).map_err(|error| {
            SessionError::Malformed(format!("authority {:?}: {error}", self.config.authority))
        })?;
        let headers = request.headers_mut();
        headers.extend(self.config.headers.clone());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        Ok(request)
    }

    /// Tells the server what has changed in what we ask for. The first request of a stream carries the node.
    async fn tell(
        &mut self,
        told: &mut Told,
        introduced: &mut bool,
        requests: &mpsc::Sender<Bytes>,
    ) -> Result<(), SessionError> {
        let news = told.catch_up(&mut self.shared.desired.lock(), &mut self.have);
        for mut request in news {
            if !std::mem::replace(introduced, true) {
                request.node = Some(self.config.node.clone());
            }
            send(requests, &request).await?;
        }
        Ok(())
    }

    /// Applies one response and answers it.
    async fn take_in(
        &mut self,
        message: Bytes,
        told: &mut Told,
        requests: &mpsc::Sender<Bytes>,
    ) -> Result<(), SessionError> {
        let length = message.len();
        let response =
            DeltaResponse::decode(message).map_err(|error| SessionError::Malformed(error.to_string()))?;
        let nonce = response.nonce.clone();
        let update = told
            .update(response, length, &self.shared.desired.lock(), &self.have)
            .map_err(|error| SessionError::Malformed(error.to_string()))?;
        let type_url = update.type_url.clone();
        let versions =
            update.upserts.iter().map(|upsert| (Arc::clone(&upsert.name), upsert.version.clone())).collect();
        let removed = update.removed.clone();
        let rejections = self.handler.apply(update).await;
        for rejection in &rejections {
            tracing::warn!(
                r#type = type_url,
                name = &*rejection.name,
                reason = rejection.reason,
                "refused a resource"
            );
        }
        self.noted(&type_url, versions, &removed, &rejections);
        send(requests, &answer(type_url, nonce, &rejections)).await
    }

    fn noted(
        &mut self,
        type_url: &str,
        versions: Vec<(Arc<str>, Version)>,
        removed: &[Arc<str>],
        rejections: &[Rejection],
    ) {
        let desired = self.shared.desired.lock();
        self.have.applied(type_url, versions, removed, rejections, desired.find(type_url));
    }
}

async fn send(requests: &mpsc::Sender<Bytes>, request: &DeltaDiscoveryRequest) -> Result<(), SessionError> {
    match timeout(READING, requests.send(frame(request))).await {
        Ok(Ok(())) => Ok(()),
        // The connection has dropped the request body.
        Ok(Err(_)) => Err(SessionError::Ended),
        Err(_) => Err(SessionError::NotReading),
    }
}

fn ending(responses: &FrameReader<Incoming>) -> SessionError {
    let status = responses.trailers().and_then(Status::from_header_map);
    match status {
        Some(status) if status.code() != tonic::Code::Ok => SessionError::Status(Box::new(status)),
        _ => SessionError::Ended,
    }
}
