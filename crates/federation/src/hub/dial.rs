//! The calling side: one stream at a time, again and again.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use hyper_util::rt::TokioIo;
use isthmus_proto::federation::federation_client::FederationClient;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use super::actor::{Arrival, OUTGOING};
use super::{Connector, Dial, Seen, Shared};
use crate::link::{Ended, Role};
use crate::peer::PeerConfig;

/// HTTP/2 pings, besides the protocol's own heartbeats.
const PING: Duration = Duration::from_secs(10);
/// For the last words of a stream to arrive.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Calls one peer whenever there is no stream and it has gateways.
pub(super) struct Calls {
    pub(super) shared: Arc<Shared>,
    pub(super) config: watch::Receiver<PeerConfig>,
    pub(super) live: watch::Receiver<bool>,
    pub(super) arrivals: mpsc::Sender<Arrival>,
    pub(super) seen: Arc<Mutex<Seen>>,
    pub(super) removed: CancellationToken,
}

impl Calls {
    pub(super) async fn run(mut self) {
        let signal = self.shared.parts.tasks.signal();
        let removed = self.removed.clone();
        tokio::select! {
            biased;
            () = signal.stopping() => {}
            () = removed.cancelled() => {}
            () = self.call_again_and_again() => {}
        }
    }

    async fn call_again_and_again(&mut self) {
        let mut backoff = self.shared.parts.options.backoff.clone();
        loop {
            let config = match self.config.wait_for(|config| !config.gateways.is_empty()).await {
                Ok(config) => config.clone(),
                // The hub is gone.
                Err(_) => return,
            };
            self.config.mark_unchanged();
            // While the peer's own call stands there is nothing to do.
            if self.live.wait_for(|live| !live).await.is_err() {
                return;
            }
            let (ended, accepted) = Box::pin(self.call(config)).await;
            if accepted {
                backoff.reset();
            }
            let delay = backoff.next_delay();
            tracing::debug!(reason = %ended, retry_ms = delay.as_millis(), "federation call ended");
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                // A changed link is tried at once.
                changed = self.config.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.config.mark_changed();
                    backoff.reset();
                }
            }
        }
    }

    /// One call until its end, and whether the peer had accepted it.
    async fn call(&self, config: PeerConfig) -> (Ended, bool) {
        let server_name = config.name().to_string();
        let whom = Dial { server_name: server_name.clone(), addresses: config.gateways.clone() };
        let connector = self.shared.parts.connector.clone();
        let connect_timeout = self.shared.parts.options.connect_timeout;
        let opened =
            timeout(connect_timeout, open(&server_name, whom.clone(), connector, connect_timeout)).await;
        let (out, incoming) = match opened {
            Ok(Ok(streams)) => streams,
            Ok(Err(ended)) => return (self.failed(ended), false),
            Err(_) => {
                let problem =
                    format!("no answer within {connect_timeout:?} through {}", whom.addresses.join(", "));
                return (self.failed(Ended::Closed(problem)), false);
            }
        };
        let (over, ending) = oneshot::channel();
        // The connector has verified the name.
        let presented = vec![server_name];
        let arrival = Arrival { role: Role::Dialing, presented, incoming, out, over: Some(over) };
        if self.arrivals.send(arrival).await.is_err() {
            return (Ended::Closed("the link is gone".into()), false);
        }
        let (ended, mut incoming) = match ending.await {
            Ok(over) => over,
            Err(_) => return (Ended::Closed("the link is gone".into()), false),
        };
        // What we said last is on its way; the other side closes when it has read it.
        let _ = timeout(LAST_WORDS, async { while incoming.next().await.is_some() {} }).await;
        let accepted = matches!(ended, Ended::Closed(_));
        (ended, accepted)
    }

    fn failed(&self, ended: Ended) -> Ended {
        let mut seen = self.seen.lock();
        if !seen.connected {
            seen.refused = matches!(ended, Ended::Refused(_));
            seen.error = Some(match &ended {
                Ended::Refused(reason) | Ended::Closed(reason) => reason.clone(),
            });
        }
        drop(seen);
        self.shared.status_moved.send_modify(|times| *times += 1);
        ended
    }
}

type Streams = (mpsc::Sender<isthmus_proto::federation::Frame>, super::actor::Incoming);

async fn open(
    server_name: &str,
    whom: Dial,
    connector: Connector,
    connect_timeout: Duration,
) -> Result<Streams, Ended> {
    // The scheme stays http: TLS is the connector's.
    let endpoint = Endpoint::from_shared(format!("http://{server_name}"))
        .map_err(|error| Ended::Closed(format!("server name {server_name:?}: {error}")))?
        .connect_timeout(connect_timeout)
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .keep_alive_while_idle(true);
    let addresses = whom.addresses.join(", ");
    let service = tower::service_fn(move |_: tonic::codegen::http::Uri| {
        let dialing = connector.dial(whom.clone());
        async move { dialing.await.map(TokioIo::new) }
    });
    let channel = endpoint.connect_with_connector(service).await.map_err(|error| {
        let source = std::error::Error::source(&error).map_or_else(|| error.to_string(), root_cause);
        Ended::Closed(format!("cannot connect through {addresses}: {source}"))
    })?;
    let (out, outgoing) = mpsc::channel(OUTGOING);
    let response = FederationClient::new(channel).link(ReceiverStream::new(outgoing)).await;
    match response {
        Ok(response) => Ok((out, response.into_inner().boxed())),
        Err(status) => Err(refusal(&status)),
    }
}

fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

fn refusal(status: &tonic::Status) -> Ended {
    match status.code() {
        tonic::Code::PermissionDenied | tonic::Code::Unauthenticated => {
            Ended::Refused(status.message().to_string())
        }
        code => Ended::Closed(format!("{code:?}: {}", status.message())),
    }
}
