//! The response body: asks for one message at a time, and only when the connection can take it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::sync::{Semaphore, mpsc};
use tonic::Status;

use crate::payload::{self, Part};
use crate::subscription::Response;

/// What a stream's task hands over.
enum Out {
    Message(Response),
    End(Status),
}

/// The task's end.
pub(super) struct Sender {
    out: mpsc::Sender<Out>,
    /// One permit for each message that the body is waiting for: at most one.
    wanted: Arc<Semaphore>,
}

/// The connection's end.
pub(super) struct ResponseBody {
    out: mpsc::Receiver<Out>,
    wanted: Arc<Semaphore>,
    asked: bool,
    /// The message that is being written: its head, then its shared segments.
    head: Option<Bytes>,
    segments: VecDeque<Bytes>,
    ended: bool,
}

/// Two ends.
pub(super) fn channel() -> (Sender, ResponseBody) {
    // One message on its way and one end; the task never waits for room.
    let (sender, out) = mpsc::channel(2);
    let wanted = Arc::new(Semaphore::new(0));
    let body = ResponseBody {
        out,
        wanted: Arc::clone(&wanted),
        asked: false,
        head: None,
        segments: VecDeque::new(),
        ended: false,
    };
    (Sender { out: sender, wanted }, body)
}

impl Sender {
    /// Completes when the client can take a message, and takes note that it will get one. Dropping the future loses nothing.
    pub(super) async fn wanted(&self) {
        match self.wanted.acquire().await {
            Ok(permit) => permit.forget(),
            // The semaphore is never closed.
            Err(_) => std::future::pending().await,
        }
    }

    /// The message was not needed after all; the next one is still wanted.
    pub(super) fn not_now(&self) {
        self.wanted.add_permits(1);
    }

    /// Sends a message after [`Sender::wanted`].
    pub(super) fn send(&self, response: Response) {
        // There is room: at most one message is asked for at a time. A gone client is noticed by `gone`.
        let _ = self.out.try_send(Out::Message(response));
    }

    /// Ends the stream with this status.
    pub(super) fn end(&self, status: Status) {
        let _ = self.out.try_send(Out::End(status));
    }

    /// Completes when the connection has dropped the body.
    pub(super) async fn gone(&self) {
        self.out.closed().await;
    }
}

impl ResponseBody {
    fn load(&mut self, response: &Response) {
        let empty = Part::default();
        let part = response.payload.parts.get(response.part).unwrap_or(&empty);
        self.head = Some(payload::head(&response.type_url, response.version, &response.nonce, part));
        self.segments.extend(part.segments.iter().cloned());
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let body = &mut *self;
        loop {
            if let Some(bytes) = body.head.take().or_else(|| body.segments.pop_front()) {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            if body.ended {
                return Poll::Ready(None);
            }
            if !body.asked {
                body.asked = true;
                body.wanted.add_permits(1);
            }
            match body.out.poll_recv(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Out::Message(response))) => {
                    body.asked = false;
                    body.load(&response);
                }
                Poll::Ready(end) => {
                    body.ended = true;
                    let status = match end {
                        Some(Out::End(status)) => status,
                        _ => Status::internal("the stream's task ended early; this is a bug"),
                    };
                    let mut trailers = http::HeaderMap::new();
                    // Fails only for a message that no header can hold; the code is written first.
                    let _ = status.add_header(&mut trailers);
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}
