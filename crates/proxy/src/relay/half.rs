//! One direction of a relay.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use isthmus_tls::buffers::Buffer;
use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::splice::{Splice, Step};
use super::store::PLAIN;
use crate::balance::Host;
use crate::stream::Stream;

/// What failed: the side that was read from or the one written to.
pub(super) enum Failure {
    Reader(io::Error),
    Writer(io::Error),
}

#[derive(Debug)]
struct Pending {
    buffer: Buffer,
    from: usize,
    to: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The reader has ended, the writer is to learn of it.
    Closing,
    Closed,
}

/// One direction.
#[derive(Debug)]
pub(super) struct Half {
    total: u64,
    state: State,
    /// Kept while there are bytes that the other side did not take yet.
    pending: Option<Box<Pending>>,
    splice: Splice,
    dirty: bool,
    counter: Counter,
    /// Hears of the first byte.
    first: Option<Arc<Host>>,
}

impl Half {
    /// `first` hears of the first byte.
    pub(super) fn new(counter: Counter, first: Option<Arc<Host>>) -> Self {
        Self {
            total: 0,
            state: State::Open,
            pending: None,
            splice: Splice::default(),
            dirty: false,
            counter,
            first,
        }
    }

    /// Bytes moved.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// The writer knows that no more comes.
    pub(super) fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// `last`: the other direction has ended, so both sockets are closed when this one has.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut Stream,
        writer: &mut Stream,
        last: bool,
    ) -> Poll<Result<(), Failure>> {
        loop {
            match self.state {
                State::Closed => return Poll::Ready(Ok(())),
                // The close of a socket with nothing left to read says the end by itself.
                State::Closing if last && let Some(socket) = writer.plain_socket() => {
                    ready!(socket.poll_sent(cx)).map_err(Failure::Writer)?;
                    self.state = State::Closed;
                }
                State::Closing => {
                    let closed = ready!(Pin::new(&mut *writer).poll_shutdown(cx));
                    self.state = State::Closed;
                    match closed {
                        // The peer closed first: nothing is left to say.
                        Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
                        Err(error) => return Poll::Ready(Err(Failure::Writer(error))),
                        Ok(()) => {}
                    }
                }
                State::Open => {
                    if self.splice.is_on()
                        && let (Some(from), Some(to)) = (reader.bare(), writer.plain_socket())
                    {
                        let moved = self.splice.poll(cx, from, to);
                        let count = self.splice.take_moved();
                        self.count(count);
                        match ready!(moved)? {
                            Step::Ended => self.state = State::Closing,
                            Step::Small => {}
                        }
                        continue;
                    }
                    ready!(self.poll_copy(cx, reader, writer))?;
                }
            }
        }
    }

    /// Reads once and writes all of it.
    fn poll_copy(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut Stream,
        writer: &mut Stream,
    ) -> Poll<Result<(), Failure>> {
        if let Some(pending) = &mut self.pending {
            while pending.from < pending.to {
                let bytes = &pending.buffer[pending.from..pending.to];
                match ready!(Pin::new(&mut *writer).poll_write(cx, bytes)) {
                    Ok(0) => return Poll::Ready(Err(Failure::Writer(io::ErrorKind::WriteZero.into()))),
                    Ok(count) => pending.from += count,
                    Err(error) => return Poll::Ready(Err(Failure::Writer(error))),
                }
            }
            self.pending = None;
        }
        let mut buffer = Buffer::take();
        let may_splice = reader.plain_socket().is_some() && writer.plain_socket().is_some();
        let room = if may_splice { PLAIN } else { buffer.len() };
        let mut view = ReadBuf::new(&mut buffer[..room]);
        match Pin::new(&mut *reader).poll_read(cx, &mut view) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(Failure::Reader(error))),
            Poll::Pending => {
                // TLS keeps small writes until asked.
                if self.dirty {
                    match Pin::new(&mut *writer).poll_flush(cx) {
                        Poll::Ready(Ok(())) => self.dirty = false,
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(Failure::Writer(error))),
                        Poll::Pending => {}
                    }
                }
                return Poll::Pending;
            }
        }
        let count = view.filled().len();
        if count == 0 {
            self.state = State::Closing;
            return Poll::Ready(Ok(()));
        }
        self.count(count as u64);
        self.dirty = true;
        if may_splice && count == room {
            self.splice.switch_on();
        }
        // Most writes are taken whole at once: then nothing is kept.
        let mut from = 0;
        while from < count {
            match Pin::new(&mut *writer).poll_write(cx, &buffer[from..count]) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(Failure::Writer(io::ErrorKind::WriteZero.into())));
                }
                Poll::Ready(Ok(written)) => from += written,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Failure::Writer(error))),
                Poll::Pending => {
                    self.pending = Some(Box::new(Pending { buffer, from, to: count }));
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn count(&mut self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        self.total += bytes;
        self.counter.inc_by(bytes);
        if let Some(host) = self.first.take() {
            host.answered();
        }
    }
}
