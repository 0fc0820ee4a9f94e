//! Where a connection is to go, whether it may, and the way there.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use isthmus_socket::Socket;
use isthmus_tls::HandshakeError;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use super::Joined;
use crate::access::{Flag, Record, Refusal};
use crate::chains::{Need, Seen};
use crate::cluster::Cluster;
use crate::detect::{Began, detect};
use crate::on_demand;
use crate::resource::chain::{Chain, Target};
use crate::resource::listener::Listener;
use crate::resource::rbac::Facts;
use crate::shared::Shared;
use crate::stream::{Prefixed, Stream, reset};
use crate::upstream::{reach, still_refuses};

/// Time for a refused client to take our orderly end.
const FAREWELL: Duration = Duration::from_secs(1);

/// Finds out where a connection is to go, and goes there.
pub(super) async fn join(
    shared: &Arc<Shared>,
    mut stream: Socket,
    record: &mut Record,
) -> Result<Joined, Refusal> {
    let destination = match destination(shared, &stream, record) {
        Ok(destination) => destination,
        Err(refusal) => {
            reset(&stream);
            return Err(refusal);
        }
    };
    record.destination = Some(destination);
    if record.listener.hands_over
        && let Some(listener) = shared.tables.listener_for(destination)
    {
        record.listener = listener;
    }
    let listener = Arc::clone(&record.listener);
    let (chain, mut first) = match find_chain(shared, &listener, &mut stream, destination, record).await {
        Ok(found) => found,
        Err(refusal) => {
            reset(&stream);
            return Err(refusal);
        }
    };
    record.chain = Some(Arc::clone(&chain.name)).filter(|name| !name.is_empty());
    let found = find_cluster(shared, &chain, record).await;
    let (cluster, missing) = match found {
        Ok(found) => found,
        Err(refusal) => {
            reset(&stream);
            return Err(refusal);
        }
    };
    record.cluster.clone_from(&cluster);
    // A ClientHello that is passed on may be said to more than one endpoint; what is terminated here stays with the stream.
    let passed_hello = chain.tls.is_none() && record.server_name.is_some() && !first.is_empty();
    let hello = if passed_hello { std::mem::take(&mut first) } else { Vec::new() };
    let downstream = open(shared, &chain, cluster.as_deref(), stream, first, destination, record).await?;
    if let Err(refusal) = authorize(shared, &chain, destination, record) {
        farewell(downstream).await;
        return Err(refusal);
    }
    let refusal = match (cluster, missing) {
        (Some(cluster), _) => {
            let attempts = chain.attempts.unwrap_or(shared.config.limits.attempts);
            match reach(shared, &cluster, destination, attempts, &hello, record).await {
                Ok(upstream) => {
                    let forwarded = hello.len() as u64;
                    return Ok(Joined { downstream, upstream, forwarded, timing: chain.timing });
                }
                Err(refusal) => refusal,
            }
        }
        (None, Some(name)) => Refusal::new(Flag::NoCluster, format!("cluster {name:?} is not known")),
        (None, None) => Refusal::new(Flag::NoRoute, "the chain leads nowhere"),
    };
    downstream.abandon();
    Err(refusal)
}

fn destination(shared: &Shared, stream: &Socket, record: &Record) -> Result<SocketAddr, Refusal> {
    let lost = |error: std::io::Error| Refusal::new(Flag::Downstream, error.to_string());
    let local = stream.local_addr().map_err(lost)?;
    if !record.listener.captures {
        return Ok(local);
    }
    let destination = shared.config.original_destination.of(stream.as_fd()).map_err(|error| {
        shared.metrics.refused("no_original_destination");
        Refusal::new(Flag::NoRoute, format!("the original destination is not known: {error}"))
    })?;
    if destination == local {
        shared.metrics.refused("loop");
        let detail = "the connection was addressed to the proxy itself: serving it would loop";
        return Err(Refusal::new(Flag::NoRoute, detail));
    }
    Ok(destination)
}

