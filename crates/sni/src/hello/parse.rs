//! The body of a ClientHello, RFC 8446 section 4.1.2; server name RFC 6066 section 3, protocols RFC 7301.

use super::{ClientHello, HelloError};

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;

pub(super) fn client_hello(body: &[u8]) -> Result<ClientHello, HelloError> {
    let mut body = Cursor(body);
    body.take(2 + 32, "it ends before the random")?;
    if body.vector8("it ends in the session id")?.len() > 32 {
        return Err(HelloError::Malformed("a session id longer than 32 bytes"));
    }
    let suites = body.vector16("it ends in the cipher suites")?;
    if suites.len() < 2 || suites.len() % 2 != 0 {
        return Err(HelloError::Malformed("cipher suites of odd or no length"));
    }
    if body.vector8("it ends in the compression methods")?.is_empty() {
        return Err(HelloError::Malformed("no compression method"));
    }
    let mut hello = ClientHello::default();
    if body.0.is_empty() {
        return Ok(hello); // TLS 1.2 without extensions
    }
    let mut extensions = Cursor(body.vector16("it ends in the extensions")?);
    if !body.0.is_empty() {
        return Err(HelloError::Malformed("bytes after the extensions"));
    }
    let mut protocols = None;
    while !extensions.0.is_empty() {
        let kind = extensions.u16("it ends in an extension's type")?;
        let content = extensions.vector16("it ends in an extension")?;
        match kind {
            SERVER_NAME if hello.server_name.is_some() => {
                return Err(HelloError::Malformed("two server name extensions"));
            }
            SERVER_NAME => hello.server_name = Some(server_name(content)?),
            ALPN if protocols.is_some() => return Err(HelloError::Malformed("two protocol extensions")),
            ALPN => protocols = Some(protocol_list(content)?),
            _ => {}
        }
    }
    hello.alpn = protocols.unwrap_or_default().into();
    Ok(hello)
}

fn server_name(content: &[u8]) -> Result<Box<str>, HelloError> {
    let mut content = Cursor(content);
    let mut list = Cursor(content.vector16("it ends in the server names")?);
    if !content.0.is_empty() {
        return Err(HelloError::Malformed("bytes after the server names"));
    }
    // 0: host_name, the only type there is; RFC 6066 allows one of each.
    if list.take(1, "an empty server name list")? != [0] {
        return Err(HelloError::Malformed("a server name of an unknown type"));
    }
    let name = list.vector16("it ends in the server name")?;
    if !list.0.is_empty() {
        return Err(HelloError::Malformed("two server names"));
    }
    if name.is_empty() || name.len() > 255 {
        return Err(HelloError::Malformed("a server name of no or more than 255 bytes"));
    }
    if !name.iter().all(u8::is_ascii_graphic) {
        return Err(HelloError::Malformed("a server name with other than printable ASCII"));
    }
    Ok(name.iter().map(|byte| char::from(byte.to_ascii_lowercase())).collect::<String>().into())
}

fn protocol_list(content: &[u8]) -> Result<&[u8], HelloError> {
    let mut content = Cursor(content);
    let list = content.vector16("it ends in the protocols")?;
    if list.is_empty() || !content.0.is_empty() {
        return Err(HelloError::Malformed("no protocol or bytes after them"));
    }
    let mut rest = Cursor(list);
    while !rest.0.is_empty() {
        if rest.vector8("it ends in a protocol")?.is_empty() {
            return Err(HelloError::Malformed("a protocol without a name"));
        }
    }
    Ok(list)
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize, short: &'static str) -> Result<&'a [u8], HelloError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(HelloError::Malformed(short))?;
        self.0 = rest;
        Ok(taken)
    }

    fn u16(&mut self, short: &'static str) -> Result<u16, HelloError> {
        let bytes = self.take(2, short)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn vector8(&mut self, short: &'static str) -> Result<&'a [u8], HelloError> {
        let length = self.take(1, short)?[0];
        self.take(usize::from(length), short)
    }

    fn vector16(&mut self, short: &'static str) -> Result<&'a [u8], HelloError> {
        let length = self.u16(short)?;
        self.take(usize::from(length), short)
    }
}
