//! Joins two streams until both have ended.
//!
//! An idle connection holds no buffer: one is borrowed from a small store of its thread when there is something to read, and
//! goes back when all of it was written. Where both sides are plain TCP, a direction that moves much does so inside the
//! kernel (splice), with a pipe borrowed in the same way; small messages stay in user space, where they cost fewer calls.

pub(crate) mod clock;
mod half;
mod splice;
mod store;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use isthmus_socket::Socket;
use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

use crate::balance::Host;
use crate::flows::Moved;
use crate::stream::{Stream, reset};
use clock::{Alarm, Clock};
use half::{Failure, Half};

/// Most connections of a mesh without connection pools have ended by then.
const YOUNG: Duration = Duration::from_secs(2);

/// When a relay gives up by itself.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Patience {
    /// Without a byte in either direction; none: for ever.
    pub(crate) idle: Option<Duration>,
    /// In all.
    pub(crate) until: Option<Instant>,
}

impl Patience {
    /// When to look next.
    fn next(&self) -> Instant {
        const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);
        let idle = Instant::now() + self.idle.unwrap_or(NEVER).min(NEVER);
        self.until.map_or(idle, |until| until.min(idle))
    }
}

/// How it ended.
#[derive(Debug)]
pub(crate) enum End {
    /// Both sides said their end.
    Finished,
    /// The downstream connection broke.
    Downstream(io::Error),
    /// The upstream connection broke.
    Upstream(io::Error),
    /// No byte for too long.
    Idle,
    /// It reached its longest life.
    Expired,
    /// The proxy stops.
    Cut,
}

/// Bytes moved, as they move.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meter {
    /// From upstream to downstream.
    pub(crate) sent: Counter,
    /// From downstream to upstream.
    pub(crate) received: Counter,
}

/// What was moved and how it ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) end: End,
}

/// Two streams to be joined, and what was moved so far.
pub(crate) struct Relay {
    downstream: Stream,
    upstream: Stream,
    received: Half,
    sent: Half,
}

impl Relay {
    /// `host` hears of the first byte that upstream sends. `forwarded` bytes went upstream before.
    pub(crate) fn new(
        downstream: Stream,
        upstream: Stream,
        host: Option<Arc<Host>>,
        forwarded: u64,
        meter: Meter,
    ) -> Self {
        let mut received = Half::new(meter.received, None);
        received.count(forwarded);
        Self { downstream, upstream, received, sent: Half::new(meter.sent, host) }
    }

    /// The connection with the upstream.
    pub(crate) fn upstream(&self) -> &Socket {
        self.upstream.tcp()
    }

    /// Joins them until both have ended, one broke, or patience did. `grown` is called with the upstream once the connection has
    /// outlived the shortest ones: what only a long life needs costs those nothing.
    pub(crate) fn run<'a>(
        &'a mut self,
        patience: Patience,
        clock: &'a Clock,
        moved: &'a Moved,
        grown: impl Fn(&Socket) + Unpin + 'a,
    ) -> impl Future<Output = Outcome> + 'a {
        let mut run = Run { relay: self, patience, clock, moved, grown, alarm: None, young: true, seen: 0 };
        std::future::poll_fn(move |cx| {
            let end = ready!(run.poll(cx));
            Poll::Ready(run.relay.ended(end))
        })
    }

    fn ended(&self, end: End) -> Outcome {
        if !matches!(end, End::Finished) {
            // A broken connection must not look like a finished one to the other side.
            reset(self.downstream.tcp());
            reset(self.upstream.tcp());
        }
        Outcome { sent: self.sent.total(), received: self.received.total(), end }
    }

    fn poll_move(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        // Both directions before either's result: what one has read when the other breaks is not lost.
        let up = self.received.poll(cx, &mut self.downstream, &mut self.upstream, self.sent.is_closed());
        let down = self.sent.poll(cx, &mut self.upstream, &mut self.downstream, self.received.is_closed());
        match (up, down) {
            (Poll::Ready(Err(Failure::Reader(error))), _) | (_, Poll::Ready(Err(Failure::Writer(error)))) => {
                Poll::Ready(End::Downstream(error))
            }
            (Poll::Ready(Err(Failure::Writer(error))), _) | (_, Poll::Ready(Err(Failure::Reader(error)))) => {
                Poll::Ready(End::Upstream(error))
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(End::Finished),
            _ => Poll::Pending,
        }
    }
}

/// A relay in motion. Written out, since it is kept for as long as its connection.
struct Run<'a, G> {
    relay: &'a mut Relay,
    patience: Patience,
    clock: &'a Clock,
    moved: &'a Moved,
    grown: G,
    alarm: Option<Alarm<'a>>,
    young: bool,
    /// Bytes when the alarm last rang.
    seen: u64,
}

impl<G: Fn(&Socket)> Run<'_, G> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if self.clock.is_cut() {
            return Poll::Ready(End::Cut);
        }
        let polled = self.relay.poll_move(cx);
        let (received, sent) = (self.relay.received.total(), self.relay.sent.total());
        self.moved.set(received, sent);
        if polled.is_ready() {
            return polled;
        }
        // The alarm is not set anew at each byte: when it rings it is seen whether any came.
        let next = match &self.alarm {
            Some(alarm) if !alarm.has_rung() => return Poll::Pending,
            None => self.patience.next().min(Instant::now() + YOUNG),
            Some(_) => {
                if self.patience.until.is_some_and(|until| Instant::now() >= until) {
                    return Poll::Ready(End::Expired);
                }
                if std::mem::take(&mut self.young) {
                    (self.grown)(self.relay.upstream.tcp());
                } else if received + sent == self.seen && self.patience.idle.is_some() {
                    return Poll::Ready(End::Idle);
                }
                self.seen = received + sent;
                self.patience.next()
            }
        };
        self.alarm = Some(self.clock.set(next, cx.waker()));
        Poll::Pending
    }
}
