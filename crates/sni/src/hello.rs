//! Reads a TLS ClientHello from bytes that arrive in any pieces, and no further.
//!
//! The reader keeps what it was given, since the peer behind needs it unchanged. It spends memory only on bytes that really
//! arrived, up to its limit, and finds every error at the same byte however the bytes were cut.

mod parse;
#[cfg(test)]
mod tests;

use thiserror::Error;

/// The largest hello that is read, in bytes on the wire with their record headers.
pub const MAX_HELLO: usize = 64 * 1024;

/// RFC 8446 section 5.1: a plaintext record holds at most 2^14 bytes.
const MAX_RECORD: usize = 1 << 14;
const RECORD_HEADER: usize = 5;
const HANDSHAKE_HEADER: usize = 4;

/// Why bytes are no ClientHello that can be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HelloError {
    /// The first bytes are no TLS handshake record: another protocol.
    #[error("not TLS")]
    NotTls,
    /// It would be larger than the limit.
    #[error("client hello is larger than {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// It begins like TLS and breaks the format.
    #[error("malformed client hello: {0}")]
    Malformed(&'static str),
    /// It is sound and carries no server name, which the caller needs.
    #[error("client hello without a server name")]
    NoServerName,
}

impl HelloError {
    /// A short word for a metric's label.
    #[must_use]
    pub fn cause(&self) -> &'static str {
        match self {
            Self::NotTls => "not_tls",
            Self::TooLarge { .. } => "hello_too_large",
            Self::Malformed(_) => "hello_malformed",
            Self::NoServerName => "no_server_name",
        }
    }
}

/// What a ClientHello says about where it wants to go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientHello {
    server_name: Option<Box<str>>,
    /// The protocol list as on the wire: a length byte before each. One allocation, whatever the peer sends.
    alpn: Box<[u8]>,
}

impl ClientHello {
    /// The server name in lower case, if there is one.
    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// The server name in lower case.
    ///
    /// # Errors
    /// [`HelloError::NoServerName`] when there is none.
    pub fn require_server_name(&self) -> Result<&str, HelloError> {
        self.server_name().ok_or(HelloError::NoServerName)
    }

    /// The application protocols offered, in the client's order.
    pub fn alpn(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &*self.alpn;
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first()?;
            let (protocol, next) = after.split_at_checked(usize::from(*length))?;
            rest = next;
            Some(protocol)
        })
    }

    /// Whether this application protocol is offered.
    #[must_use]
    pub fn offers(&self, protocol: &str) -> bool {
        self.alpn().any(|offered| offered == protocol.as_bytes())
    }

    /// Whether any of [`crate::ISTIO_ALPN`] is offered.
    #[must_use]
    pub fn is_mesh(&self) -> bool {
        self.alpn().any(|offered| crate::ISTIO_ALPN.iter().any(|known| offered == known.as_bytes()))
    }
}

/// Collects bytes until they hold a whole ClientHello.
#[derive(Debug)]
pub struct HelloReader {
    limit: usize,
    bytes: Vec<u8>,
    /// Start of the record header that was not yet read whole.
    record: usize,
    /// Handshake bytes in the records before it.
    collected: usize,
    /// Header and body length of the handshake message, once known.
    message: Option<usize>,
}

impl Default for HelloReader {
    fn default() -> Self {
        Self::new()
    }
}

impl HelloReader {
    /// Reads at most [`MAX_HELLO`] bytes.
    #[must_use]
    pub fn new() -> Self {
        Self::with_limit(MAX_HELLO)
    }

    /// Reads at most this many bytes.
    #[must_use]
    pub fn with_limit(limit: usize) -> Self {
        Self { limit, bytes: Vec::new(), record: 0, collected: 0, message: None }
    }

