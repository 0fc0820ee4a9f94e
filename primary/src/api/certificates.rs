//! Istio's certificate service: renewals by the certificate being renewed, and Kubernetes tokens with audience `istio-ca`, so that
//! Istio's own agents get certificates too. Names in the request are ignored: the caller's identity decides.

use std::sync::Arc;
use std::time::Duration;

use isthmus_ca::{Authority, Names};
use isthmus_lifecycle::Clock;
use isthmus_model::SpiffeId;
use isthmus_proto::istio_ca::istio_certificate_service_server::IstioCertificateService;
use isthmus_proto::istio_ca::{IstioCertificateRequest, IstioCertificateResponse};
use isthmus_resources::Kind;
use tonic::{Request, Response, Status};

use crate::api::api_status;
use crate::caller::Callers;

/// What signing needs; shared with the join service.
pub struct Signing {
    /// The cluster's intermediate.
    pub authority: Arc<Authority>,
    /// Who asks, and the API server that knows ServiceAccounts.
    pub callers: Callers,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Signing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signing").field("callers", &self.callers).finish_non_exhaustive()
    }
}

impl Signing {
    /// Certifies the key of a request for a workload whose ServiceAccount exists.
    ///
    /// # Errors
    /// Permission denied when the ServiceAccount is gone, unavailable when that cannot be known, invalid argument for a bad request.
    pub async fn sign(&self, csr: &str, id: &SpiffeId, ttl: Option<Duration>) -> Result<Vec<String>, Status> {
        let (namespace, account) = (id.namespace.as_str(), &*id.service_account);
        let exists = self
            .callers
            .cluster
            .get(Kind::ServiceAccount, Some(namespace), account)
            .await
            .map_err(|error| api_status(&error))?;
        if exists.is_none() {
            let problem = format!(
                "ServiceAccount {namespace}/{account} does not exist in this cluster; create it with `kubectl create serviceaccount {account} -n {namespace}`"
            );
            return Err(Status::permission_denied(problem));
        }
        let issued = self.authority.issue(csr, &Names::workload(id.clone()), ttl, self.clock.now());
        let issued = issued.map_err(|error| {
            if error.is_callers_fault() {
                Status::invalid_argument(error.to_string())
            } else {
                tracing::error!(%error, identity = %id, "certificate not issued");
                Status::internal(error.to_string())
            }
        })?;
        tracing::info!(identity = %id, serial = %issued.serial, "certificate issued");
        Ok(issued.response())
    }
}

/// The service.
#[derive(Debug, Clone)]
pub struct Certificates(pub Arc<Signing>);

#[tonic::async_trait]
impl IstioCertificateService for Certificates {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let id = self.0.callers.identify(request.extensions()).await?;
        let request = request.into_inner();
        let ttl = u64::try_from(request.validity_duration)
            .ok()
            .filter(|seconds| *seconds > 0)
            .map(Duration::from_secs);
        let cert_chain = self.0.sign(&request.csr, &id, ttl).await?;
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}
