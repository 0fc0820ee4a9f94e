//! Keeping the identity alive: renewal at about half of its life, by the certificate being renewed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use isthmus_ca::KeyAndCsr;
use isthmus_lifecycle::{Backoff, Clock, Signal};
use isthmus_model::ClusterId;
use isthmus_model::token::JoinToken;
use isthmus_proto::istio_ca::IstioCertificateRequest;
use isthmus_proto::istio_ca::istio_certificate_service_client::IstioCertificateServiceClient;
use isthmus_tls::{FileError, Identity, InvalidLeaf, Material};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use thiserror::Error;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Request, Status};

use crate::connect::Connector;
use crate::explain;
use crate::join::{Applicant, JoinError, join};

/// Time for one call.
const PATIENCE: Duration = Duration::from_secs(20);
/// The wall clock is looked at this often: a timer alone does not see a machine sleep.
const GLANCE: Duration = Duration::from_secs(30);
/// Certificate services date back for slow clocks by so much (ours and Istio's alike).
const BACKDATE: Duration = Duration::from_secs(120);

/// Why a renewal failed. The old certificate stays in force.
#[derive(Debug, Error)]
pub enum RenewError {
    /// The service said no, or was not reached.
    #[error("{}", explain::status(.0))]
    Service(#[from] Box<Status>),
    /// By token.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// Its answer is no chain.
    #[error("the certificate service answered with a chain without roots")]
    NoRoots,
    /// Its answer cannot be used.
    #[error("the certificate service answered with an unusable certificate: {0}")]
    Leaf(#[from] InvalidLeaf),
    /// Its answer is for someone else.
    #[error("the certificate service answered with a certificate for {0}")]
    Other(String),
}

/// Counts and times of certificates, in a registry with the prefix `istio_agent`.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    renewals: Counter,
    failures: Counter,
    not_after: Gauge,
}

impl Metrics {
    /// Registers `cert_renewals`, `cert_renewal_failures` and `cert_not_after_timestamp_seconds`.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("cert_renewals", "Certificates renewed", metrics.renewals.clone());
        registry.register("cert_renewal_failures", "Failed renewals", metrics.failures.clone());
        registry.register(
            "cert_not_after_timestamp_seconds",
            "End of the certificate's validity, Unix time",
            metrics.not_after.clone(),
        );
        metrics
    }

    fn tell(&self, not_after: SystemTime) {
        let seconds = not_after.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.not_after.set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }
}

/// Renews one identity for as long as it runs.
pub struct Renewal {
    /// What is renewed; followed by every TLS configuration made from it.
    pub identity: Identity,
    /// Where it is saved.
    pub directory: PathBuf,
    /// Way to the certificate service.
    pub connector: Connector,
    /// Cluster, sent as Istio's agents do.
    pub cluster: ClusterId,
    /// Lifetime to ask for; none leaves it to the service.
    pub ttl: Option<Duration>,
    /// A reusable token: joins anew when the certificate has expired.
    pub rejoin: Option<(JoinToken, Applicant)>,
    /// Wall clock.
    pub clock: Arc<dyn Clock>,
    /// Where it is counted.
    pub metrics: Metrics,
}

impl Renewal {
    /// Renews until told to stop.
    pub async fn run(self, stop: Signal) {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        let mut due = self.first_due();
        loop {
            let wait = due.duration_since(self.clock.now()).unwrap_or_default().min(GLANCE);
            tokio::select! {
                biased; // stopping beats renewing
                () = stop.stopping() => return,
                () = tokio::time::sleep(wait) => {}
            }
            if self.clock.now() < due {
                continue;
            }
            let renewed = tokio::select! {
                biased;
                () = stop.stopping() => return,
                renewed = self.renew() => renewed,
            };
            due = match renewed {
                Ok(not_after) => {
                    backoff.reset();
                    due_between(self.clock.now(), not_after)
                }
                Err(error) => {
                    self.metrics.failures.inc();
                    let left = self.seconds_left();
                    if left > 0 {
                        tracing::warn!(%error, valid_for_s = left, "certificate not renewed, trying again");
                    } else {
                        let hint = if self.rejoin.is_some() {
                            "trying again"
                        } else {
                            "join again with a new token"
                        };
                        tracing::error!(%error, expired_for_s = -left, hint, "certificate has expired");
                    }
                    self.clock.now() + backoff.next_delay()
                }
            };
        }
    }

