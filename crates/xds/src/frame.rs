//! gRPC's length-prefixed messages out of an HTTP body, bounded.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::Body;
use http_body_util::BodyExt;
use thiserror::Error;

/// Compressed flag and length.
pub(crate) const HEADER: usize = 5;

/// Why a body is not a sequence of messages.
#[derive(Debug, Error)]
pub(crate) enum FrameError {
    #[error("a message of {length} bytes is above the limit of {limit}")]
    TooLarge { length: usize, limit: usize },
    #[error("compressed messages are not supported; send with grpc-encoding identity")]
    Compressed,
    #[error("the body ended within a message")]
    Truncated,
    #[error("{0}")]
    Body(String),
}

/// Reads messages. Memory grows with what has arrived, not with what a length announces.
pub(crate) struct FrameReader<B> {
    body: B,
    buffer: BytesMut,
    limit: usize,
    trailers: Option<HeaderMap>,
    ended: bool,
}

impl<B> FrameReader<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    pub(crate) fn new(body: B, limit: usize) -> Self {
        Self { body, buffer: BytesMut::new(), limit, trailers: None, ended: false }
    }

    /// The next message; none when the body ended. Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        loop {
            if let Some(message) = self.buffered()? {
                return Ok(Some(message));
            }
            if self.ended {
                return if self.buffer.is_empty() { Ok(None) } else { Err(FrameError::Truncated) };
            }
            match self.body.frame().await {
                None => self.ended = true,
                Some(Err(error)) => return Err(FrameError::Body(error.to_string())),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.append(&data),
                    Err(other) => {
                        self.trailers = other.into_trailers().ok();
                        self.ended = true;
                    }
                },
            }
        }
    }

    /// Grows by doubling, but not beyond the message that is being read: what is kept of a large one shall not be half empty.
    fn append(&mut self, data: &[u8]) {
        let needed = self.buffer.len() + data.len();
        if needed > self.buffer.capacity() {
            let whole = self.length().map_or(0, |length| HEADER.saturating_add(length));
            let room = (2 * self.buffer.len()).min(whole).max(needed);
            let mut larger = BytesMut::with_capacity(room);
            larger.extend_from_slice(&self.buffer);
            self.buffer = larger;
        }
        self.buffer.extend_from_slice(data);
    }

    /// Length of the message that begins the buffer.
    fn length(&self) -> Option<usize> {
        let (header, _) = self.buffer.split_first_chunk::<HEADER>()?;
        let [_, a, b, c, d] = *header;
        Some(usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX))
    }

    /// Trailers, once the body has ended with some.
    pub(crate) fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_ref()
    }

    fn buffered(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(length) = self.length() else { return Ok(None) };
        if self.buffer[0] != 0 {
            return Err(FrameError::Compressed);
        }
        if length > self.limit {
            return Err(FrameError::TooLarge { length, limit: self.limit });
        }
        if self.buffer.len() < HEADER + length {
            return Ok(None);
        }
        self.buffer.advance(HEADER);
        let message = self.buffer.split_to(length).freeze();
        if self.buffer.is_empty() {
            // An idle stream keeps no buffer.
            self.buffer = BytesMut::new();
        }
        Ok(Some(message))
    }
}

/// One message with its header. Messages of ours are far below 4 GiB; a longer one is cut off by the receiver's limit.
pub(crate) fn frame(message: &impl prost::Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(HEADER + length);
    put_header(&mut out, length);
    // Encoding into a growing buffer cannot fail.
    let _ = message.encode(&mut out);
    out.freeze()
}

/// The header alone.
pub(crate) fn put_header(out: &mut impl BufMut, length: usize) {
    out.put_u8(0);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;
    use http_body::Frame;
    use http_body_util::StreamBody;

    fn body(chunks: Vec<&'static [u8]>) -> impl Body<Data = Bytes, Error = std::convert::Infallible> + Unpin {
        StreamBody::new(stream::iter(
            chunks.into_iter().map(|chunk| Ok(Frame::data(Bytes::from_static(chunk)))),
        ))
    }

    #[tokio::test]
    async fn messages_split_anywhere_come_out_whole() {
        let mut reader =
            FrameReader::new(body(vec![&[0, 0], &[0, 0, 3, b'a'], b"bc\0", &[0, 0, 0, 0], &[]]), 16);
        assert_eq!(reader.next().await.unwrap().unwrap(), Bytes::from_static(b"abc"));
        assert_eq!(reader.next().await.unwrap().unwrap(), Bytes::new());
        assert!(reader.next().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn bad_bodies_are_errors() {
        let too_large = FrameReader::new(body(vec![&[0, 0, 0, 0, 17]]), 16).next().await.unwrap_err();
        assert_eq!(too_large.to_string(), "a message of 17 bytes is above the limit of 16");
        let truncated = FrameReader::new(body(vec![&[0, 0, 0, 0, 2, 1]]), 16).next().await.unwrap_err();
        assert!(matches!(truncated, FrameError::Truncated));
        let compressed = FrameReader::new(body(vec![&[1, 0, 0, 0, 0]]), 16).next().await.unwrap_err();
        assert!(matches!(compressed, FrameError::Compressed));
    }
}
