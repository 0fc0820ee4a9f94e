//! Asking the host's own resolvers, over the transport that the client used.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType};
use rand::seq::SliceRandom;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::time::Instant;

use crate::answer::Transport;
use crate::metrics::Metrics;

/// Largest datagram that can come.
const DATAGRAM: usize = 65_535;

/// How to ask upstream.
#[derive(Debug, Clone)]
pub(crate) struct Upstream {
    pub(crate) mark: Option<u32>,
    pub(crate) timeout: Duration,
    pub(crate) metrics: Metrics,
}

impl Upstream {
    /// Asks the servers one after another in random order. The first reply of any kind counts, NXDOMAIN and REFUSED too.
    pub(crate) async fn ask(
        &self,
        servers: &[SocketAddr],
        query: &[u8],
        transport: Transport,
    ) -> Option<Vec<u8>> {
        let mut servers = servers.to_vec();
        servers.shuffle(&mut rand::rng());
        self.metrics.upstream_requests.inc();
        let started = Instant::now();
        for server in servers {
            let exchange = self.exchange(server, query, transport);
            match tokio::time::timeout(self.timeout, exchange).await {
                Ok(Ok(reply)) => {
                    self.metrics.upstream_seconds.observe(started.elapsed().as_secs_f64());
                    return Some(reply);
                }
                Ok(Err(error)) => tracing::debug!(%server, %error, "upstream resolver failed"),
                Err(_) => tracing::debug!(%server, timeout = ?self.timeout, "upstream resolver is silent"),
            }
        }
        self.metrics.upstream_failures.inc();
        None
    }

    async fn exchange(&self, server: SocketAddr, query: &[u8], transport: Transport) -> io::Result<Vec<u8>> {
        // A random ID and a fresh source port of our own, whatever the client chose: replies are harder to forge.
        let mut own = query.to_vec();
        let Some(id) = own.get_mut(..2) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the query has no header"));
        };
        id.copy_from_slice(&rand::random::<u16>().to_be_bytes());
        let asked = Message::from_vec(&own).map_err(io::Error::other)?;
        let mut reply = match transport {
            Transport::Udp => self.over_udp(server, &own, &asked).await?,
            Transport::Tcp => self.over_tcp(server, &own, &asked).await?,
        };
        reply[..2].copy_from_slice(&query[..2]);
        Ok(reply)
    }

    async fn over_udp(&self, server: SocketAddr, query: &[u8], asked: &Message) -> io::Result<Vec<u8>> {
        let socket = self.udp_socket(server)?;
        socket.connect(server).await?;
        socket.send(query).await?;
        let mut buffer = vec![0; DATAGRAM];
        loop {
            let length = socket.recv(&mut buffer).await?;
            // Others can send to our port too: only the answer to our question counts.
            if answers(&buffer[..length], asked) {
                buffer.truncate(length);
                return Ok(buffer);
            }
        }
    }

    async fn over_tcp(&self, server: SocketAddr, query: &[u8], asked: &Message) -> io::Result<Vec<u8>> {
        let socket = if server.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(mark) = self.mark {
            socket2::SockRef::from(&socket).set_mark(mark)?;
        }
        let mut stream = socket.connect(server).await?;
        stream.write_all(&framed(query)?).await?;
        let length = stream.read_u16().await?;
        let mut reply = vec![0; usize::from(length)];
        stream.read_exact(&mut reply).await?;
        if answers(&reply, asked) {
            return Ok(reply);
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "the reply answers another question"))
    }

    fn udp_socket(&self, server: SocketAddr) -> io::Result<UdpSocket> {
        let domain = if server.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        if let Some(mark) = self.mark {
            socket.set_mark(mark)?;
        }
        socket.set_nonblocking(true)?;
        let any: SocketAddr = if server.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        };
        socket.bind(&SockAddr::from(any))?;
        UdpSocket::from_std(socket.into())
    }
}

/// A message with its length in front (RFC 1035 section 4.2.2).
pub(crate) fn framed(message: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut framed = Vec::with_capacity(message.len() + 2);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    Ok(framed)
}

fn answers(reply: &[u8], asked: &Message) -> bool {
    Message::from_vec(reply).is_ok_and(|reply| {
        // Some servers leave the question out of an error.
        let question = reply.queries.is_empty() || reply.queries == asked.queries;
        reply.metadata.message_type == MessageType::Response
            && reply.metadata.id == asked.metadata.id
            && question
    })
}
