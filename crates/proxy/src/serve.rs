//! One downstream connection, from its acceptance to its last byte.

mod join;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use isthmus_socket::Socket;

use crate::access::{Flag, Record, Refusal};
use crate::announced;
use crate::balance::Active;
use crate::cluster::Occupied;
use crate::config::Limits;
use crate::flows::Flow;
use crate::metrics::Counters;
use crate::relay::{End, Outcome, Patience, Relay};
use crate::resource::chain::Timing;
use crate::resource::listener::Listener;
use crate::shared::{Admitted, Shared};
use crate::stream::{Stream, reset};
use crate::upstream::Reached;
use join::join;

/// Both ends of a connection that can begin.
struct Joined {
    downstream: Stream,
    upstream: Reached,
    /// Bytes of the downstream that the upstream has already.
    forwarded: u64,
    timing: Timing,
}

/// A connection that is being relayed.
struct Open {
    flow: Arc<Flow>,
    counters: Arc<Counters>,
    relay: Relay,
    _active: Option<Active>,
    _occupied: Occupied,
    _admitted: Admitted,
}

/// Serves one connection. Its task stays small: what only the beginning needs is boxed, and freed before the relay.
pub(crate) fn serve(
    shared: Arc<Shared>,
    listener: Arc<Listener>,
    stream: Socket,
    source: SocketAddr,
    admitted: Admitted,
) -> impl Future<Output = ()> {
    let begun = Box::pin(begin(Arc::clone(&shared), listener, stream, source, admitted));
    async move {
        let Some((mut open, patience)) = begun.await else { return };
        let Open { relay, flow, .. } = &mut *open;
        let grown = |upstream: &Socket| shared.connector.watch(upstream, flow.record.cluster.as_deref());
        let outcome = relay.run(patience, &shared.clock, &flow.moved, grown).await;
        open.ended(&shared, &outcome);
    }
}

async fn begin(
    shared: Arc<Shared>,
    listener: Arc<Listener>,
    stream: Socket,
    source: SocketAddr,
    mut admitted: Admitted,
) -> Option<(Box<Open>, Patience)> {
    let mut record = Record::new(listener, source);
    let joined = match receive(&shared, stream, &mut record, &mut admitted).await {
        Ok(joined) => joined,
        Err(refusal) => {
            let counters = shared.metrics.opened(&record, || own_principal(&shared), &shared.networks.load());
            shared.metrics.closed(&counters, refusal.flag);
            record.refused(&refusal);
            return None;
        }
    };
    let counters = shared.metrics.opened(&record, || own_principal(&shared), &shared.networks.load());
    let limits = &shared.config.limits;
    let patience = Patience {
        idle: Some(joined.timing.idle.unwrap_or(limits.idle)).filter(|idle| !idle.is_zero()),
        until: lifetime(joined.timing, limits).map(|lifetime| record.began + lifetime),
    };
    let host = record.endpoint.as_ref().map(|endpoint| Arc::clone(&endpoint.host));
    let Joined { downstream, upstream: Reached { stream, active, occupied }, forwarded, .. } = joined;
    let relay = Relay::new(downstream, stream, host, forwarded, counters.meter());
    let flow = admitted.list(record);
    let open = Open { flow, counters, relay, _active: active, _occupied: occupied, _admitted: admitted };
    Some((Box::new(open), patience))
}

/// Joins, once it is known who the client is.
async fn receive(
    shared: &Arc<Shared>,
    mut stream: Socket,
    record: &mut Record,
    admitted: &mut Admitted,
) -> Result<Joined, Refusal> {
    if let Some(accepted) = record.listener.announced {
        match announced::read(&mut stream, accepted, shared.config.limits.handshake).await {
            Ok(ends) => record.source = ends.map_or(record.source, |ends| ends.source),
            Err(error) => {
                reset(&stream);
                shared.metrics.refused(error.cause());
                return Err(Refusal::new(Flag::Downstream, error.to_string()));
            }
        }
        if !admitted.belongs_to(record.source.ip()) {
            reset(&stream);
            return Err(Refusal::new(Flag::Overflow, "too many connections from its source"));
        }
    }
    join(shared, stream, record).await
}

/// How old a connection may become: what its chain says, and at most the proxy's own age, give or take a tenth.
fn lifetime(timing: Timing, limits: &Limits) -> Option<Duration> {
    if limits.age.is_zero() {
        return timing.lifetime;
    }
    let own = limits.age.mul_f64(rand::random_range(0.9..1.1));
    Some(timing.lifetime.map_or(own, |lifetime| lifetime.min(own)))
}

impl Open {
    fn ended(&self, shared: &Shared, outcome: &Outcome) {
        if outcome.sent == 0
            && let End::Upstream(error) = &outcome.end
            && is_broken(error)
            && let (Some(endpoint), Some(cluster)) = (&self.flow.record.endpoint, &self.flow.record.cluster)
        {
            shared.outliers.failed(cluster, &endpoint.host);
        }
        // asked for only where it is shown
        let shown = tracing::enabled!(target: "access", tracing::Level::INFO);
        let local = shown.then(|| self.relay.upstream().local_addr().ok()).flatten();
        let flag = self.flow.record.ended(outcome, local);
        shared.metrics.closed(&self.counters, flag);
    }
}

/// The connection broke, as opposed to an alert that says what the peer holds against us.
fn is_broken(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | TimedOut | UnexpectedEof)
}

fn own_principal(shared: &Shared) -> Option<Arc<str>> {
    shared.config.identity.leaf()?.spiffe().map(|id| id.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_task_of_a_connection_is_small() {
        fn future<A, B, C, D, E, F>(_: fn(A, B, C, D, E) -> F) -> usize {
            std::mem::size_of::<F>()
        }
        // What lives as long as the connection, beside its two sockets and, for TLS, the sessions.
        let bytes = future(serve) + std::mem::size_of::<Open>();
        assert!(bytes <= 480, "{} + {} bytes", future(serve), std::mem::size_of::<Open>());
    }
}
