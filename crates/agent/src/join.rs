//! Redeeming a token: the first certificate.

use std::sync::Arc;
use std::time::Duration;

use isthmus_ca::KeyAndCsr;
use isthmus_model::token::{Grant, JoinToken};
use isthmus_model::{InvalidName, Namespace, NamespacedName, NetworkId, TrustDomain};
use isthmus_proto::join::join_service_client::JoinServiceClient;
use isthmus_proto::join::{JoinKind, JoinRequest, JoinResponse};
use isthmus_tls::{Identity, InvalidLeaf, InvalidRoots, Material, Trust};
use thiserror::Error;
use tonic::metadata::{AsciiMetadataValue, errors::InvalidMetadataValue};
use tonic::{Code, Request, Status};

use crate::connect::{Connector, InvalidServerName};
use crate::explain;
use crate::state::Membership;

/// Time for the whole call.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why a token was not redeemed.
#[derive(Debug, Error)]
pub enum JoinError {
    /// The token's roots are unusable.
    #[error("the join token: {0}; make a new one")]
    Roots(#[from] InvalidRoots),
    /// The token's server name is unusable.
    #[error("the join token: {0}; make a new one")]
    ServerName(#[from] InvalidServerName),
    /// The token's credential is unusable.
    #[error("the join token: its credential cannot be sent; copy the token whole, in one line")]
    Bearer(#[from] InvalidMetadataValue),
    /// A host token, and nobody said which ServiceAccount.
    #[error("this is a host token: say with --service-account which of {0} to run as")]
    NoServiceAccount(String),
    /// A host token for other ServiceAccounts.
    #[error(
        "the host token allows {allowed}, not {asked}; make one with `isthmus host token --service-account {asked}`"
    )]
    NotAllowed {
        /// Asked for.
        asked: NamespacedName,
        /// What the token says.
        allowed: String,
    },
    /// No control plane answered, or it could not decide now.
    #[error("cluster {cluster}: {problem}")]
    Unavailable {
        /// Whose control plane.
        cluster: String,
        /// What happened.
        problem: String,
    },
    /// It said no.
    #[error("the control plane of cluster {cluster} refuses the token: {message}; {hint}")]
    Refused {
        /// Whose control plane.
        cluster: String,
        /// Its words.
        message: String,
        /// What to do.
        hint: &'static str,
    },
    /// Its answer makes no sense.
    #[error(
        "the control plane of cluster {cluster} answered with {problem}; its version may differ from this agent's"
    )]
    Answer {
        /// Whose control plane.
        cluster: String,
        /// What is wrong.
        problem: String,
    },
}

impl JoinError {
    /// Whether trying again may help.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// What a machine says of itself.
#[derive(Debug, Clone)]
pub struct Applicant {
    /// With a host token: the ServiceAccount to run as.
    pub service_account: Option<NamespacedName>,
    /// The machine's own name.
    pub hostname: String,
    /// Mark of the socket.
    pub mark: Option<u32>,
}

/// What joining gives.
#[derive(Debug, Clone)]
pub struct Joined {
    /// Place in the mesh.
    pub membership: Membership,
    /// Key, chain and roots.
    pub material: Material,
}

/// Redeems a token once. The key is made here and never leaves.
///
/// # Errors
/// When the control plane is not reached, refuses, or answers nonsense.
pub async fn join(token: &JoinToken, applicant: &Applicant) -> Result<Joined, JoinError> {
    let cluster = || token.cluster.to_string();
    let anonymous = Identity::trusting(Trust::private(&token.roots)?);
    let connector = Connector::new(&anonymous, &token.addresses, &token.server_name, applicant.mark)?;
    let key = KeyAndCsr::generate();
    let mut request = Request::new(body(token, applicant, key.csr_pem)?);
    request.set_timeout(PATIENCE);
    let mut bearer: AsciiMetadataValue = format!("Bearer {}", token.bearer).parse()?;
    bearer.set_sensitive(true);
    request.metadata_mut().insert("authorization", bearer);
    let channel = connector
        .open()
        .await
        .map_err(|error| JoinError::Unavailable { cluster: cluster(), problem: explain::cause(&error) })?;
    let call = async move { JoinServiceClient::new(channel).join(request).await };
    let response = match tokio::time::timeout(PATIENCE, call).await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return Err(refusal(token, &status)),
        Err(_) => {
            let problem = format!("no answer to the join request within {} s", PATIENCE.as_secs());
            return Err(JoinError::Unavailable { cluster: cluster(), problem });
        }
    };
    read(token, key.key_pem, response).map_err(|problem| JoinError::Answer { cluster: cluster(), problem })
}

