//! One stream: reads requests, watches the view, answers when the client can take it.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use http::Extensions;
use isthmus_proto::type_url;
use prost::Message;
use tonic::Status;

use super::Shared;
use super::body::Sender;
use super::nodes::{Arrival, Closed, HealthReport, Session};
use super::streams::Place;
use crate::flavour::Flavour;
use crate::frame::{FrameError, FrameReader};
use crate::subscription::{Heard, Request, Standing, Subscriptions};
use crate::wire;

type Requests = FrameReader<tonic::body::Body>;

/// How a stream ended.
enum End {
    Client,
    Lost(String),
    With(Status),
}

pub(super) struct Stream {
    shared: Arc<Shared>,
    flavour: Flavour,
    extensions: Extensions,
    sender: Sender,
}

/// A stream whose client was let in. Tells the observer of its end, even when the task is dropped.
struct Open {
    place: Place,
    session: Session,
    subscriptions: Subscriptions,
    closed: Closed,
    shared: Arc<Shared>,
    flavour: Flavour,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.session.events.closed(&self.closed);
        self.shared.metrics.closed(self.flavour);
    }
}

impl Stream {
    pub(super) fn new(shared: Arc<Shared>, flavour: Flavour, extensions: Extensions, sender: Sender) -> Self {
        Self { shared, flavour, extensions, sender }
    }

    pub(super) async fn run(mut self, body: tonic::body::Body) {
        let mut requests = FrameReader::new(body, self.shared.limits.request_bytes);
        let (mut open, first) = match self.open(&mut requests).await {
            Ok(opened) => opened,
            Err(end) => {
                self.shared.metrics.turned_away();
                self.finish(&end);
                return;
            }
        };
        let end = Box::pin(self.serve(&mut open, first, requests)).await;
        open.closed = match &end {
            End::Client => Closed::Client,
            End::Lost(reason) => Closed::Lost(reason.clone()),
            End::With(status) => Closed::Server(status.message().to_string()),
        };
        tracing::debug!(stream = open.place.stream, reason = %open.closed, "xds stream closed");
        self.finish(&end);
    }

    fn finish(&self, end: &End) {
        match end {
            End::Client => self.sender.end(Status::ok("")),
            // Nobody is there to read a status; the body is gone with its connection, or ends with this one.
            End::Lost(reason) => self.sender.end(Status::cancelled(reason)),
            End::With(status) => {
                tracing::debug!(code = ?status.code(), message = status.message(), "ending an xds stream");
                self.sender.end(status.clone());
            }
        }
    }

    /// From nothing to a session: identity, limits, first request, consent.
    async fn open(&mut self, requests: &mut Requests) -> Result<(Open, Request), End> {
        let limits = &self.shared.limits;
        let identity = self.shared.nodes.identity(&self.extensions).map_err(End::With)?;
        let mut place = self
            .shared
            .streams
            .enter(&identity, limits.streams, limits.streams_per_identity)
            .map_err(End::With)?;
        let first = tokio::select! {
            biased;
            () = self.sender.gone() => return Err(End::Lost("client went away before its first request".into())),
            first = tokio::time::timeout(limits.first_request, requests.next()) => first,
        };
        let Ok(first) = first else {
            let seconds = limits.first_request.as_secs();
            return Err(End::With(Status::deadline_exceeded(format!("no request within {seconds} s"))));
        };
        let (node, request) = self.decode(first)?;
        let Some(node) = node.filter(|node| !node.id.is_empty()) else {
            return Err(End::With(Status::invalid_argument("the first request must carry node.id")));
        };
        let node_id = node.id.clone();
        let extensions = std::mem::take(&mut self.extensions);
        let arrival = Arrival { identity, node, extensions, flavour: self.flavour, stream: place.stream };
        let session = tokio::select! {
            biased;
            () = self.sender.gone() => return Err(End::Lost("client went away while it was let in".into())),
            session = self.shared.nodes.connect(arrival) => session.map_err(End::With)?,
        };
        place.introduced(&node_id, self.flavour);
        self.shared.metrics.opened(self.flavour);
        tracing::debug!(
            stream = place.stream,
            node = node_id,
            flavour = self.flavour.as_str(),
            "xds stream open"
        );
        let open = Open {
            place,
            session,
            subscriptions: Subscriptions::new(self.flavour),
            closed: Closed::Lost("the stream's task was dropped".into()),
            shared: Arc::clone(&self.shared),
            flavour: self.flavour,
        };
        Ok((open, request))
    }

