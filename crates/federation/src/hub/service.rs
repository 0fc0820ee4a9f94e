//! The accepting side: finds the peer by its certificate and hands the stream over.

use std::sync::Arc;

use futures::StreamExt;
use isthmus_proto::federation::{Frame, federation_server};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Federation;
use super::actor::{Arrival, OUTGOING};
use crate::link::Role;
use crate::peer::PeerName;

/// DNS names in the client's verified certificate.
type Names = Arc<dyn Fn(&tonic::Extensions) -> Vec<String> + Send + Sync>;

/// The gRPC service: `federation_server::FederationServer::new(service)` goes next to the others.
#[derive(Clone)]
pub struct Service {
    hub: Federation,
    names: Names,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("hub", &self.hub).finish_non_exhaustive()
    }
}

impl Service {
    /// A service that takes a client's name from the request's extensions, where the listener put what TLS has verified. No name means
    /// no certificate.
    pub fn new<F>(hub: Federation, names: F) -> Self
    where
        F: Fn(&tonic::Extensions) -> Vec<String> + Send + Sync + 'static,
    {
        Self { hub, names: Arc::new(names) }
    }
}

#[tonic::async_trait]
impl federation_server::Federation for Service {
    type LinkStream = futures::stream::Map<ReceiverStream<Frame>, fn(Frame) -> Result<Frame, Status>>;

    async fn link(&self, request: Request<Streaming<Frame>>) -> Result<Response<Self::LinkStream>, Status> {
        let presented = (self.names)(request.extensions());
        let names: Vec<PeerName> = presented.iter().filter_map(|name| name.parse().ok()).collect();
        if names.is_empty() {
            let problem = format!(
                "federation needs a certificate for REVISION.CLUSTER.federation.isthmus.internal; this one names {presented:?}"
            );
            return Err(Status::unauthenticated(problem));
        }
        let arrivals = {
            let peers = self.hub.0.peers.lock();
            names.iter().find_map(|name| peers.get(&name.cluster)).map(|peer| peer.arrivals.clone())
        };
        let Some(arrivals) = arrivals else {
            let (us, them) = (&self.hub.0.parts.me.cluster, &names[0].cluster);
            let problem = format!(
                "cluster {us} has no Peer {them}; run isthmus link create --to {them} there or accept its token"
            );
            return Err(Status::permission_denied(problem));
        };
        let (out, outgoing) = mpsc::channel(OUTGOING);
        let arrival = Arrival {
            role: Role::Accepting,
            presented,
            incoming: request.into_inner().boxed(),
            out,
            over: None,
        };
        if arrivals.try_send(arrival).is_err() {
            return Err(Status::resource_exhausted("too many streams of this peer wait; call again later"));
        }
        let ok: fn(Frame) -> Result<Frame, Status> = Ok;
        Ok(Response::new(ReceiverStream::new(outgoing).map(ok)))
    }
}