    /// Renews once, saves, and puts the new certificate in force. Returns the end of its validity.
    ///
    /// # Errors
    /// When no usable certificate came; the old one stays.
    pub async fn renew(&self) -> Result<SystemTime, RenewError> {
        let material = match (&self.rejoin, self.seconds_left() <= 0) {
            (Some((token, applicant)), true) => join(token, applicant).await?.material,
            _ => self.ask().await?,
        };
        let (leaf, trust) = material.parse()?;
        if leaf.spiffe() != self.identity.spiffe().as_ref() {
            return Err(RenewError::Other(leaf.certificate().name()));
        }
        if let Err(error) = save(material, self.directory.clone()).await {
            // The new one is good for as long as this process lives.
            tracing::warn!(%error, "renewed certificate not saved");
        }
        let (serial, not_after) = (Arc::clone(&leaf.certificate().serial), leaf.not_after());
        self.identity.update(leaf, trust);
        self.metrics.renewals.inc();
        self.metrics.tell(not_after);
        tracing::info!(%serial, valid_for_s = self.seconds_left(), "certificate renewed");
        Ok(not_after)
    }

    async fn ask(&self) -> Result<Material, RenewError> {
        let key = KeyAndCsr::generate();
        let validity_duration =
            self.ttl.map_or(0, |ttl| i64::try_from(ttl.as_secs().max(1)).unwrap_or(i64::MAX));
        let body = IstioCertificateRequest { csr: key.csr_pem, validity_duration, metadata: None };
        let mut request = Request::new(body);
        request.set_timeout(PATIENCE);
        if let Ok(cluster) = AsciiMetadataValue::try_from(self.cluster.as_str()) {
            request.metadata_mut().insert("clusterid", cluster);
        }
        // A connection of its own: the handshake shows the certificate of this moment.
        let channel = self
            .connector
            .open()
            .await
            .map_err(|error| Box::new(Status::unavailable(explain::cause(&error))))?;
        let mut service = IstioCertificateServiceClient::new(channel);
        let answer = tokio::time::timeout(PATIENCE, service.create_certificate(request))
            .await
            .map_err(|_| Box::new(Status::deadline_exceeded("the certificate service is silent")))?
            .map_err(Box::new)?
            .into_inner();
        Material::from_response(key.key_pem, &answer.cert_chain).ok_or(RenewError::NoRoots)
    }

    fn seconds_left(&self) -> i64 {
        self.identity.leaf().map_or(0, |leaf| seconds_between(self.clock.now(), leaf.not_after()))
    }

    fn first_due(&self) -> SystemTime {
        let now = self.clock.now();
        let Some(leaf) = self.identity.leaf() else { return now };
        let not_after = leaf.not_after();
        self.metrics.tell(not_after);
        // One that lives much longer than it should is replaced at once.
        let left = not_after.duration_since(now).unwrap_or_default();
        if self.ttl.is_some_and(|ttl| left > ttl + ttl / 10) {
            return now;
        }
        let dated = leaf.certificate().not_before;
        let lived = not_after.duration_since(dated).unwrap_or_default();
        let began = if lived > BACKDATE { dated + BACKDATE } else { dated };
        due_between(began, not_after)
    }
}

async fn save(material: Material, directory: PathBuf) -> Result<(), FileError> {
    match tokio::task::spawn_blocking(move || material.save(&directory)).await {
        Ok(saved) => saved,
        // The runtime is going down: nothing to save for.
        Err(_) => Ok(()),
    }
}

/// The middle of a life, give or take a hundredth, so that a fleet does not come at once.
fn due_between(began: SystemTime, ends: SystemTime) -> SystemTime {
    let life = ends.duration_since(began).unwrap_or_default();
    began + life.mul_f64(rand::random_range(0.49..=0.51))
}

/// Seconds from one moment to another; negative when it is past.
pub(crate) fn seconds_between(now: SystemTime, then: SystemTime) -> i64 {
    let seconds = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
    match then.duration_since(now) {
        Ok(left) => seconds(left),
        Err(past) => -seconds(past.duration()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_is_due_about_half_way() {
        let began = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let ends = began + Duration::from_secs(1000);
        for _ in 0..100 {
            let due = due_between(began, ends).duration_since(began).unwrap();
            assert!((490..=510).contains(&due.as_secs()), "{due:?}");
        }
        assert_eq!(seconds_between(ends, began), -1000);
    }
}
