//! What protocol a connection begins with.

use std::io;
use std::time::Duration;

use isthmus_sni::{ClientHello, HelloError, HelloReader};
use tokio::net::TcpStream;

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

/// The first byte of a TLS handshake record.
const HANDSHAKE: u8 = 22;
/// What a hello may hold without being counted: an ordinary one, post-quantum key share included.
const ORDINARY: usize = 4096;

/// Looks at the first byte for at most `first`; what begins like TLS then has `whole` for its ClientHello. All unfinished
/// hellos of a door hold `most` bytes together.
pub(crate) async fn detect(
    stream: &TcpStream,
    first: Duration,
    whole: Duration,
    (door, most): (&Door, usize),
) -> Result<Began, DetectError> {
    // Bytes of other protocols stay in the socket, where splicing finds them.
    let mut byte = [0];
    match tokio::time::timeout(first, stream.peek(&mut byte)).await {
        Err(_) => return Ok(Began::Silent),
        Ok(Ok(0)) => return Ok(Began::Ended),
        Ok(Ok(_)) if byte[0] != HANDSHAKE => return Ok(Began::Plain(Vec::new())),
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return Err(error.into()),
    }
    match tokio::time::timeout(whole, hello(stream, door.hold(), most)).await {
        Ok(began) => began,
        Err(_) => Err(DetectError::Slow(whole)),
    }
}

async fn hello(stream: &TcpStream, mut held: Held<'_>, most: usize) -> Result<Began, DetectError> {
    let mut reader = HelloReader::new();
    loop {
        stream.readable().await?;
        let mut chunk = [0; 4096];
        let count = match stream.try_read(&mut chunk) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.into()),
        };
        match reader.push(&chunk[..count]) {
            Ok(Some(hello)) => return Ok(Began::Tls(hello, reader.into_bytes())),
            Ok(None) if held.grow(reader.bytes().len().saturating_sub(ORDINARY), most) => {}
            Ok(None) => return Err(DetectError::Crowded),
            Err(HelloError::NotTls) => return Ok(Began::Plain(reader.into_bytes())),
            Err(error) => return Err(error.into()),
        }
    }
}
