//! Tokens of ServiceAccounts, and join tokens: those bound to a Secret, which says what they grant. Deleting the Secret
//! revokes them; a VM's Secret is deleted by the first use.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use isthmus_model::NamespacedName;
use isthmus_resources::{Kind, Object, Uid, parse};
use serde_json::{Value, json};
use thiserror::Error;

use super::SYSTEM_NAMESPACE;
use crate::api::{ApiError, Preconditions, TOKEN_REVIEW};
use crate::client::Cluster;

/// Audience of tokens for VMs.
pub const VM_AUDIENCE: &str = "isthmus-vm-join";
/// Audience of tokens for hosts.
pub const HOST_AUDIENCE: &str = "isthmus-host";

const VM_TYPE: &str = "isthmus.io/vm-join";
const HOST_TYPE: &str = "isthmus.io/host";
const HOST_ACCOUNT: &str = "isthmus-host";

/// What a valid token grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Granted {
    /// Once: to be an entry of this WorkloadGroup, as this service account.
    Vm {
        /// The group.
        group: NamespacedName,
        /// The service account that the token is of.
        service_account: NamespacedName,
        /// Secret that makes it valid.
        secret: NamespacedName,
        /// Its UID.
        secret_uid: String,
    },
    /// Until revoked: to be a workload of one of these service accounts.
    Host {
        /// The service accounts.
        service_accounts: Vec<NamespacedName>,
        /// Secret that makes it valid.
        secret: NamespacedName,
    },
}

/// Why a token grants nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TokenError {
    /// It is not authentic, expired, or not for us.
    #[error("join token refused: {0}; make a new one with `isthmus vm token` or `isthmus host token`")]
    Invalid(String),
    /// It was used, or revoked.
    #[error(
        "join token refused: it was used or revoked; make a new one with `isthmus vm token` or `isthmus host token`"
    )]
    Used,
    /// The API server failed.
    #[error(transparent)]
    Api(#[from] ApiError),
}

fn invalid(problem: impl Into<String>) -> TokenError {
    TokenError::Invalid(problem.into())
}

impl Cluster {
    /// The service account that a token is of, when it is authentic and for this audience.
    ///
    /// # Errors
    /// When the API server fails.
    pub async fn review_token(
        &self,
        token: &str,
        audience: &str,
    ) -> Result<Option<NamespacedName>, ApiError> {
        let review = self.review(token, &[audience]).await?;
        let status = &review["status"];
        // A server that knows nothing of audiences names none.
        let good = status["authenticated"] == true && is_for(status, audience);
        Ok(if good { account(status) } else { None })
    }