    /// Takes the next bytes. `None`: more are needed. Once it has answered, it is not to be fed further.
    ///
    /// # Errors
    /// See [`HelloError`]; never [`HelloError::NoServerName`], which [`ClientHello::require_server_name`] gives.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<ClientHello>, HelloError> {
        self.bytes.extend_from_slice(bytes);
        loop {
            let Some(payload) = self.record_payload()? else { return Ok(None) };
            let arrived = payload.end.min(self.bytes.len()) - payload.start;
            let whole_record = self.bytes.len() >= payload.end;
            if self.message.is_none() {
                self.message = self.message_length(payload.start..payload.start + arrived)?;
            }
            if self.message.is_some_and(|length| self.collected + arrived >= length) {
                return self.finish(payload.start).map(Some);
            }
            if !whole_record {
                return Ok(None);
            }
            self.collected += arrived;
            self.record = payload.end;
        }
    }

    /// All bytes taken so far, with what followed the hello.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All bytes taken so far, with what followed the hello.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Where the payload of the present record lies, once its header is there.
    fn record_payload(&self) -> Result<Option<std::ops::Range<usize>>, HelloError> {
        let header = &self.bytes[self.record..self.bytes.len().min(self.record + RECORD_HEADER)];
        let first = self.record == 0;
        let wrong = |what| if first { HelloError::NotTls } else { HelloError::Malformed(what) };
        // 22: handshake; alerts and data have no place before the hello is whole.
        if header.first().is_some_and(|kind| *kind != 22) {
            return Err(wrong("a record of another type inside the client hello"));
        }
        if header.get(1).is_some_and(|major| *major != 3) {
            return Err(wrong("a record of an unknown protocol version"));
        }
        let &[_, _, _, high, low] = header else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length == 0 {
            return Err(HelloError::Malformed("an empty handshake record"));
        }
        if length > MAX_RECORD {
            return Err(HelloError::Malformed("a record longer than 16384 bytes"));
        }
        let start = self.record + RECORD_HEADER;
        // Said by the header, not by how much has arrived, so that every split fails at the same byte.
        if start >= self.limit {
            return Err(HelloError::TooLarge { limit: self.limit });
        }
        Ok(Some(start..start + length))
    }

    /// The handshake message's length with its header, once its first four bytes are there.
    fn message_length(&self, arrived: std::ops::Range<usize>) -> Result<Option<usize>, HelloError> {
        let mut header = [0; HANDSHAKE_HEADER];
        let mut have = 0;
        self.earlier_payloads(|payload| {
            let take = payload.len().min(HANDSHAKE_HEADER - have);
            header[have..have + take].copy_from_slice(&payload[..take]);
            have += take;
        });
        let rest = &self.bytes[arrived];
        let take = rest.len().min(HANDSHAKE_HEADER - have);
        header[have..have + take].copy_from_slice(&rest[..take]);
        have += take;
        if have > 0 && header[0] != 1 {
            return Err(HelloError::Malformed("the first handshake message is no client hello"));
        }
        if have < HANDSHAKE_HEADER {
            return Ok(None);
        }
        let length = HANDSHAKE_HEADER
            + (usize::from(header[1]) << 16 | usize::from(header[2]) << 8 | usize::from(header[3]));
        if length + RECORD_HEADER > self.limit {
            return Err(HelloError::TooLarge { limit: self.limit });
        }
        Ok(Some(length))
    }

    /// Walks the payloads of the records before the present one.
    fn earlier_payloads(&self, mut each: impl FnMut(&[u8])) {
        let mut at = 0;
        while at < self.record {
            let length = usize::from(u16::from_be_bytes([self.bytes[at + 3], self.bytes[at + 4]]));
            each(&self.bytes[at + RECORD_HEADER..at + RECORD_HEADER + length]);
            at += RECORD_HEADER + length;
        }
    }

    /// All of the message is there, ending in the record whose payload starts here.
    fn finish(&self, last_payload: usize) -> Result<ClientHello, HelloError> {
        let length = self.message.unwrap_or_default();
        let in_last = last_payload..last_payload + (length - self.collected);
        if self.record == 0 {
            return parse::client_hello(&self.bytes[in_last][HANDSHAKE_HEADER..]);
        }
        let mut joined = Vec::with_capacity(length);
        self.earlier_payloads(|payload| joined.extend_from_slice(payload));
        joined.extend_from_slice(&self.bytes[in_last]);
        parse::client_hello(&joined[HANDSHAKE_HEADER..])
    }
}
