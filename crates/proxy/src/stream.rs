//! The streams that are joined: plain TCP, and TLS of either side.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use isthmus_socket::Socket;
use isthmus_tls::TlsStream;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One side of a connection.
pub(crate) enum Stream {
    Plain(Socket),
    /// Plain, with bytes that were read before.
    Begun(Box<Prefixed>),
    Client(Box<TlsStream<Socket>>),
    Server(Box<TlsStream<Prefixed>>),
}

/// A TCP stream whose first bytes were already read.
#[derive(Debug)]
pub(crate) struct Prefixed {
    prefix: Vec<u8>,
    read: usize,
    inner: Socket,
}

impl Prefixed {
    pub(crate) fn new(prefix: Vec<u8>, inner: Socket) -> Self {
        Self { prefix, read: 0, inner }
    }
}

impl Stream {
    /// Plain, after `first` bytes.
    pub(crate) fn plain(first: Vec<u8>, inner: Socket) -> Self {
        if first.is_empty() { Self::Plain(inner) } else { Self::Begun(Box::new(Prefixed::new(first, inner))) }
    }

    pub(crate) fn tcp(&self) -> &Socket {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Begun(begun) => &begun.inner,
            Self::Client(tls) => tls.get_ref(),
            Self::Server(tls) => &tls.get_ref().inner,
        }
    }

    /// Closes with a reset: the peer learns that this was no orderly end.
    pub(crate) fn abandon(self) {
        reset(self.tcp());
    }

    /// The socket itself, where what is written to it is what the peer gets.
    pub(crate) fn plain_socket(&self) -> Option<&Socket> {
        match self {
            Self::Plain(tcp) => Some(tcp),
            Self::Begun(begun) => Some(&begun.inner),
            _ => None,
        }
    }

    /// The socket itself, once all that is to be read is read from it.
    pub(crate) fn bare(&self) -> Option<&Socket> {
        match self {
            Self::Begun(begun) if !begun.prefix.is_empty() => None,
            _ => self.plain_socket().filter(|socket| socket.is_bare()),
        }
    }
}

/// The next close of this socket is a reset.
pub(crate) fn reset(socket: &impl AsFd) {
    // It fails only for a socket that is gone, which is what is wanted.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

impl AsyncRead for Prefixed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.prefix.is_empty() {
            return Pin::new(&mut this.inner).poll_read(cx, buffer);
        }
        let rest = &this.prefix[this.read..];
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..count]);
        this.read += count;
        if this.read == this.prefix.len() {
            this.prefix = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

macro_rules! on_each {
    ($self:ident, $stream:ident => $call:expr) => {
        match &mut *$self {
            Stream::Plain($stream) => $call,
            Stream::Begun($stream) => $call,
            Stream::Client($stream) => $call,
            Stream::Server($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        on_each!(self, stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        on_each!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
