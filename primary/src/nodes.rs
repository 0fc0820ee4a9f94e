//! Who may open an xDS stream, as what; and what a stream's life does to the workload's object.

use std::sync::Arc;

use http::Extensions;
use isthmus_envoy::Proxy;
use isthmus_envoy::node::Node;
use isthmus_kube::registration::{
    Registered, Registrar, Registration, RegistrationError, RegistrationRequest,
};
use isthmus_lifecycle::{OnFailure, TaskGroup};
use isthmus_model::{ClusterId, SpiffeId};
use isthmus_xds::server::{Arrival, Closed, HealthReport, Nodes, Session, StreamEvents};
use tokio::sync::{mpsc, watch};
use tonic::Status;

use crate::caller::{Callers, Peer};
use crate::views::Views;

/// Health reports of one stream that wait for the API server; more than this and the oldest state is told late, not lost: the agent
/// reports changes only.
const REPORTS: usize = 16;

/// The control plane's decisions about its clients.
pub struct Clients {
    /// Cluster that workloads belong to.
    pub cluster: ClusterId,
    /// Who they are.
    pub callers: Callers,
    /// Views of proxies.
    pub views: Views,
    /// Writes Pods and WorkloadEntries.
    pub registrar: Registrar,
    /// Completes when every source has been listed once: before that nothing is served, since unknown is not empty.
    pub synced: watch::Receiver<bool>,
    /// Runs what outlives a stream's own task.
    pub tasks: TaskGroup,
}

impl Clients {
    /// A stream gets the configuration of the workload that its certificate names, and no other's.
    fn check(&self, id: &SpiffeId, node: &Node) -> Result<(), Status> {
        let refuse = |problem: String| Err(Status::permission_denied(format!("{id} {problem}")));
        if id.namespace != node.namespace {
            return refuse(format!("asks for the configuration of namespace {}", node.namespace));
        }
        if let Some(account) = &node.service_account
            && *account != id.service_account
        {
            return refuse(format!(
                "asks for the configuration of service account {}/{account}",
                node.namespace
            ));
        }
        if !node.cluster.is_empty() && *node.cluster != *self.cluster.as_str() {
            return refuse(format!(
                "belongs to cluster {}, and this control plane serves {}",
                node.cluster, self.cluster
            ));
        }
        Ok(())
    }

    async fn register(&self, id: &SpiffeId, node: &Node) -> Result<Option<Registered>, Status> {
        let registration = match (&node.register_group, node.register_pod) {
            (Some(group), _) => Registration::Group(group.to_string()),
            (None, true) => Registration::Pod,
            (None, false) => return Ok(None),
        };
        let request = RegistrationRequest {
            registration,
            namespace: node.namespace.clone(),
            name: node.name.to_string(),
            service_account: id.service_account.to_string(),
            identity: id.clone(),
            ips: node.ips.clone(),
            network: node.network.clone(),
            locality: node.locality.clone(),
            labels: node.labels.clone(),
            ports: node.ports.iter().map(|(name, port)| (name.to_string(), *port)).collect(),
            node: node.node_name.as_ref().map(|name| name.to_string()),
            health_checked: node.health_checked,
        };
        if request.registration == Registration::Pod && !self.registrar.writes_pods() {
            self.registrar.expect_pod(&request).await.map_err(|error| status(&error))?;
            return Ok(None);
        }
        self.registrar.connect(request).await.map(Some).map_err(|error| status(&error))
    }

    fn proxy(&self, id: &SpiffeId, node: &Node, registered: Option<&Registered>) -> Proxy {
        let name = registered.map_or_else(|| Arc::clone(&node.name), |object| object.name().into());
        node.proxy(name, Arc::clone(&id.service_account), &self.cluster)
    }
}

/// The one table from registration errors to gRPC codes.
fn status(error: &RegistrationError) -> Status {
    let text = error.to_string();
    match error {
        RegistrationError::Identity { .. } => Status::permission_denied(text),
        RegistrationError::Missing { .. } => Status::failed_precondition(text),
        RegistrationError::NameTaken { .. } => Status::already_exists(text),
        RegistrationError::Invalid { .. } => Status::invalid_argument(text),
        RegistrationError::Api { .. } => Status::unavailable(text),
    }
}

