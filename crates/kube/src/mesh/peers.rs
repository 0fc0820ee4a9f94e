//! Links to other control planes: Peer objects and their secrets.

use base64::Engine as _;
use isthmus_resources::peer::{Peer, PeerStatus};
use isthmus_resources::{Kind, Object, Resource, parse};
use serde_json::json;

use super::SYSTEM_NAMESPACE;
use crate::api::{ApiError, Preconditions};
use crate::client::Cluster;

/// Key of a peer's Secret.
pub const PEER_SECRET_KEY: &str = "secret";

fn secret_name(peer: &str) -> String {
    format!("isthmus-peer-{peer}")
}

impl Cluster {
    /// All peers. One that cannot be read is left out and logged.
    ///
    /// # Errors
    /// When the API server fails.
    pub async fn peers(&self) -> Result<Vec<Resource<Peer>>, ApiError> {
        let mut found = Vec::new();
        for value in self.list_installed(Kind::Peer, None, None).await? {
            match parse(value) {
                Ok(Object::Peer(peer)) => found.push((*peer).clone()),
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "peer left out"),
            }
        }
        Ok(found)
    }

    /// Creates or replaces a peer.
    ///
    /// # Errors
    /// When the API server fails or refuses it.
    pub async fn put_peer(&self, name: &str, peer: &Peer) -> Result<(), ApiError> {
        let object = json!({
            "apiVersion": Kind::Peer.api_version(),
            "kind": "Peer",
            "metadata": {"name": name},
            "spec": peer,
        });
        self.put(Kind::Peer, object).await.map(drop).map_err(|error| match error {
            ApiError::NotFound { action, .. } => {
                let message =
                    "Peer is not installed; `isthmus crds | kubectl apply --server-side -f -` installs it";
                ApiError::NotFound { action, message: message.to_string() }
            }
            other => other,
        })
    }

    /// Deletes a peer and its secret. False when there was no such peer.
    ///
    /// # Errors
    /// When the API server fails.
    pub async fn remove_peer(&self, name: &str) -> Result<bool, ApiError> {
        let existed = self.delete(Kind::Peer, None, name, Preconditions::default()).await?;
        let secret = secret_name(name);
        self.delete(Kind::Secret, Some(SYSTEM_NAMESPACE), &secret, Preconditions::default()).await?;
        Ok(existed)
    }

    /// Writes a peer's status; nothing when it stands there already or the peer is gone.
    ///
    /// # Errors
    /// When the API server fails.
    pub async fn write_peer_status(&self, name: &str, status: &PeerStatus) -> Result<(), ApiError> {
        let Some(current) = self.get(Kind::Peer, None, name).await? else { return Ok(()) };
        let status = json!({
            "state": status.state,
            "synced": status.synced,
            "lastHeard": status.last_heard,
            "services": status.services,
            "error": status.error,
            "conditions": if status.conditions.is_empty() { json!(null) } else { json!(status.conditions) },
        });
        let members = status.as_object().into_iter().flatten();
        let same = members.into_iter().all(|(key, value)| current["status"][key] == *value);
        if same {
            return Ok(());
        }
        match self.merge(Kind::Peer, None, name, Some("status"), json!({"status": status})).await {
            Ok(_) | Err(ApiError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Keeps the secret with which we call a peer.
    ///
    /// # Errors
    /// When the API server fails.
    pub async fn put_peer_secret(&self, name: &str, secret: &str) -> Result<(), ApiError> {
        let encoded = base64::engine::general_purpose::STANDARD.encode(secret);
        let object = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": secret_name(name), "namespace": SYSTEM_NAMESPACE},
            "type": "isthmus.io/peer",
            "data": {PEER_SECRET_KEY: encoded},
        });
        self.put(Kind::Secret, object).await.map(drop)
    }

    /// The secret with which we call a peer; none when we do not call it.
    ///
    /// # Errors
    /// When the API server fails, or the Secret is malformed.
    pub async fn peer_secret(&self, name: &str) -> Result<Option<String>, ApiError> {
        let name = secret_name(name);
        let Some(value) = self.get(Kind::Secret, Some(SYSTEM_NAMESPACE), &name).await? else {
            return Ok(None);
        };
        let bad = |problem: String| ApiError::Answer {
            action: format!("reading Secret {SYSTEM_NAMESPACE}/{name}"),
            problem,
        };
        match parse(value) {
            Ok(Object::Secret(secret)) => {
                let bytes = secret.spec.data.get(PEER_SECRET_KEY).cloned();
                let bytes = bytes.ok_or_else(|| bad(format!("key {PEER_SECRET_KEY} is missing")))?;
                String::from_utf8(bytes).map(Some).map_err(|_| bad("it is not text".to_string()))
            }
            Ok(_) => Ok(None),
            Err(error) => Err(bad(error.to_string())),
        }
    }
}
