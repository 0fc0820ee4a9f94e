//! From a cluster to a connection: picks endpoints until one answers.
//!
//! A gateway goes one step further than a connection. It knows that the first bytes it forwards are a ClientHello, which may be
//! said again to someone else: so an endpoint has answered only when its first byte is there. A workload that is stopped, or
//! whose proxy is, costs no request while another one lives.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use isthmus_socket::Socket;
use tokio::io::AsyncWriteExt;

use crate::access::{Flag, Record, Refusal};
use crate::announced::Ends;
use crate::balance::Active;
use crate::cluster::{Cluster, Occupied};
use crate::connect::{ConnectError, Connected};
use crate::resource::cluster::Kind;
use crate::shared::Shared;
use crate::stream::Stream;

/// An upstream connection with what counts it.
pub(crate) struct Reached {
    pub(crate) stream: Stream,
    pub(crate) active: Option<Active>,
    pub(crate) occupied: Occupied,
}

/// Connects. Nothing of the downstream was sent yet, so a failure costs it nothing while another endpoint answers: up to
/// `attempts` are tried, each within the cluster's connect timeout. A `hello` is said to the endpoint, which then must answer.
pub(crate) async fn reach(
    shared: &Shared,
    cluster: &Arc<Cluster>,
    destination: SocketAddr,
    attempts: u32,
    hello: &[u8],
    record: &mut Record,
) -> Result<Reached, Refusal> {
    let Some(occupied) = cluster.occupy() else {
        return Err(Refusal::new(Flag::Overflow, "the cluster's max_connections are in use"));
    };
    if matches!(cluster.config.kind, Kind::OriginalDestination) {
        let mut reached = original(shared, cluster, destination, occupied, record).await?;
        reached
            .stream
            .write_all(hello)
            .await
            .map_err(|error| Refusal::new(Flag::UpstreamFailure, error.to_string()))?;
        return Ok(reached);
    }
    if tokio::time::timeout(cluster.config.connect_timeout, cluster.known()).await.is_err() {
        return Err(Refusal::new(Flag::NoHealthyUpstream, "endpoints are not known yet"));
    }
    let client = Ends { source: record.source, destination };
    let mut tried = HashSet::new();
    let mut last = None;
    let mut last_resort = false;
    while record.attempts < attempts && !last_resort {
        let picked = cluster.pick(&tried).or_else(|| {
            last_resort = true;
            cluster.last_resort(&tried)
        });
        let Some(endpoint) = picked else { break };
        let address = endpoint.address();
        record.attempts += 1;
        record.upstream_address = Some(address);
        let active = endpoint.host.begin();
        let connected = async {
            let (transport, connector) = (&endpoint.transport, &shared.connector);
            let connected =
                connector.connect_saying(cluster, address, transport, Some(client), hello).await?;
            if !hello.is_empty() {
                let others = || {
                    let mut tried = tried.clone();
                    tried.insert(address);
                    cluster.pick(&tried).is_some()
                };
                answered(connected.stream.tcp(), cluster.config.connect_timeout, others).await?;
            }
            Ok::<_, ConnectError>(connected)
        };
        match connected.await {
            Ok(Connected { stream, peer }) => {
                endpoint.host.connected();
                if last_resort {
                    cluster.readmit(&endpoint.host);
                }
                record.upstream = peer.as_deref().map(|certificate| Box::new(certificate.into()));
                record.endpoint = Some(endpoint);
                return Ok(Reached { stream, active: Some(active), occupied });
            }
            Err(error) => {
                tracing::debug!(cluster = %cluster.name(), endpoint = %address, %error, "endpoint failed");
                shared.metrics.upstream_failed(error.cause());
                shared.outliers.failed(cluster, &endpoint.host);
                tried.insert(address);
                last = Some(error);
            }
        }
    }
    Err(match last {
        None => Refusal::new(Flag::NoHealthyUpstream, "no endpoint is healthy"),
        Some(error) if record.attempts >= attempts => Refusal::new(Flag::RetryLimit, error.to_string()),
        Some(error) => Refusal::new(Flag::UpstreamFailure, error.to_string()),
    })
}

/// Waits for the first byte of an answer to the hello, which stays unread. While there are others to ask it waits half of the
/// time only: the client's own patience is hardly longer, and must last for another endpoint.
async fn answered(stream: &Socket, within: Duration, others: impl Fn() -> bool) -> Result<(), ConnectError> {
    let answered = first_byte(stream);
    tokio::pin!(answered);
    for _ in 0..2 {
        match tokio::time::timeout(within / 2, &mut answered).await {
            Ok(answered) => return answered.map_err(ConnectError::Unanswered),
            Err(_) if others() => return Err(ConnectError::Silent(within / 2)),
            Err(_) => {}
        }
    }
    Err(ConnectError::Silent(within))
}

async fn first_byte(stream: &Socket) -> io::Result<()> {
    if stream.first_byte().await? { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

async fn original(
    shared: &Shared,
    cluster: &Arc<Cluster>,
    destination: SocketAddr,
    occupied: Occupied,
    record: &mut Record,
) -> Result<Reached, Refusal> {
    record.attempts = 1;
    record.upstream_address = Some(destination);
    let client = Ends { source: record.source, destination };
    match shared.connector.connect(cluster, destination, &cluster.config.transport, Some(client)).await {
        Ok(Connected { stream, peer }) => {
            cluster.set_refusing(false);
            record.upstream = peer.as_deref().map(|certificate| Box::new(certificate.into()));
            Ok(Reached { stream, active: None, occupied })
        }
        Err(error) => {
            cluster.set_refusing(error.is_refused());
            shared.metrics.upstream_failed(error.cause());
            Err(Refusal::new(Flag::UpstreamFailure, error.to_string()))
        }
    }
}

/// Whether a workload's port that refused its last connection still does. The caller knows this before a handshake, and so
/// can refuse while the client may still go elsewhere.
pub(crate) async fn still_refuses(shared: &Shared, cluster: &Cluster, destination: SocketAddr) -> bool {
    if !cluster.is_refusing() {
        return false;
    }
    match shared.connector.connect(cluster, destination, &cluster.config.transport, None).await {
        Ok(connected) => {
            cluster.set_refusing(false);
            connected.stream.abandon();
            false
        }
        Err(error) => error.is_refused(),
    }
}