fn body(token: &JoinToken, applicant: &Applicant, csr: String) -> Result<JoinRequest, JoinError> {
    let mut request = JoinRequest { csr, hostname: applicant.hostname.clone(), ..JoinRequest::default() };
    match &token.grant {
        Grant::Vm(group) => {
            request.set_kind(JoinKind::Vm);
            request.workload_group = group.to_string();
        }
        Grant::Host(allowed) => {
            let list = || allowed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let Some(asked) = &applicant.service_account else {
                return Err(JoinError::NoServiceAccount(list()));
            };
            if !allowed.contains(asked) {
                return Err(JoinError::NotAllowed { asked: asked.clone(), allowed: list() });
            }
            request.set_kind(JoinKind::Host);
            request.service_account = asked.to_string();
        }
    }
    Ok(request)
}

fn refusal(token: &JoinToken, status: &Status) -> JoinError {
    let (cluster, message) = (token.cluster.to_string(), explain::status(status));
    if explain::is_temporary(status) {
        return JoinError::Unavailable { cluster, problem: message };
    }
    let hint = match (status.code(), &token.grant) {
        (Code::Unauthenticated | Code::PermissionDenied, Grant::Vm(_)) => {
            "a VM's token works once and for an hour: make a new one with `isthmus vm token`"
        }
        (Code::Unauthenticated | Code::PermissionDenied, Grant::Host(_)) => {
            "it may have expired or been revoked: make a new one with `isthmus host token`"
        }
        _ => "make what it names, then try again",
    };
    JoinError::Refused { cluster, message, hint }
}

fn read(token: &JoinToken, key: String, response: JoinResponse) -> Result<Joined, String> {
    let material =
        Material::from_response(key, &response.cert_chain).ok_or("a certificate chain without roots")?;
    let (leaf, _) = material.parse().map_err(|error: InvalidLeaf| error.to_string())?;
    let name = |error: InvalidName| error.to_string();
    let namespace = Namespace::new(response.namespace).map_err(name)?;
    let trust_domain = TrustDomain::new(response.trust_domain).map_err(name)?;
    let service_account: Arc<str> = response.service_account.into();
    let holds = leaf.spiffe().is_some_and(|id| {
        id.namespace == namespace && id.service_account == service_account && id.trust_domain == trust_domain
    });
    if !holds {
        return Err(format!("a certificate for {}", leaf.certificate().name()));
    }
    let network = match response.network.as_str() {
        "" => token.network.clone(),
        named => NetworkId::new(named).map_err(name)?,
    };
    let (group, group_spec) = match &token.grant {
        Grant::Vm(group) => (Some(group.clone()), spec(&response.workload_group_json)?),
        Grant::Host(_) => (None, None),
    };
    let membership = Membership {
        mesh_id: response.mesh_id.into(),
        cluster: token.cluster.clone(),
        network,
        namespace,
        service_account,
        trust_domain,
        group,
        group_spec,
        addresses: token.addresses.clone(),
        server_name: Arc::clone(&token.server_name),
    };
    Ok(Joined { membership, material })
}

fn spec(json: &str) -> Result<Option<serde_json::Value>, String> {
    if json.is_empty() {
        return Ok(None);
    }
    serde_json::from_str(json).map(Some).map_err(|error| format!("a WorkloadGroup that is no JSON: {error}"))
}
