//! What protocol a connection begins with.

use std::future::poll_fn;
use std::io;
use std::mem;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use isthmus_sni::{ClientHello, HelloError, HelloReader};
use isthmus_socket::Socket;
use isthmus_tls::buffers::Buffer;
use tokio::io::{AsyncRead as _, ReadBuf};

use crate::shared::{Door, Held};

/// What a connection began with, and the bytes that were read to know it.
pub(crate) enum Began {
    Plain(Vec<u8>),
    Tls(ClientHello, Vec<u8>),
    /// Nothing came in time.
    Silent,
    /// It ended without a byte.
    Ended,
}

/// Why it cannot be told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DetectError {
    #[error(transparent)]
    Hello(#[from] HelloError),
    #[error("the client hello was not complete within {} ms", .0.as_millis())]
    Slow(Duration),
    /// Too many others are as slow.
    #[error("unfinished client hellos hold all the memory that they may")]
    Crowded,
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl DetectError {
    pub(crate) fn cause(&self) -> &'static str {
        match self {
            Self::Hello(error) => error.cause(),
            Self::Slow(_) => "hello_timeout",
            Self::Crowded => "hello_crowded",
            Self::Io(_) => "io",
        }
    }
}

/// What a hello may hold without being counted: an ordinary one, post-quantum key share included.
const ORDINARY: usize = 4096;

/// Bytes of a client, until they say what protocol they are.
struct Reading<'a> {
    reader: HelloReader,
    held: Held<'a>,
    most: usize,
}

/// Waits for the first bytes for at most `first`; what begins like TLS then has `whole` for its ClientHello. All unfinished
/// hellos of a door hold `most` bytes together.
pub(crate) async fn detect(
    stream: &mut Socket,
    first: Duration,
    whole: Duration,
    (door, most): (&Door, usize),
) -> Result<Began, DetectError> {
    let mut reading = Reading { reader: HelloReader::new(), held: door.hold(), most };
    if let Some(began) = reading.early(stream).await? {
        return Ok(began);
    }
    if reading.reader.bytes().is_empty() {
        match tokio::time::timeout(first, reading.next(stream)).await {
            Err(_) => return Ok(Began::Silent),
            Ok(began) => {
                if let Some(began) = began? {
                    return Ok(began);
                }
            }
        }
    }
    let rest = async {
        loop {
            if let Some(began) = reading.next(stream).await? {
                return Ok(began);
            }
        }
    };
    match tokio::time::timeout(whole, rest).await {
        Ok(began) => began,
        Err(_) => Err(DetectError::Slow(whole)),
    }
}

impl Reading<'_> {
    /// Reads what is there, without waiting to be told that something is: a client's first bytes mostly come before its
    /// connection is accepted.
    async fn early(&mut self, stream: &mut Socket) -> Result<Option<Began>, DetectError> {
        poll_fn(|cx| {
            let mut buffer = Buffer::take();
            Poll::Ready(match stream.try_read(cx, &mut buffer) {
                Ok(count) => self.take(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                Err(error) => Err(error.into()),
            })
        })
        .await
    }

    /// Waits for more. A client that is silent holds no buffer.
    async fn next(&mut self, stream: &mut Socket) -> Result<Option<Began>, DetectError> {
        poll_fn(|cx| {
            let mut buffer = Buffer::take();
            let mut view = ReadBuf::new(&mut buffer);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut view))?;
            let count = view.filled().len();
            Poll::Ready(self.take(&buffer[..count]))
        })
        .await
    }

    fn take(&mut self, bytes: &[u8]) -> Result<Option<Began>, DetectError> {
        if bytes.is_empty() {
            if self.reader.bytes().is_empty() {
                return Ok(Some(Began::Ended));
            }
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        match self.reader.push(bytes) {
            Ok(Some(hello)) => Ok(Some(Began::Tls(hello, mem::take(&mut self.reader).into_bytes()))),
            Ok(None) if self.held.grow(self.reader.bytes().len().saturating_sub(ORDINARY), self.most) => {
                Ok(None)
            }
            Ok(None) => Err(DetectError::Crowded),
            Err(HelloError::NotTls) => Ok(Some(Began::Plain(mem::take(&mut self.reader).into_bytes()))),
            Err(error) => Err(error.into()),
        }
    }
}
