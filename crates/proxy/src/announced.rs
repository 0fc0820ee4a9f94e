//! The PROXY protocol, versions 1 and 2: who a client is, said by the balancer before its first byte.
//!
//! A listener reads a header only where it is configured to, and then takes no connection without one: whoever can reach such a
//! port may name any client, so the port must be open to the balancer alone. Exactly the header is taken from the socket, so
//! that what follows stays there for those who read or splice it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use isthmus_socket::Socket;
use thiserror::Error;
use tokio::io::AsyncReadExt;

/// What a header of version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The shortest header there is: `PROXY UNKNOWN\r\n`.
const SHORTEST: usize = 15;
/// The longest line of version 1, its end included.
const LONGEST_LINE: usize = 107;
/// Signature, command, family, length.
const FIXED: usize = 16;
/// What a header of version 2 may bring behind its fixed part; balancers add a few short values to 36 bytes of addresses.
const LONGEST_REST: usize = 2048;

/// Which headers a listener takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) v1: bool,
    pub(crate) v2: bool,
}

/// Which header an upstream wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Announce {
    V1,
    V2,
}

/// Both ends of a connection as its client sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
}

/// Why a connection has no PROXY header that can be used.
#[derive(Debug, Error)]
pub(crate) enum AnnounceError {
    #[error("no PROXY header")]
    Missing,
    #[error("PROXY header of version {0}, which the listener does not take")]
    Version(u8),
    #[error("malformed PROXY header: {0}")]
    Malformed(&'static str),
    #[error("no whole PROXY header within {} ms", .0.as_millis())]
    Slow(Duration),
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl AnnounceError {
    pub(crate) fn cause(&self) -> &'static str {
        match self {
            Self::Missing => "proxy_header_missing",
            Self::Version(_) => "proxy_header_version",
            Self::Malformed(_) => "proxy_header_malformed",
            Self::Slow(_) => "proxy_header_timeout",
            Self::Io(_) => "io",
        }
    }
}

/// Takes the header off a connection. None: the balancer speaks for itself, as its health checks do.
pub(crate) async fn read(
    stream: &mut Socket,
    accepted: Accepted,
    within: Duration,
) -> Result<Option<Ends>, AnnounceError> {
    match tokio::time::timeout(within, header(stream, accepted)).await {
        Ok(read) => read,
        Err(_) => Err(AnnounceError::Slow(within)),
    }
}

async fn header(stream: &mut Socket, accepted: Accepted) -> Result<Option<Ends>, AnnounceError> {
    let mut head = [0; FIXED];
    stream.read_exact(&mut head[..SHORTEST]).await?;
    if head.starts_with(&SIGNATURE) {
        if !accepted.v2 {
            return Err(AnnounceError::Version(2));
        }
        stream.read_exact(&mut head[SHORTEST..]).await?;
        let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
        if length > LONGEST_REST {
            return Err(AnnounceError::Malformed("it is longer than any that names two addresses"));
        }
        let mut rest = vec![0; length];
        stream.read_exact(&mut rest).await?;
        return binary(head[12], head[13], &rest);
    }
    if !head.starts_with(b"PROXY ") {
        return Err(AnnounceError::Missing);
    }
    if !accepted.v1 {
        return Err(AnnounceError::Version(1));
    }
    let mut line = head[..SHORTEST].to_vec();
    while !line.ends_with(b"\n") {
        if line.len() == LONGEST_LINE {
            return Err(AnnounceError::Malformed("a line longer than 107 bytes"));
        }
        // Byte by byte: the next one may be the client's own.
        line.push(stream.read_u8().await?);
    }
    text(&line)
}

/// Version 2, from its command on.
fn binary(command: u8, family: u8, rest: &[u8]) -> Result<Option<Ends>, AnnounceError> {
    let short = || AnnounceError::Malformed("it ends within its addresses");
    match command {
        0x20 => return Ok(None),
        0x21 => {}
        _ => return Err(AnnounceError::Malformed("an unknown command")),
    }
    let (source, destination, ports) = match family {
        0x11 => {
            let (source, more) = rest.split_first_chunk::<4>().ok_or_else(short)?;
            let (destination, ports) = more.split_first_chunk::<4>().ok_or_else(short)?;
            (IpAddr::from(*source), IpAddr::from(*destination), ports)
        }
        0x21 => {
            let (source, more) = rest.split_first_chunk::<16>().ok_or_else(short)?;
            let (destination, ports) = more.split_first_chunk::<16>().ok_or_else(short)?;
            (IpAddr::from(*source), IpAddr::from(*destination), ports)
        }
        // Unspecified, datagrams, Unix sockets: nothing that names a TCP client.
        _ => return Ok(None),
    };
    let [a, b, c, d, ..] = *ports else { return Err(short()) };
    Ok(Some(Ends {
        source: SocketAddr::new(source, u16::from_be_bytes([a, b])),
        destination: SocketAddr::new(destination, u16::from_be_bytes([c, d])),
    }))
}

/// Version 1.
fn text(line: &[u8]) -> Result<Option<Ends>, AnnounceError> {
    let malformed = AnnounceError::Malformed;
    let line = std::str::from_utf8(line).ok().and_then(|line| line.strip_suffix("\r\n"));
    let line = line.ok_or(malformed("a line that does not end in CR LF"))?;
    let mut words = line.split(' ');
    let family = words.nth(1).unwrap_or_default();
    match family {
        "UNKNOWN" => return Ok(None),
        "TCP4" | "TCP6" => {}
        _ => return Err(malformed("neither TCP4, TCP6 nor UNKNOWN")),
    }
    let mut address = || {
        let address: IpAddr = words.next()?.parse().ok()?;
        (address.is_ipv4() == (family == "TCP4")).then_some(address)
    };
    let (source, destination) = (address(), address());
    let mut port = || words.next()?.parse::<u16>().ok();
    let (from, to) = (port(), port());
    let (Some(source), Some(destination), Some(from), Some(to), None) =
        (source, destination, from, to, words.next())
    else {
        return Err(malformed("not two addresses and two ports"));
    };
    let (source, destination) = (SocketAddr::new(source, from), SocketAddr::new(destination, to));
    Ok(Some(Ends { source, destination }))
}

/// The header for an upstream. Without ends it says that nobody is behind the connection, as for a probe.
pub(crate) fn write(version: Announce, ends: Option<Ends>) -> Vec<u8> {
    // Both of one family: a v4 client of a dual-stack socket is named as v4 to v4.
    let ends = ends.map(|ends| {
        let (source, destination) = (ends.source.ip().to_canonical(), ends.destination.ip().to_canonical());
        match (source, destination) {
            (IpAddr::V4(a), IpAddr::V6(_)) => (IpAddr::from(a.to_ipv6_mapped()), destination, ends),
            (IpAddr::V6(_), IpAddr::V4(b)) => (source, IpAddr::from(b.to_ipv6_mapped()), ends),
            _ => (source, destination, ends),
        }
    });
    match (version, ends) {
        (Announce::V1, None) => b"PROXY UNKNOWN\r\n".to_vec(),
        (Announce::V1, Some((source, destination, ends))) => {
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let (from, to) = (ends.source.port(), ends.destination.port());
            format!("PROXY {family} {source} {destination} {from} {to}\r\n").into_bytes()
        }
        (Announce::V2, None) => [&SIGNATURE[..], &[0x20, 0, 0, 0]].concat(),
        (Announce::V2, Some((source, destination, ends))) => {
            let mut header = SIGNATURE.to_vec();
            match (source, destination) {
                (IpAddr::V4(source), IpAddr::V4(destination)) => {
                    header.extend([0x21, 0x11, 0, 12]);
                    header.extend(source.octets().into_iter().chain(destination.octets()));
                }
                (source, destination) => {
                    let wide = |address: IpAddr| match address {
                        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                        IpAddr::V6(address) => address.octets(),
                    };
                    header.extend([0x21, 0x21, 0, 36]);
                    header.extend(wide(source).into_iter().chain(wide(destination)));
                }
            }
            header.extend(ends.source.port().to_be_bytes());
            header.extend(ends.destination.port().to_be_bytes());
            header
        }
    }
}

#[cfg(test)]
mod tests;
