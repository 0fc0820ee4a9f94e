//! Registration of workloads by their xDS streams: WorkloadEntries from WorkloadGroups (Istio's auto-registration), and Pods for
//! processes on hosts without a kubelet.
//!
//! What is registered lives in the API server, with a record of its stream: who serves it, since when, or since when it is gone.
//! A workload whose stream ended is taken away after a grace; one that comes back within it keeps its object. A control plane that
//! stops takes nothing away: its leaving says nothing about the workloads.

mod entry;
mod pod;
mod state;
mod sweep;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use isthmus_lifecycle::{Clock, SystemClock, TaskGroup};
use isthmus_model::{Labels, Locality, Namespace, NetworkId, SpiffeId};
use isthmus_resources::Kind;
use parking_lot::Mutex;
use serde_json::Value;
use thiserror::Error;

use crate::api::{ApiError, LEASE, ObjectType};
use crate::client::Cluster;
use state::Connection;

/// How often a write that lost a race is tried again.
const ATTEMPTS: u32 = 8;

/// What a workload asks to be registered as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registration {
    /// A WorkloadEntry made from this WorkloadGroup of its namespace (`AUTO_REGISTER_GROUP`).
    Group(String),
    /// An existing WorkloadEntry of this name (`WORKLOAD_ENTRY`).
    Entry(String),
    /// A Pod (`ISTHMUS_REGISTER: pod`).
    Pod,
}

/// A workload's request, from the first message of its stream.
#[derive(Clone, Debug)]
pub struct RegistrationRequest {
    /// As what.
    pub registration: Registration,
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name: the Pod's.
    pub name: String,
    /// Its service account; empty is the identity's.
    pub service_account: String,
    /// What its certificate proves.
    pub identity: SpiffeId,
    /// Its addresses, the primary first.
    pub ips: Vec<IpAddr>,
    /// Its network.
    pub network: NetworkId,
    /// Where it runs.
    pub locality: Locality,
    /// Its labels.
    pub labels: Labels,
    /// Its ports, as name and number; for Pods.
    pub ports: Vec<(String, u16)>,
    /// Node to name in the Pod, when it has one.
    pub node: Option<String>,
    /// Whether it reports its health: it takes traffic only once it said that it is healthy.
    pub health_checked: bool,
}

/// Why a workload is not registered. The stream is refused with the gRPC status that [`RegistrationError::is_retryable`] and the
/// variants suggest.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RegistrationError {
    /// It is not who it says (`PermissionDenied`).
    #[error("registration of {workload} refused: its certificate says {identity}, which {problem}")]
    Identity {
        /// `NAMESPACE/NAME`.
        workload: String,
        /// The certificate's identity.
        identity: String,
        /// What is wrong with that.
        problem: String,
    },
    /// Something must be created first (`FailedPrecondition`).
    #[error("registration of {workload} refused: {missing} does not exist; create it with `{command}`")]
    Missing {
        /// `NAMESPACE/NAME`.
        workload: String,
        /// What is missing.
        missing: String,
        /// What creates it.
        command: String,
    },
    /// Somebody else has the name (`AlreadyExists`).
    #[error("registration of {workload} refused: the name belongs to {owner}; choose another with --name")]
    NameTaken {
        /// `NAMESPACE/NAME`.
        workload: String,
        /// To whom.
        owner: String,
    },
    /// The request itself is wrong (`InvalidArgument`).
    #[error("registration of {workload} refused: {problem}")]
    Invalid {
        /// `NAMESPACE/NAME`.
        workload: String,
        /// What is wrong.
        problem: String,
    },
    /// The API server failed (`Unavailable`).
    #[error("registration of {workload} failed: {source}")]
    Api {
        /// `NAMESPACE/NAME`.
        workload: String,
        /// How.
        source: ApiError,
    },
}

impl RegistrationError {
    /// Whether the same request may succeed later without anybody's doing.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Api { source, .. } if source.is_transient())
    }
}

/// Settings of a registrar.
#[derive(Clone)]
pub struct RegistrarConfig {
    /// Name of this control plane in records; unique among replicas and the same after a restart.
    pub holder: String,
    /// How long a workload without a stream stays.
    pub grace: Duration,
    /// Whether Pods are ours to write. Where Kubernetes does that, a workload that asks for one must have one.
    pub writes_pods: bool,
    /// How long after start workloads may take to come back before they count as gone.
    pub settle: Duration,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

impl RegistrarConfig {
    /// Istio's defaults: 10 s of grace; a minute to settle. Writes Pods.
    #[must_use]
    pub fn new(holder: impl Into<String>) -> Self {
        Self {
            holder: holder.into(),
            grace: Duration::from_secs(10),
            writes_pods: true,
            settle: Duration::from_secs(60),
            clock: Arc::new(SystemClock),
        }
    }
}

/// What is registered: type of the object that holds the record, namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Place {
    /// A Pod with its Lease, else a WorkloadEntry.
    pod: bool,
    namespace: String,
    name: String,
}

