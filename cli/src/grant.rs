//! A service account's token bound to a Secret, which says what the token grants: deleting the Secret revokes it.

use std::time::Duration;

use anyhow::{Context, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use isthmus_kube::api::Preconditions;
use isthmus_lifecycle::{Clock, SystemClock};
use isthmus_resources::Kind;
use serde_json::{Value, json};

use crate::api::Api;

/// What is to be granted.
#[derive(Debug)]
pub(crate) struct Grant<'a> {
    /// How the Secret's name begins.
    pub(crate) prefix: &'static str,
    /// The Secret's type.
    pub(crate) kind: &'static str,
    /// Namespace of Secret and service account.
    pub(crate) namespace: &'a str,
    /// Service account whose token it is.
    pub(crate) account: &'a str,
    /// Whom the token is for.
    pub(crate) audience: &'static str,
    /// Key and text in the Secret.
    pub(crate) says: (&'static str, String),
}

/// The secret half of a join token, and what to call it in messages.
#[derive(Debug)]
pub(crate) struct Bearer {
    pub(crate) token: String,
    pub(crate) secret: String,
    pub(crate) expires: String,
}

impl Grant<'_> {
    /// Makes the Secret, then the token.
    pub(crate) async fn issue(&self, api: &Api, lifetime: Duration) -> anyhow::Result<Bearer> {
        let secret = format!("{}-{}", self.prefix, suffix());
        let now = jiff::Timestamp::try_from(SystemClock.now()).context("the machine's clock")?;
        let until = now.checked_add(jiff::SignedDuration::try_from(lifetime)?).context("--ttl")?;
        let (key, text) = &self.says;
        let object = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "type": self.kind,
            "metadata": {
                "name": secret,
                "namespace": self.namespace,
                "labels": { "app.kubernetes.io/managed-by": "isthmus" },
                "annotations": { "isthmus.io/expires": until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string() },
            },
            "data": { *key: STANDARD.encode(text) },
        });
        let made = api.within(api.cluster.create(Kind::Secret, object)).await?;
        let uid = made["metadata"]["uid"].as_str().unwrap_or_default();
        match self.request(api, lifetime, (&secret, uid)).await {
            Ok((token, expires)) => Ok(Bearer { token, secret, expires }),
            Err(error) => {
                // Without its token it grants nothing and would only lie around; the first error is the one to report.
                let gone =
                    api.cluster.delete(Kind::Secret, Some(self.namespace), &secret, Preconditions::default());
                let _ = api.within(gone).await;
                Err(error)
            }
        }
    }

    async fn request(
        &self,
        api: &Api,
        lifetime: Duration,
        (secret, uid): (&str, &str),
    ) -> anyhow::Result<(String, String)> {
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": [self.audience],
                "expirationSeconds": lifetime.as_secs(),
                "boundObjectRef": { "apiVersion": "v1", "kind": "Secret", "name": secret, "uid": uid },
            },
        });
        let of = (Kind::ServiceAccount, Some(self.namespace), self.account);
        let answer = api.within(api.cluster.post_to(of.0, of.1, of.2, "token", body)).await?;
        let text = |name: &str| answer["status"][name].as_str().filter(|text| !text.is_empty());
        let Some(token) = text("token") else {
            bail!(
                "the API server answered a TokenRequest for {}/{} without a token",
                self.namespace,
                self.account
            );
        };
        // A server may give less than was asked for.
        let expires = text("expirationTimestamp").map_or_else(|| until_text(&answer), str::to_string);
        Ok((token.to_string(), expires))
    }
}

fn until_text(answer: &Value) -> String {
    answer["spec"]["expirationSeconds"]
        .as_u64()
        .map_or_else(|| "?".to_string(), |left| format!("{left} s from now"))
}

/// Eight random characters for the name of an object.
fn suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..8).map(|_| char::from(ALPHABET[rand::random_range(0..ALPHABET.len())])).collect()
}
