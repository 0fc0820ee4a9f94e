//! Join tokens: ServiceAccount tokens bound to a Secret, which says what they grant. Deleting the Secret revokes them; a VM's
//! Secret is deleted by the first use.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use isthmus_model::NamespacedName;
use isthmus_resources::{Kind, Object, parse};
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
    /// Makes a one-time token for a VM of this group: a Secret in its namespace and a token of the template's service account.
    ///
    /// # Errors
    /// When the group or its service account is missing, or the API server fails.
    pub async fn create_vm_token(&self, group: &NamespacedName, seconds: u64) -> Result<String, ApiError> {
        let namespace = group.namespace.as_str();
        let action = || format!("making a token for a VM of WorkloadGroup {group}");
        let found = self.get(Kind::WorkloadGroup, Some(namespace), &group.name).await?;
        let missing = |message: String| ApiError::NotFound { action: action(), message };
        let value =
            found.ok_or_else(|| missing(format!("WorkloadGroup {group} does not exist; apply it first")))?;
        let account = value["spec"]["template"]["serviceAccount"].as_str().unwrap_or("default").to_string();
        let name = format!("isthmus-join-{}", random());
        let data = json!({"group": STANDARD.encode(group.to_string())});
        let uid = self.create_grant(namespace, &name, VM_TYPE, data).await?;
        let token = self.request_token(namespace, &account, VM_AUDIENCE, seconds, (&name, &uid)).await;
        self.keep_or_take_back(token, namespace, &name).await
    }

    /// Makes a token for a host that runs workloads of these service accounts.
    ///
    /// # Errors
    /// When a service account is missing, or the API server fails.
    pub async fn create_host_token(
        &self,
        accounts: &[NamespacedName],
        seconds: u64,
    ) -> Result<String, ApiError> {
        for account in accounts {
            if self
                .get(Kind::ServiceAccount, Some(account.namespace.as_str()), &account.name)
                .await?
                .is_none()
            {
                return Err(ApiError::NotFound {
                    action: "making a token for a host".to_string(),
                    message: format!(
                        "ServiceAccount {account} does not exist; create it with `kubectl create serviceaccount -n {} {}`",
                        account.namespace, account.name
                    ),
                });
            }
        }
        self.ensure_service_account(SYSTEM_NAMESPACE, HOST_ACCOUNT).await?;
        let name = format!("isthmus-host-{}", random());
        let list: Vec<String> = accounts.iter().map(ToString::to_string).collect();
        let data = json!({"serviceAccounts": STANDARD.encode(list.join(","))});
        let uid = self.create_grant(SYSTEM_NAMESPACE, &name, HOST_TYPE, data).await?;
        let bound = (name.as_str(), uid.as_str());
        let token = self.request_token(SYSTEM_NAMESPACE, HOST_ACCOUNT, HOST_AUDIENCE, seconds, bound).await;
        self.keep_or_take_back(token, SYSTEM_NAMESPACE, &name).await
    }

    /// A grant without its token is good for nothing.
    async fn keep_or_take_back(
        &self,
        token: Result<String, ApiError>,
        namespace: &str,
        secret: &str,
    ) -> Result<String, ApiError> {
        if token.is_err() {
            // The first error is the one to report.
            let _ = self.delete(Kind::Secret, Some(namespace), secret, Preconditions::default()).await;
        }
        token
    }

    async fn create_grant(
        &self,
        namespace: &str,
        name: &str,
        kind: &str,
        data: Value,
    ) -> Result<String, ApiError> {
        let object = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace},
            "type": kind,
            "data": data,
        });
        let created = self.create(Kind::Secret, object).await?;
        Ok(created["metadata"]["uid"].as_str().unwrap_or_default().to_string())
    }

    /// A service account's token for one audience, bound to a Secret (name and UID).
    ///
    /// # Errors
    /// When the service account is missing, or the API server fails.
    pub async fn request_token(
        &self,
        namespace: &str,
        account: &str,
        audience: &str,
        seconds: u64,
        secret: (&str, &str),
    ) -> Result<String, ApiError> {
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": [audience],
                "expirationSeconds": seconds,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Secret", "name": secret.0, "uid": secret.1},
            },
        });
        let answer = self.post_to(Kind::ServiceAccount, Some(namespace), account, "token", body).await?;
        match answer["status"]["token"].as_str() {
            Some(token) if !token.is_empty() => Ok(token.to_string()),
            _ => Err(ApiError::Answer {
                action: format!("asking for a token of ServiceAccount {namespace}/{account}"),
                problem: "it has no token".to_string(),
            }),
        }
    }

    /// Says what a token grants, after the API server has said that it is authentic. Nothing is consumed yet.
    ///
    /// # Errors
    /// When it is not authentic, its Secret is gone, or the API server fails.
    pub async fn verify_token(&self, token: &str) -> Result<Granted, TokenError> {
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [VM_AUDIENCE, HOST_AUDIENCE]},
        });
        let review = self.create(TOKEN_REVIEW, body).await?;
        let status = &review["status"];
        if status["authenticated"] != true {
            let reason = status["error"].as_str().unwrap_or("it is not authentic, expired or revoked");
            return Err(invalid(reason));
        }
        let user = status["user"]["username"].as_str().unwrap_or_default();
        let account = user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
        let (namespace, name) =
            account.ok_or_else(|| invalid(format!("{user:?} is not a service account")))?;
        let account = named(namespace, name)?;
        let audiences = status["audiences"].as_array();
        let is_for = |audience: &str| audiences.into_iter().flatten().any(|found| found == audience);
        let (secret, uid) = bound_secret(token).ok_or_else(|| invalid("it is not bound to a Secret"))?;
        if is_for(VM_AUDIENCE) {
            self.vm_grant(account, &secret, &uid).await
        } else if is_for(HOST_AUDIENCE) {
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
            Ok(Object::Secret(secret)) if &*secret.meta.uid == uid && secret.spec.kind == kind => {
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

/// Ten random lower-case letters and digits.
fn random() -> String {
    const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    (0..10).map(|_| char::from(ALPHABET[rand::random_range(0..ALPHABET.len())])).collect()
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