    async fn review(&self, token: &str, audiences: &[&str]) -> Result<Value, ApiError> {
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": audiences},
        });
        self.create(TOKEN_REVIEW, body).await
    }

    /// Says what a join token grants, after the API server has said that it is authentic. Nothing is consumed yet.
    ///
    /// # Errors
    /// When it is not authentic, its Secret is gone, or the API server fails.
    pub async fn verify_token(&self, token: &str) -> Result<Granted, TokenError> {
        let review = self.review(token, &[VM_AUDIENCE, HOST_AUDIENCE]).await?;
        let status = &review["status"];
        if status["authenticated"] != true {
            let reason = status["error"].as_str().unwrap_or("it is not authentic, expired or revoked");
            return Err(invalid(reason));
        }
        let account = account(status)
            .ok_or_else(|| invalid(format!("{} is not a service account", status["user"]["username"])))?;
        let (secret, uid) = bound_secret(token).ok_or_else(|| invalid("it is not bound to a Secret"))?;
        if is_for(status, VM_AUDIENCE) {
            self.vm_grant(account, &secret, &uid).await
        } else if is_for(status, HOST_AUDIENCE) {
            self.host_grant(&account, &secret, &uid).await
        } else {
            Err(invalid("it is for another audience"))
        }
    }

    async fn vm_grant(
        &self,
        account: NamespacedName,
        secret: &str,
        uid: &str,
    ) -> Result<Granted, TokenError> {
        let namespace = account.namespace.as_str();
        let text = self.grant_text(namespace, secret, uid, VM_TYPE, "group").await?;
        let group: NamespacedName = text.parse().map_err(|error| invalid(format!("its Secret: {error}")))?;
        if group.namespace != account.namespace {
            return Err(invalid("its group is of another namespace"));
        }
        Ok(Granted::Vm {
            secret: named(namespace, secret)?,
            group,
            service_account: account,
            secret_uid: uid.to_string(),
        })
    }

    async fn host_grant(
        &self,
        account: &NamespacedName,
        secret: &str,
        uid: &str,
    ) -> Result<Granted, TokenError> {
        if account.namespace.as_str() != SYSTEM_NAMESPACE || &*account.name != HOST_ACCOUNT {
            return Err(invalid(format!("{account} is not the account of host tokens")));
        }
        let text = self.grant_text(SYSTEM_NAMESPACE, secret, uid, HOST_TYPE, "serviceAccounts").await?;
        let accounts: Result<Vec<NamespacedName>, _> =
            text.split(',').map(|part| part.trim().parse()).collect();
        let service_accounts = accounts.map_err(|error| invalid(format!("its Secret: {error}")))?;
        Ok(Granted::Host { service_accounts, secret: named(SYSTEM_NAMESPACE, secret)? })
    }

    /// The text that a token's Secret holds.
    async fn grant_text(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        kind: &str,
        key: &str,
    ) -> Result<String, TokenError> {
        let found = self.get(Kind::Secret, Some(namespace), name).await?;
        let value = found.ok_or(TokenError::Used)?;
        match parse(value) {
            Ok(Object::Secret(secret)) if secret.meta.uid == Uid::new(uid) && secret.spec.kind == kind => {
                let text = secret.spec.data.get(key).cloned().and_then(|bytes| String::from_utf8(bytes).ok());
                text.ok_or_else(|| invalid(format!("its Secret has no {key}")))
            }
            _ => Err(TokenError::Used),
        }
    }

    /// Uses a VM's token up: of all that try, one succeeds. Does nothing for hosts.
    ///
    /// # Errors
    /// When it was used meanwhile, or the API server fails.
    pub async fn consume_token(&self, granted: &Granted) -> Result<(), TokenError> {
        let Granted::Vm { secret, secret_uid, .. } = granted else { return Ok(()) };
        let preconditions = Preconditions { uid: Some(secret_uid), ..Preconditions::default() };
        let outcome =
            self.delete(Kind::Secret, Some(secret.namespace.as_str()), &secret.name, preconditions).await;
        match outcome {
            Ok(true) => Ok(()),
            Ok(false) | Err(ApiError::Conflict { .. }) => Err(TokenError::Used),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether a TokenReview found the token meant for an audience.
fn is_for(status: &Value, audience: &str) -> bool {
    status["audiences"].as_array().into_iter().flatten().any(|found| found == audience)
}

/// The service account that a TokenReview's status names.
fn account(status: &Value) -> Option<NamespacedName> {
    let user = status["user"]["username"].as_str()?;
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    named(namespace, name).ok()
}

fn named(namespace: &str, name: &str) -> Result<NamespacedName, TokenError> {
    format!("{namespace}/{name}").parse().map_err(|error| invalid(format!("{error}")))
}

/// Name and UID of the Secret that a ServiceAccount token is bound to. Its signature is not looked at.
fn bound_secret(token: &str) -> Option<(String, String)> {
    let claims = token.split('.').nth(1)?;
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    let secret = &claims["kubernetes.io"]["secret"];
    Some((secret["name"].as_str()?.to_string(), secret["uid"].as_str()?.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_secret_is_read_from_the_claims() {
        let claims =
            json!({"kubernetes.io": {"secret": {"name": "isthmus-join-x", "uid": "u1"}}}).to_string();
        let token = format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims));
        assert_eq!(bound_secret(&token), Some(("isthmus-join-x".to_string(), "u1".to_string())));
        assert_eq!(bound_secret("nonsense"), None);
        assert_eq!(bound_secret("a.b.c"), None);
    }
}