/// The chain, and what was read to find it.
async fn find_chain(
    shared: &Shared,
    listener: &Listener,
    stream: &mut Socket,
    destination: SocketAddr,
    record: &mut Record,
) -> Result<(Arc<Chain>, Vec<u8>), Refusal> {
    let none = |shared: &Shared, cause, detail: String| {
        shared.metrics.refused(cause);
        Refusal::new(Flag::NoRoute, detail)
    };
    // The server name of what is terminated here is for policies and the log, where none is needed to choose.
    if let Need::Nothing(chain) = listener.chains.need(destination)
        && chain.is_none_or(|chain| chain.tls.is_none())
    {
        let chain = chain.ok_or_else(|| none(shared, "no_chain", "no filter chain for the port".into()))?;
        return Ok((Arc::clone(chain), Vec::new()));
    }
    let limits = &shared.config.limits;
    let plain = listener.chains.find(destination, Seen::Plain);
    // Only where plaintext is served can a server that speaks first be waiting for us.
    let wait =
        if plain.is_some() { listener.detection.unwrap_or(limits.detection) } else { limits.handshake };
    let budget = (&shared.door, limits.hello_bytes);
    let began = detect(stream, wait, limits.handshake, budget).await.map_err(|error| {
        shared.metrics.tls_refused(error.cause());
        Refusal::new(Flag::Tls, error.to_string())
    })?;
    match began {
        Began::Ended => Err(Refusal::new(Flag::Downstream, "it ended before its first byte")),
        Began::Silent if plain.is_none() => {
            shared.metrics.tls_refused("hello_timeout");
            Err(Refusal::new(Flag::Tls, format!("no client hello within {} ms", wait.as_millis())))
        }
        Began::Silent | Began::Plain(_) => {
            let first = if let Began::Plain(first) = began { first } else { Vec::new() };
            let Some(chain) = plain else {
                shared.metrics.tls_refused("plaintext");
                return Err(Refusal::new(Flag::Tls, "plaintext where only mutual TLS is served"));
            };
            Ok((Arc::clone(chain), first))
        }
        Began::Tls(hello, first) => {
            record.server_name = hello.server_name().map(Box::from);
            let chain = listener.chains.find(destination, Seen::Tls(&hello)).ok_or_else(|| {
                let (cause, detail) = match hello.server_name() {
                    None => ("no_server_name", "client hello without a server name".to_string()),
                    Some(name) => {
                        ("unknown_server_name", format!("no filter chain for server name {name:?}"))
                    }
                };
                none(shared, cause, detail)
            })?;
            Ok((Arc::clone(chain), first))
        }
    }
}

/// The cluster that a chain leads to, or else the name of the one that is missing. Where clusters are fetched on demand this may wait; a name that is not
/// exported is refused at once.
async fn find_cluster(
    shared: &Shared,
    chain: &Chain,
    record: &Record,
) -> Result<(Option<Arc<Cluster>>, Option<Box<str>>), Refusal> {
    let server_name = record.server_name.as_deref();
    if let (Target::ServerName(Some(table)), Some(name)) = (&chain.target, server_name)
        && !on_demand::is_exported(shared, table, name).await
    {
        shared.metrics.refused("unknown_server_name");
        return Err(Refusal::new(Flag::NoRoute, format!("server name {name:?} is not exported")));
    }
    let Some(name) = chain.target.choose(server_name) else { return Ok((None, None)) };
    Ok(match on_demand::cluster(shared, name).await? {
        Some(cluster) => (Some(cluster), None),
        None => (None, Some(name.into())),
    })
}

/// The downstream as the chain wants it: TLS terminated, or as it came.
async fn open(
    shared: &Shared,
    chain: &Chain,
    cluster: Option<&Cluster>,
    stream: Socket,
    first: Vec<u8>,
    destination: SocketAddr,
    record: &mut Record,
) -> Result<Stream, Refusal> {
    let Some(tls) = &chain.tls else { return Ok(Stream::plain(first, stream)) };
    if let Some(cluster) = cluster
        && still_refuses(shared, cluster, destination).await
    {
        reset(&stream);
        record.upstream_address = Some(destination);
        let detail = "the workload's port refuses connections: refused before the handshake";
        return Err(Refusal::new(Flag::UpstreamFailure, detail));
    }
    let within = chain.timing.handshake.unwrap_or(shared.config.limits.handshake);
    let accepted = tls.terminator.accept(Prefixed::new(first, stream), within).await;
    let (stream, certificate) = accepted.map_err(|error| {
        let (cause, detail) = match &error {
            HandshakeError::Protocol(rustls::Error::InvalidMessage(_)) => {
                ("plaintext", "plaintext where only mutual TLS is served".to_string())
            }
            error => (error.label(), error.to_string()),
        };
        shared.metrics.tls_refused(cause);
        Refusal::new(Flag::Tls, detail)
    })?;
    record.secured = true;
    record.downstream = certificate.as_deref().map(|certificate| Box::new(certificate.into()));
    let stream = Stream::Server(Box::new(stream));
    let name = record.downstream.as_ref().map_or("", |peer| &*peer.name);
    if !tls.peers.is_empty() && !tls.peers.iter().any(|allowed| allowed.matches(name)) {
        shared.metrics.tls_refused("san_mismatch");
        farewell(stream).await;
        return Err(Refusal::new(Flag::Tls, format!("the listener does not take peers named {name:?}")));
    }
    Ok(stream)
}

fn authorize(
    shared: &Shared,
    chain: &Chain,
    destination: SocketAddr,
    record: &Record,
) -> Result<(), Refusal> {
    let facts = Facts {
        principal: record.downstream.as_ref().filter(|peer| peer.is_workload).map(|peer| &*peer.name),
        authenticated: record.downstream.is_some(),
        source: record.source,
        destination,
        server_name: record.server_name.as_deref(),
    };
    for rbac in &chain.rbac {
        if let Err(denied) = rbac.check(&facts) {
            shared.metrics.rbac_denied(denied.policy.as_deref());
            let policy = denied.policy.as_deref().unwrap_or("none");
            let detail = format!("rbac_access_denied_matched_policy[{policy}]");
            return Err(Refusal::new(Flag::Denied, detail));
        }
    }
    Ok(())
}

/// Ends a connection in order, so that the peer does not take the refusal for a failure.
async fn farewell(mut stream: Stream) {
    let until = Instant::now() + FAREWELL;
    // Whether it hears us is its own affair.
    let _ = tokio::time::timeout_at(until, stream.shutdown()).await;
}