    async fn serve(&self, open: &mut Open, first: Request, mut requests: Requests) -> End {
        let signal = self.shared.tasks.signal();
        let age = self.shared.limits.max_age.map(|age| age.mul_f64(rand::random_range(0.9..=1.1)));
        let old = tokio::time::sleep(age.unwrap_or(Duration::from_secs(1 << 30)));
        tokio::pin!(old);
        // Made once: a thousand streams that each register anew at every turn would wait for each other.
        let stopping = signal.stopping();
        tokio::pin!(stopping);
        if let Err(status) = self.heard(open, first) {
            return End::With(status);
        }
        // Whether the view or the subscriptions may have something that was not sent.
        let mut pending = true;
        loop {
            tokio::select! {
                biased;
                () = &mut stopping => {
                    return End::With(Status::unavailable("this control plane is stopping; connect to another one"));
                }
                () = self.sender.gone() => return End::Lost("client went away".into()),
                () = &mut old => return End::With(Status::unavailable("the stream has reached its maximum age")),
                request = requests.next() => {
                    let request = match request {
                        Ok(None) => return End::Client,
                        other => match self.decode(other) {
                            Ok((_, request)) => request,
                            Err(end) => return end,
                        },
                    };
                    if let Err(status) = self.heard(open, request) {
                        return End::With(status);
                    }
                    pending = true;
                }
                changed = open.session.views.changed() => {
                    if changed.is_err() {
                        return End::With(Status::unavailable("the control plane let this client go; connect again"));
                    }
                    pending = true;
                }
                () = self.sender.wanted(), if pending => {
                    let newest = Arc::clone(&open.session.views.borrow_and_update());
                    match open.subscriptions.next(&newest, &self.shared.cache) {
                        Some(response) => {
                            self.shared.metrics.sent(&response);
                            self.sender.send(response);
                        }
                        None => {
                            self.sender.not_now();
                            pending = false;
                        }
                    }
                    open.place.report(open.subscriptions.report());
                }
            }
        }
    }

    /// Takes a request in.
    fn heard(&self, open: &mut Open, request: Request) -> Result<(), Status> {
        if request.type_url == type_url::HEALTH {
            // The first request for listeners says that the proxy is there; before it a report has no meaning (Istio).
            if open.subscriptions.watches(type_url::LISTENER) {
                let report = request.error.map_or(HealthReport::Healthy, HealthReport::Unhealthy);
                open.session.events.health(report);
            }
            return Ok(());
        }
        let (url, error) = (request.type_url.clone(), request.error.clone());
        let view = Arc::clone(&open.session.views.borrow());
        let heard = open
            .subscriptions
            .heard(request, &view, &self.shared.cache)
            .map_err(|bad| Status::invalid_argument(bad.to_string()))?;
        self.shared.metrics.heard(&url, &heard);
        let report = open.subscriptions.report();
        let (standing, version) = report
            .iter()
            .find(|one| *one.type_url == *url)
            .map_or((None, 0), |one| (Some(one.standing), one.version));
        if heard == Heard::Nacked {
            let error = error.unwrap_or_default();
            tracing::warn!(stream = open.place.stream, r#type = url, error, "client refused a response");
            open.session.events.refused(&url, version, &error);
        } else if standing == Some(Standing::Acked) {
            open.session.events.accepted(&url, version);
        }
        open.place.report(report);
        Ok(())
    }

    fn decode(&self, read: Result<Option<bytes::Bytes>, FrameError>) -> Result<(Option<Node>, Request), End> {
        let message = match read {
            Ok(Some(message)) => message,
            Ok(None) => return Err(End::Client),
            Err(FrameError::Body(problem)) => return Err(End::Lost(problem)),
            Err(error @ FrameError::TooLarge { .. }) => {
                return Err(End::With(Status::resource_exhausted(error.to_string())));
            }
            Err(error @ FrameError::Compressed) => {
                return Err(End::With(Status::unimplemented(error.to_string())));
            }
            Err(error @ FrameError::Truncated) => return Err(End::Lost(error.to_string())),
        };
        let bad =
            |error| End::With(Status::invalid_argument(format!("a request cannot be decoded: {error}")));
        match self.flavour {
            Flavour::World => {
                let mut request = wire::WorldRequest::decode(message).map_err(bad)?;
                Ok((request.node.take(), wire::world(request)))
            }
            Flavour::Delta => {
                let mut request = DeltaDiscoveryRequest::decode(message).map_err(bad)?;
                Ok((request.node.take(), wire::delta(request)))
            }
        }
    }
}