#[tonic::async_trait]
impl Nodes for Clients {
    fn identity(&self, extensions: &Extensions) -> Result<Arc<str>, Status> {
        // One ServiceAccount may stand for many workloads, so the limit is for each host of it. Whose a token is, is not known yet.
        let peer = extensions.get::<Peer>().ok_or_else(|| Status::internal("a request of no connection"))?;
        let host = peer.address.ip();
        match &peer.certificate {
            Some(certificate) => Ok(format!("{}@{host}", certificate.name()).into()),
            None if peer.bearer.is_some() => Ok(format!("token@{host}").into()),
            None => Err(peer.stranger()),
        }
    }

    async fn connect(&self, arrival: Arrival) -> Result<Session, Status> {
        let id = self.callers.identify(&arrival.extensions).await?;
        let mesh = Arc::clone(&self.views.snapshot().mesh);
        let node = Node::read(&arrival.node, &mesh.config)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.check(&id, &node)
            .inspect_err(|status| tracing::warn!(status = status.message(), "stream refused"))?;
        if !*self.synced.borrow() {
            return Err(Status::unavailable(
                "this control plane is still reading its configuration; try again",
            ));
        }
        let registered = self.register(&id, &node).await.inspect_err(|status| {
            tracing::warn!(status = status.message(), "registration refused");
        })?;
        let proxy = self.proxy(&id, &node, registered.as_ref());
        let (kind, network) = (proxy.kind.as_str(), proxy.network_in(&self.views.snapshot()));
        tracing::info!(kind, name = %proxy.name, namespace = %proxy.namespace, %network, "proxy connected");
        let views = self.views.open(arrival.stream, proxy);
        let (stream, open) = (arrival.stream, self.views.clone());
        let events: Box<dyn StreamEvents> = match registered {
            None => Box::new(Unregistered { views: open, stream }),
            Some(registered) => {
                let (send, receive) = mpsc::channel(REPORTS);
                let life = Life { registrar: self.registrar.clone(), registered, views: open, stream };
                self.tasks.spawn("stream's life", OnFailure::Log, life.run(receive));
                Box::new(Events(send))
            }
        };
        Ok(Session { views, events })
    }
}

/// Events of a stream that nothing was written for: its workload is somebody else's object.
struct Unregistered {
    views: Views,
    stream: u64,
}

impl StreamEvents for Unregistered {
    fn refused(&self, type_url: &str, _: u64, error: &str) {
        tracing::warn!(type_url, error, "a proxy refused its configuration");
    }

    fn closed(&self, reason: &Closed) {
        tracing::debug!(%reason, "stream closed");
        self.views.close(self.stream);
    }
}

/// Hands events from the stream's task to the one that may wait. Dropping it ends that one.
struct Events(mpsc::Sender<HealthReport>);

impl StreamEvents for Events {
    fn health(&self, report: HealthReport) {
        if self.0.try_send(report).is_err() {
            tracing::warn!("health reports come faster than the API server takes them; one was left out");
        }
    }

    fn refused(&self, type_url: &str, _: u64, error: &str) {
        tracing::warn!(type_url, error, "a proxy refused its configuration");
    }

    fn closed(&self, reason: &Closed) {
        tracing::debug!(%reason, "stream closed");
    }
}

/// One stream's workload, from registration to its end.
struct Life {
    registrar: Registrar,
    registered: Registered,
    views: Views,
    stream: u64,
}

impl Life {
    async fn run(self, mut reports: mpsc::Receiver<HealthReport>) -> Result<(), std::convert::Infallible> {
        let registered = self.registered;
        while let Some(report) = reports.recv().await {
            let (healthy, message) = match report {
                HealthReport::Healthy => (true, String::new()),
                HealthReport::Unhealthy(message) => (false, message),
            };
            tracing::info!(object = %registered.object(), healthy, message, "workload reports its health");
            if let Err(error) = self.registrar.health(&registered, healthy, &message).await {
                tracing::warn!(object = %registered.object(), %error, "health not written");
            }
        }
        self.views.close(self.stream);
        self.registrar.disconnect(registered);
        Ok(())
    }
}
