//! HTTP/2 from a Unix socket, with an authority that a server takes.
//!
//! gRPC's C core sends the socket's path, percent-encoded, as `:authority`, and offers no other choice in a bootstrap; `h2` resets
//! such a stream, because RFC 9113, section 8.3.1, does not allow it. This passes a client's frames on and writes `localhost` in
//! its place.

use std::io;

use loona_hpack::{Decoder, Encoder};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// What a client says first (RFC 9113, section 3.4).
const PREFACE: usize = 24;
/// Octets of a frame's header.
const HEADER: usize = 9;
/// Largest frame that a client may send to a server with default settings.
const MAX_FRAME: usize = 16_384;

/// Largest table of header fields that is kept for a client, in octets (RFC 9113, section 6.5.2: the default).
const TABLE: usize = 4096;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// Passes on what a client sends, until it ends. The server hears of every end: otherwise it would wait for more.
///
/// # Errors
/// When a side fails, or the client does not keep to HTTP/2.
pub(super) async fn pass(
    mut client: impl AsyncRead + Unpin,
    mut server: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    let passed = pass_frames(&mut client, &mut server).await;
    passed.and(server.shutdown().await)
}

async fn pass_frames(
    client: &mut (impl AsyncRead + Unpin),
    server: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut preface = [0; PREFACE];
    client.read_exact(&mut preface).await?;
    server.write_all(&preface).await?;
    let (mut decoder, mut encoder) = (decoder(), Encoder::new());
    let mut payload = Vec::with_capacity(1024);
    loop {
        let mut header = [0; HEADER];
        match client.read_exact(&mut header).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            outcome => outcome?,
        };
        read_payload(client, &header, &mut payload).await?;
        if header[3] != HEADERS {
            server.write_all(&header).await?;
            server.write_all(&payload).await?;
            continue;
        }
        let mut block = block(&payload, header[4])?.to_vec();
        let mut flags = header[4];
        while flags & END_HEADERS == 0 {
            let mut more = [0; HEADER];
            client.read_exact(&mut more).await?;
            read_payload(client, &more, &mut payload).await?;
            if more[3] != CONTINUATION || block.len() + payload.len() > MAX_FRAME {
                return Err(invalid("a header block is too long or interrupted"));
            }
            block.extend_from_slice(&payload);
            flags = more[4];
        }
        let block = rewrite(&mut decoder, &mut encoder, &block)?;
        let length = u32::try_from(block.len()).ok().filter(|length| *length <= MAX_FRAME as u32);
        let length = length.ok_or_else(|| invalid("a header block is too long"))?.to_be_bytes();
        let mut frame =
            [length[1], length[2], length[3], HEADERS, END_HEADERS | (header[4] & END_STREAM), 0, 0, 0, 0];
        frame[5..].copy_from_slice(&header[5..]);
        server.write_all(&frame).await?;
        server.write_all(&block).await?;
    }
}

async fn read_payload(
    client: &mut (impl AsyncRead + Unpin),
    header: &[u8; HEADER],
    payload: &mut Vec<u8>,
) -> io::Result<()> {
    let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
    if length > MAX_FRAME {
        return Err(invalid("a frame is too long"));
    }
    payload.resize(length, 0);
    client.read_exact(payload).await.map(drop)
}

/// The field block of a HEADERS frame, without padding and priority.
fn block(payload: &[u8], flags: u8) -> io::Result<&[u8]> {
    let mut start = 0;
    let mut end = payload.len();
    if flags & PADDED != 0 {
        let padding = *payload.first().ok_or_else(|| invalid("a padded frame is empty"))?;
        end = end.saturating_sub(usize::from(padding));
        start = 1;
    }
    if flags & PRIORITY != 0 {
        start += 5;
    }
    payload.get(start..end).ok_or_else(|| invalid("a frame is shorter than its padding"))
}

/// With the table that a client may have before a server's settings say otherwise, which ours do not.
fn decoder() -> Decoder<'static> {
    let mut decoder = Decoder::new();
    decoder.set_max_allowed_table_size(TABLE);
    decoder
}

fn rewrite(decoder: &mut Decoder<'_>, encoder: &mut Encoder<'_>, block: &[u8]) -> io::Result<Vec<u8>> {
    let fields = decoder.decode(block).map_err(|_| invalid("a header block does not decode"))?;
    let fields = fields.iter().map(|(name, value)| match &name[..] {
        b":authority" if value.contains(&b'%') || value.contains(&b'/') => (&name[..], &b"localhost"[..]),
        _ => (&name[..], &value[..]),
    });
    let mut block = Vec::new();
    encoder.encode_into(fields, &mut block)?;
    Ok(block)
}

fn invalid(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a gRPC client does not keep to HTTP/2: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_no_larger_table_than_the_servers_settings_allow() {
        // RFC 7541, section 6.3: a new size of 4096, and of 4097.
        let indexed_get = 0x82;
        let sized = |low: u8| rewrite(&mut decoder(), &mut Encoder::new(), &[0x3f, low, 0x1f, indexed_get]);
        assert!(sized(0xe1).is_ok());
        assert!(sized(0xe2).is_err());
    }
}
