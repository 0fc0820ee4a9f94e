//! Resolving for the agent itself: past the mesh's table, so that a host which the mesh redirects here does not resolve to itself.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};

use crate::answer::Transport;
use crate::forward::Upstream;

/// Asks the servers for both families. A server that cuts its answer short is asked again over TCP.
pub(crate) async fn resolve(
    upstream: &Upstream,
    servers: &[SocketAddr],
    host: &str,
) -> io::Result<Vec<IpAddr>> {
    let mut name = Name::from_ascii(host)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("host {host:?} is no DNS name")))?;
    name.set_fqdn(true);
    let (v4, v6) = tokio::join!(
        ask(upstream, servers, &name, RecordType::A),
        ask(upstream, servers, &name, RecordType::AAAA)
    );
    // One family may fail where the other answers: servers exist that are silent about AAAA.
    let found = match (v4, v6) {
        (Err(error), Err(_)) => return Err(error),
        (v4, v6) => v4.unwrap_or_default().into_iter().chain(v6.unwrap_or_default()),
    };
    let found: BTreeSet<IpAddr> = found.collect();
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("host {host} has no address")));
    }
    Ok(found.into_iter().collect())
}

async fn ask(
    upstream: &Upstream,
    servers: &[SocketAddr],
    name: &Name,
    kind: RecordType,
) -> io::Result<Vec<IpAddr>> {
    let mut query = Message::new(0, MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(name.clone(), kind));
    let query = query.to_vec().map_err(io::Error::other)?;
    let mut reply = exchange(upstream, servers, &query, Transport::Udp).await?;
    if reply.metadata.truncation {
        reply = exchange(upstream, servers, &query, Transport::Tcp).await?;
    }
    match reply.metadata.response_code {
        ResponseCode::NoError => {
            Ok(reply.answers.iter().filter_map(|record| record.data.ip_addr()).collect())
        }
        ResponseCode::NXDomain => Ok(Vec::new()),
        code => Err(io::Error::other(format!("host {name}: resolvers answer {code}"))),
    }
}

async fn exchange(
    upstream: &Upstream,
    servers: &[SocketAddr],
    query: &[u8],
    transport: Transport,
) -> io::Result<Message> {
    let reply = upstream.ask(servers, query, transport).await;
    let reply = reply.ok_or_else(|| io::Error::new(io::ErrorKind::TimedOut, "no resolver answers"))?;
    Message::from_vec(&reply).map_err(io::Error::other)
}