impl Place {
    /// The type of the object that holds the stream's record.
    fn record(&self) -> ObjectType {
        if self.pod { LEASE } else { Kind::WorkloadEntry.into() }
    }
}

/// A registered stream. Give it back with [`Registrar::disconnect`] when the stream ends.
#[derive(Debug)]
pub struct Registered {
    place: Place,
    stream: u64,
    started: jiff::Timestamp,
}

impl Registered {
    /// `NAMESPACE/NAME` of the Pod or WorkloadEntry.
    #[must_use]
    pub fn object(&self) -> String {
        format!("{}/{}", self.place.namespace, self.place.name)
    }

    /// Name of the Pod or WorkloadEntry.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.place.name
    }

    /// Whether it is a Pod.
    #[must_use]
    pub fn is_pod(&self) -> bool {
        self.place.pod
    }
}

/// Registers workloads. Cheap to clone.
#[derive(Clone)]
pub struct Registrar {
    inner: Arc<Inner>,
}

struct Inner {
    cluster: Cluster,
    config: RegistrarConfig,
    tasks: TaskGroup,
    started: jiff::Timestamp,
    next_stream: AtomicU64,
    /// Open streams by place. Whoever holds none of a place's streams is not connected here.
    streams: Mutex<HashMap<Place, BTreeMap<u64, jiff::Timestamp>>>,
}

impl Registrar {
    /// Starts the upkeep: renewal of records, and the sweep for workloads that nobody serves.
    #[must_use]
    pub fn new(cluster: Cluster, config: RegistrarConfig, tasks: TaskGroup) -> Self {
        let started = timestamp(config.clock.now());
        let inner = Arc::new(Inner {
            cluster,
            config,
            tasks,
            started,
            next_stream: AtomicU64::new(1),
            streams: Mutex::default(),
        });
        sweep::spawn(&inner);
        Self { inner }
    }

    /// Registers a workload whose stream has begun.
    ///
    /// # Errors
    /// When it is not who it says, something that it refers to is missing, its name is another's, or the API server fails.
    pub async fn connect(&self, request: RegistrationRequest) -> Result<Registered, RegistrationError> {
        check(&request)?;
        let inner = &self.inner;
        let started = timestamp(inner.config.clock.now());
        let place = inner.place(&request);
        let stream = inner.next_stream.fetch_add(1, Ordering::Relaxed);
        // Entered first, so that the end of an older stream of the same workload does not take it away.
        inner.streams.lock().entry(place.clone()).or_default().insert(stream, started);
        let registered = Registered { place, stream, started };
        let outcome = if registered.place.pod {
            inner.connect_pod(&request, started).await
        } else {
            inner.connect_entry(&request, &registered.place, started).await
        };
        match outcome {
            Ok(()) => {
                tracing::info!(object = %registered.object(), pod = registered.place.pod, identity = %request.identity, "workload registered");
                Ok(registered)
            }
            Err(error) => {
                inner.forget(&registered);
                Err(error)
            }
        }
    }

    /// Whether Pods are written here. Where Kubernetes writes them, [`Registrar::expect_pod`] is the question to ask.
    #[must_use]
    pub fn writes_pods(&self) -> bool {
        self.inner.config.writes_pods
    }

    /// Whether the workload is the Pod of Kubernetes that it says it is.
    ///
    /// # Errors
    /// When there is no such Pod, it runs as somebody else, or the API server fails.
    pub async fn expect_pod(&self, request: &RegistrationRequest) -> Result<(), RegistrationError> {
        check(request)?;
        self.inner.expect_pod(request).await
    }

    /// Writes what a workload said of its health.
    ///
    /// # Errors
    /// When the API server fails; the agent will say it again on its next stream.
    pub async fn health(
        &self,
        registered: &Registered,
        healthy: bool,
        message: &str,
    ) -> Result<(), ApiError> {
        let place = &registered.place;
        for _ in 0..ATTEMPTS {
            let outcome = if place.pod {
                self.inner.pod_health(place, healthy, message).await
            } else {
                self.inner.entry_health(place, healthy, message).await
            };
            match outcome {
                Err(ApiError::Conflict { .. }) => {}
                outcome => return outcome,
            }
        }
        let action = format!("writing the health of {}", registered.object());
        Err(ApiError::Conflict { action, message: "too many writers".to_string() })
    }

    /// The stream has ended. After the grace the workload is taken away, unless it is back by then.
    pub fn disconnect(&self, registered: Registered) {
        let inner = Arc::clone(&self.inner);
        if inner.forget(&registered) || inner.tasks.signal().is_stopping() {
            return;
        }
        tracing::info!(object = %registered.object(), "workload's stream ended");
        let tasks = inner.tasks.clone();
        tasks.spawn_infallible("disconnect", async move {
            inner.disconnected(&registered.place, Some(registered.started)).await;
            inner.expire_after_grace(&registered.place).await;
        });
    }

    /// `NAMESPACE/NAME` of everything with an open stream here.
    #[must_use]
    pub fn connected(&self) -> Vec<String> {
        let streams = self.inner.streams.lock();
        let mut all: Vec<String> =
            streams.keys().map(|place| format!("{}/{}", place.namespace, place.name)).collect();
        all.sort();
        all
    }
}

