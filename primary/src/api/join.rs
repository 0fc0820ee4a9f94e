//! How hosts enter the mesh: a token for the first certificate (see `proto/definitions/isthmus/join/v1/join.proto`).

use std::sync::Arc;

use isthmus_ca::csr;
use isthmus_kube::Cluster;
use isthmus_kube::mesh::{Granted, TokenError};
use isthmus_model::{NamespacedName, SpiffeId};
use isthmus_proto::join::join_service_server::JoinService;
use isthmus_proto::join::{JoinKind, JoinRequest, JoinResponse};
use isthmus_resources::Kind;
use serde_json::Value;
use tonic::{Request, Response, Status};

use crate::api::api_status;
use crate::api::certificates::Signing;
use crate::caller::bearer;
use crate::config::Config;

/// The service.
#[derive(Debug, Clone)]
pub struct Joining {
    /// Signs.
    pub signing: Arc<Signing>,
    /// What joiners are told of the mesh.
    pub config: Arc<Config>,
}

#[tonic::async_trait]
impl JoinService for Joining {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let Some(token) = bearer(request.extensions()).map(String::from) else {
            return Err(Status::unauthenticated(
                "joining needs a token: make one with `isthmus vm token` or `isthmus host token`",
            ));
        };
        let request = request.into_inner();
        let hostname = request.hostname.clone();
        let joined = match self.cluster().verify_token(&token).await.map_err(|error| token_status(&error))? {
            granted @ Granted::Vm { .. } => self.vm(granted, request).await,
            Granted::Host { service_accounts, .. } => self.host(&service_accounts, request).await,
        };
        match &joined {
            Ok(response) => tracing::info!(
                host = %hostname,
                service_account = format!("{}/{}", response.namespace, response.service_account),
                "host joined"
            ),
            Err(status) => tracing::warn!(host = %hostname, error = status.message(), "host refused"),
        }
        joined.map(Response::new)
    }
}

impl Joining {
    fn cluster(&self) -> &Cluster {
        &self.signing.callers.cluster
    }

    async fn vm(&self, granted: Granted, request: JoinRequest) -> Result<JoinResponse, Status> {
        let Granted::Vm { group, service_account, .. } = &granted else {
            return Err(Status::internal("a grant of another kind"));
        };
        if request.kind != i32::from(JoinKind::Vm) {
            return Err(Status::invalid_argument(
                "the token is for a VM; give it to `isthmus-vm-agent join`",
            ));
        }
        if !request.workload_group.is_empty() && request.workload_group != group.to_string() {
            let problem = format!("the token is for WorkloadGroup {group}, not {}", request.workload_group);
            return Err(Status::permission_denied(problem));
        }
        let namespace = group.namespace.as_str();
        let found = self.cluster().get(Kind::WorkloadGroup, Some(namespace), &group.name).await;
        let Some(object) = found.map_err(|error| api_status(&error))? else {
            let problem =
                format!("WorkloadGroup {group} does not exist any more; apply it, then make a new token");
            return Err(Status::failed_precondition(problem));
        };
        // A request that could not be signed must not use the token up.
        csr::public_key(&request.csr).map_err(|error| Status::invalid_argument(error.to_string()))?;
        // Consumed before anything is signed: of two that race with one token, one gets a certificate.
        self.cluster().consume_token(&granted).await.map_err(|error| token_status(&error))?;
        let spec = &object["spec"];
        let network =
            spec.pointer("/template/network").and_then(Value::as_str).filter(|text| !text.is_empty());
        let mut response = self.respond(&request.csr, service_account).await?;
        response.network = network.map_or_else(|| self.config.network.to_string(), String::from);
        response.workload_group_json = spec.to_string();
        Ok(response)
    }

    async fn host(&self, granted: &[NamespacedName], request: JoinRequest) -> Result<JoinResponse, Status> {
        if request.kind != i32::from(JoinKind::Host) {
            return Err(Status::invalid_argument(
                "the token is for a host; a VM needs one of `isthmus vm token`",
            ));
        }
        let asked: NamespacedName = request
            .service_account
            .parse()
            .map_err(|error| Status::invalid_argument(format!("service account: {error}")))?;
        if !granted.contains(&asked) {
            let names: Vec<String> = granted.iter().map(ToString::to_string).collect();
            let problem = format!(
                "the token lets this host run {}, not {asked}; make one with `isthmus host token --service-account {asked}`",
                names.join(", ")
            );
            return Err(Status::permission_denied(problem));
        }
        let mut response = self.respond(&request.csr, &asked).await?;
        response.network = self.config.network.to_string();
        Ok(response)
    }

    async fn respond(&self, csr: &str, account: &NamespacedName) -> Result<JoinResponse, Status> {
        let id = SpiffeId {
            trust_domain: self.signing.callers.trust_domain.clone(),
            namespace: account.namespace.clone(),
            service_account: Arc::clone(&account.name),
        };
        Ok(JoinResponse {
            cert_chain: self.signing.sign(csr, &id, None).await?,
            trust_domain: self.config.trust_domain().to_string(),
            mesh_id: self.config.mesh_id().to_string(),
            cluster_id: self.config.cluster.to_string(),
            network: String::new(),
            namespace: account.namespace.to_string(),
            service_account: account.name.to_string(),
            workload_group_json: String::new(),
        })
    }
}

fn token_status(error: &TokenError) -> Status {
    match error {
        TokenError::Invalid(_) | TokenError::Used => Status::unauthenticated(error.to_string()),
        TokenError::Api(error) => api_status(error),
    }
}
