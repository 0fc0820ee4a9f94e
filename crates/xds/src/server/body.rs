//! The response body: asks for one message at a time, and only when the connection can take it.
//!
//! Between the stream's task and the body there is a slot for one message and nothing else, so that an idle stream costs little and a
//! slow one no more.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame};
use parking_lot::Mutex;
use tonic::Status;

use crate::payload::{self, Part};
use crate::subscription::Response;

/// What both ends see.
#[derive(Default)]
struct Slot {
    /// The body waits for a message.
    wanted: bool,
    message: Option<Response>,
    /// How the stream ends, once the message is taken.
    end: Option<Status>,
    /// The connection has dropped the body.
    gone: bool,
    task: Option<Waker>,
    body: Option<Waker>,
}

/// The task's end.
pub(super) struct Sender(Arc<Mutex<Slot>>);

/// The connection's end.
pub(super) struct ResponseBody {
    slot: Arc<Mutex<Slot>>,
    /// The message that is being written: its head, then its shared segments.
    head: Option<Bytes>,
    segments: VecDeque<Bytes>,
    ended: bool,
}

/// Two ends.
pub(super) fn channel() -> (Sender, ResponseBody) {
    let slot = Arc::new(Mutex::new(Slot::default()));
    let body = ResponseBody { slot: Arc::clone(&slot), head: None, segments: VecDeque::new(), ended: false };
    (Sender(slot), body)
}

impl Sender {
    /// Completes when the client can take a message, and takes note that it will get one. Dropping the future loses nothing.
    pub(super) async fn wanted(&self) {
        poll_fn(|context| self.poll(context, |slot| std::mem::take(&mut slot.wanted))).await;
    }

    /// The message was not needed after all; the next one is still wanted.
    pub(super) fn not_now(&self) {
        self.0.lock().wanted = true;
    }

    /// Sends a message after [`Sender::wanted`].
    pub(super) fn send(&self, response: Response) {
        let waker = {
            let mut slot = self.0.lock();
            slot.message = Some(response);
            // The connection may have asked twice for this one.
            slot.wanted = false;
            slot.body.take()
        };
        wake(waker);
    }

    /// Ends the stream with this status.
    pub(super) fn end(&self, status: Status) {
        let waker = {
            let mut slot = self.0.lock();
            slot.end.get_or_insert(status);
            slot.body.take()
        };
        wake(waker);
    }

    /// Completes when the connection has dropped the body.
    pub(super) async fn gone(&self) {
        poll_fn(|context| self.poll(context, |slot| slot.gone)).await;
    }

    /// One task polls this end, whatever it waits for: one waker is enough.
    fn poll(&self, context: &Context<'_>, ready: impl FnOnce(&mut Slot) -> bool) -> Poll<()> {
        let mut slot = self.0.lock();
        if ready(&mut slot) {
            return Poll::Ready(());
        }
        keep(&mut slot.task, context);
        Poll::Pending
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.end(Status::internal("the stream's task ended early; this is a bug"));
    }
}

fn keep(kept: &mut Option<Waker>, context: &Context<'_>) {
    match kept {
        Some(known) if known.will_wake(context.waker()) => {}
        _ => *kept = Some(context.waker().clone()),
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl ResponseBody {
    fn load(&mut self, response: &Response) {
        let empty = Part::default();
        let part = response.payload.parts.get(response.part).unwrap_or(&empty);
        self.head = Some(payload::head(&response.type_url, response.version, &response.nonce, part));
        self.segments.extend(part.segments.iter().cloned());
    }

    /// What the task has put into the slot: a message, or the end.
    fn take(&mut self, context: &Context<'_>) -> Poll<Result<Response, Status>> {
        let mut slot = self.slot.lock();
        if let Some(message) = slot.message.take() {
            return Poll::Ready(Ok(message));
        }
        if let Some(status) = slot.end.take() {
            return Poll::Ready(Err(status));
        }
        keep(&mut slot.body, context);
        let waker = if std::mem::replace(&mut slot.wanted, true) { None } else { slot.task.take() };
        drop(slot);
        wake(waker);
        Poll::Pending
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        let waker = {
            let mut slot = self.slot.lock();
            slot.gone = true;
            slot.message = None;
            slot.task.take()
        };
        wake(waker);
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
            // Room for the segments of the largest message is not kept for a stream that is idle.
            body.segments = VecDeque::new();
            if body.ended {
                return Poll::Ready(None);
            }
            match body.take(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(response)) => body.load(&response),
                Poll::Ready(Err(status)) => {
                    body.ended = true;
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

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::payload::Payload;

    fn response(nonce: &str) -> Response {
        Response {
            type_url: "type.googleapis.com/test.Thing".into(),
            version: 1,
            nonce: nonce.to_string(),
            payload: Payload::empty(),
            part: 0,
        }
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_never_sent_a_second_message() {
        let (sender, mut body) = channel();
        assert!(sender.wanted().now_or_never().is_none(), "nobody has asked");
        assert!(body.frame().now_or_never().is_none());
        assert!(body.frame().now_or_never().is_none());
        sender.wanted().await;
        assert!(body.frame().now_or_never().is_none(), "it asks again before it is answered");
        sender.send(response("1"));
        assert!(sender.wanted().now_or_never().is_none(), "one message is on its way");
        let read = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(read.ends_with(b"1"));
        assert!(sender.wanted().now_or_never().is_none(), "the client has not come back for more");
        assert!(body.frame().now_or_never().is_none());
        sender.wanted().await;
        sender.send(response("2"));
        sender.end(Status::ok(""));
        assert!(body.frame().await.unwrap().unwrap().into_data().unwrap().ends_with(b"2"));
        let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "0");
        drop(body);
        sender.gone().await;
    }

    #[tokio::test]
    async fn a_task_that_is_dropped_ends_the_stream() {
        let (sender, mut body) = channel();
        drop(sender);
        let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "13");
    }
}
