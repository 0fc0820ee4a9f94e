//! ServiceAccount tokens: ES256 JSON web tokens (RFC 7519), signed and checked here.

use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use isthmus_store::{Expect, Store, Write};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::server::StartError;

/// Where the key is kept when the program gives none.
const KEY: &str = "internal/service-account-key";
/// A longer token is not looked at.
const MAX_LENGTH: usize = 16 << 10;

/// Signs and checks tokens.
pub(crate) struct Signer {
    key: EcdsaKeyPair,
    key_id: String,
    pub(crate) issuer: String,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer")
            .field("issuer", &self.issuer)
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    pub(crate) iss: String,
    pub(crate) sub: String,
    pub(crate) aud: Vec<String>,
    pub(crate) exp: i64,
    pub(crate) iat: i64,
    pub(crate) nbf: i64,
    pub(crate) jti: String,
    #[serde(rename = "kubernetes.io")]
    pub(crate) kubernetes: Bound,
}

/// What a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bound {
    pub(crate) namespace: String,
    pub(crate) serviceaccount: Reference,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<Reference>,
}

/// An object by name and identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reference {
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("invalid bearer token")]
    Invalid,
    #[error("the token is signed by another key")]
    Signature,
    #[error("the token is of another issuer")]
    Issuer,
    #[error("service account token has expired")]
    Expired,
    #[error("service account token is not valid yet")]
    Early,
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    kid: String,
}

impl Signer {
    /// With the program's key, or with one that is kept in the store.
    pub(crate) async fn load(
        pem: Option<&str>,
        store: &Arc<dyn Store>,
        issuer: String,
    ) -> Result<Self, StartError> {
        let pkcs8 = match pem {
            Some(pem) => PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes())
                .map_err(|error| StartError::SigningKey(error.to_string()))?
                .secret_pkcs8_der()
                .to_vec(),
            None => kept_key(store).await?,
        };
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8)
            .map_err(|error| StartError::SigningKey(error.to_string()))?;
        let key_id = BASE64.encode(Sha256::digest(key.public_key().as_ref()));
        Ok(Self { key, key_id, issuer })
    }

    pub(crate) fn sign(&self, claims: &Claims) -> Option<String> {
        let header = Header { alg: "ES256".to_string(), kid: self.key_id.clone() };
        let encode = |json: Vec<u8>| BASE64.encode(json);
        let signed = format!(
            "{}.{}",
            encode(serde_json::to_vec(&header).ok()?),
            encode(serde_json::to_vec(claims).ok()?)
        );
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).ok()?;
        Some(format!("{signed}.{}", BASE64.encode(signature)))
    }

    /// The claims of a token that is ours and valid now. Audience and bound objects are the caller's to check.
    pub(crate) fn check(&self, token: &str, now: i64) -> Result<Claims, TokenError> {
        if token.len() > MAX_LENGTH {
            return Err(TokenError::Invalid);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Invalid)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Invalid)?;
        let decode = |text: &str| BASE64.decode(text).map_err(|_| TokenError::Invalid);
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| TokenError::Invalid)?;
        // Anything but our own algorithm is refused before any key is used (RFC 8725, 3.1).
        if header.alg != "ES256" {
            return Err(TokenError::Invalid);
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref())
            .verify(signed.as_bytes(), &decode(signature)?)
            .map_err(|_| TokenError::Signature)?;
        let claims: Claims = serde_json::from_slice(&decode(claims)?).map_err(|_| TokenError::Invalid)?;
        if claims.iss != self.issuer {
            return Err(TokenError::Issuer);
        }
        if now >= claims.exp {
            return Err(TokenError::Expired);
        }
        // A minute for clocks that differ.
        if now + 60 < claims.nbf {
            return Err(TokenError::Early);
        }
        Ok(claims)
    }

    /// The public key as a JWK set (RFC 7517), for verifiers elsewhere.
    pub(crate) fn jwks(&self) -> serde_json::Value {
        // An uncompressed point: 4, x, y.
        let point = self.key.public_key().as_ref();
        let half =
            |from: usize| point.get(from..from + 32).map(|bytes| BASE64.encode(bytes)).unwrap_or_default();
        serde_json::json!({"keys": [{"use": "sig", "kty": "EC", "kid": self.key_id, "crv": "P-256", "alg": "ES256",
            "x": half(1), "y": half(33)}]})
    }
}

async fn kept_key(store: &Arc<dyn Store>) -> Result<Vec<u8>, StartError> {
    if let Some(kept) = store.get(KEY).await? {
        return Ok(kept.value.to_vec());
    }
    let fresh = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
        .map_err(|error| StartError::SigningKey(error.to_string()))?;
    let fresh = Bytes::copy_from_slice(fresh.as_ref());
    match store.put(KEY, fresh.clone(), Expect::Absent, None).await? {
        Write::Done { .. } => Ok(fresh.to_vec()),
        // Another replica was first.
        Write::Conflict(Some(kept)) => Ok(kept.value.to_vec()),
        Write::Conflict(None) => Err(StartError::SigningKey("it was deleted while it was made".to_string())),
    }
}