fn check(request: &RegistrationRequest) -> Result<(), RegistrationError> {
    let workload = workload(request);
    let identity = |problem: String| RegistrationError::Identity {
        workload: workload.clone(),
        identity: request.identity.to_string(),
        problem,
    };
    if request.identity.namespace != request.namespace {
        return Err(identity(format!("is not of namespace {}", request.namespace)));
    }
    if !request.service_account.is_empty() && *request.service_account != *request.identity.service_account {
        return Err(identity(format!("is not service account {}", request.service_account)));
    }
    if request.ips.is_empty() {
        let problem = "it has no address: INSTANCE_IPS of its node metadata is empty".to_string();
        return Err(RegistrationError::Invalid { workload, problem });
    }
    Ok(())
}

fn workload(request: &RegistrationRequest) -> String {
    match &request.registration {
        Registration::Group(group) => {
            format!("{}/{} of WorkloadGroup {group}", request.namespace, request.name)
        }
        Registration::Entry(entry) => format!("{}/{entry}", request.namespace),
        Registration::Pod => format!("{}/{}", request.namespace, request.name),
    }
}

fn failed(request: &RegistrationRequest) -> impl Fn(ApiError) -> RegistrationError + use<'_> {
    |source| RegistrationError::Api { workload: workload(request), source }
}

impl Inner {
    fn place(&self, request: &RegistrationRequest) -> Place {
        let namespace = request.namespace.to_string();
        match &request.registration {
            Registration::Group(group) => {
                let name = state::entry_name(group, request.ips.first().copied(), request.network.as_str());
                Place { pod: false, namespace, name }
            }
            Registration::Entry(entry) => Place { pod: false, namespace, name: entry.clone() },
            Registration::Pod => Place { pod: true, namespace, name: request.name.clone() },
        }
    }

    /// Forgets a stream; true when its workload has another one here.
    fn forget(&self, registered: &Registered) -> bool {
        let mut streams = self.streams.lock();
        let Some(of_place) = streams.get_mut(&registered.place) else { return false };
        of_place.remove(&registered.stream);
        if of_place.is_empty() {
            streams.remove(&registered.place);
            return false;
        }
        true
    }

    fn is_connected(&self, place: &Place) -> bool {
        self.streams.lock().contains_key(place)
    }

    fn now(&self) -> jiff::Timestamp {
        timestamp(self.config.clock.now())
    }

    /// Writes that a workload's stream is gone. `stream` is when it began; none when nobody knows it.
    async fn disconnected(&self, place: &Place, stream: Option<jiff::Timestamp>) {
        let mut pause = Duration::from_millis(5);
        for _ in 0..ATTEMPTS {
            if self.is_connected(place) {
                return;
            }
            match self.try_disconnected(place, stream).await {
                Ok(()) => return,
                Err(error) => tracing::debug!(%error, "disconnect not written yet"),
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        tracing::warn!(object = %format!("{}/{}", place.namespace, place.name), "disconnect not written, the sweep will see to it");
    }

    async fn try_disconnected(&self, place: &Place, stream: Option<jiff::Timestamp>) -> Result<(), ApiError> {
        let found = self.cluster.get(place.record(), Some(&place.namespace), &place.name).await?;
        let Some(record) = found else { return Ok(()) };
        let now = self.now();
        let connection = Connection::read(&record);
        if !connection.should_disconnect(&self.config.holder, stream, now) {
            return Ok(());
        }
        let patch = state::disconnect_patch(&record, now);
        self.cluster.merge(place.record(), Some(&place.namespace), &place.name, None, patch).await.map(drop)
    }

    async fn expire_after_grace(&self, place: &Place) {
        let stop = self.tasks.signal();
        tokio::select! {
            biased;
            () = stop.stopping() => return,
            () = tokio::time::sleep(self.config.grace) => {}
        }
        if let Err(error) = self.expire(place).await {
            tracing::warn!(%error, "registration not cleaned up, the sweep will try again");
        }
    }

    /// Takes a workload away if its stream has been gone for the grace.
    async fn expire(&self, place: &Place) -> Result<(), ApiError> {
        if self.is_connected(place) {
            return Ok(());
        }
        let found = self.cluster.get(place.record(), Some(&place.namespace), &place.name).await?;
        let Some(record) = found else { return Ok(()) };
        if !Connection::read(&record).is_expired(self.now(), self.config.grace) {
            return Ok(());
        }
        let outcome = if place.pod {
            self.remove_pod(place, &record).await
        } else {
            self.remove_entry(place, &record).await
        };
        match outcome {
            // It came back between the look and the deletion.
            Err(ApiError::Conflict { .. }) => Ok(()),
            Ok(()) => {
                tracing::info!(namespace = %place.namespace, name = %place.name, "workload taken away");
                Ok(())
            }
            outcome => outcome,
        }
    }
}

fn timestamp(time: SystemTime) -> jiff::Timestamp {
    jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

/// RFC 3339 in UTC, to the nanosecond.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    timestamp(time).to_string()
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
