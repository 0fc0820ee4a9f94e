//! Who is calling: by the certificate of the connection or, as Istio's agents do before they have one, by a ServiceAccount's token.

use std::fmt;
use std::sync::Arc;

use http::{Extensions, HeaderMap, header};
use isthmus_kube::Cluster;
use isthmus_model::{SpiffeId, TrustDomain};
use isthmus_tls::PeerCertificate;
use tokio::sync::Semaphore;
use tonic::Status;

use crate::api::api_status;

/// Audience of Kubernetes tokens that Istio's agents present.
const ISTIO_AUDIENCE: &str = "istio-ca";

/// Tokens that the API server looks at for us at one time.
static REVIEWS: Semaphore = Semaphore::const_new(16);

/// Who is at the far end of the connection that a request came over. Every request's extensions have it.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its verified certificate; none when it showed none.
    pub certificate: Option<Arc<PeerCertificate>>,
    /// Its address, for messages.
    pub address: std::net::SocketAddr,
    /// The request's bearer token.
    pub bearer: Option<Bearer>,
}

impl Peer {
    /// What one is told who shows nothing.
    #[must_use]
    pub fn stranger(&self) -> Status {
        Status::unauthenticated(format!(
            "{} showed no client certificate of this mesh and no token with audience {ISTIO_AUDIENCE}; join first (`isthmus-vm-agent join`, \
             or a host token)",
            self.address
        ))
    }
}

/// A token that nobody has looked at yet. `Debug` shows nothing of it.
#[derive(Clone)]
pub struct Bearer(Arc<str>);

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bearer(…)")
    }
}

impl Bearer {
    /// From `authorization` (RFC 6750 section 2.1).
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = value.split_once(' ')?;
        let token = token.trim();
        (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| Self(token.into()))
    }

    /// The token.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.0
    }
}

/// The bearer token of a request.
#[must_use]
pub fn bearer(extensions: &Extensions) -> Option<&str> {
    Some(extensions.get::<Peer>()?.bearer.as_ref()?.token())
}

/// Identifies callers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Callers {
    /// The API server that knows ServiceAccounts and their tokens.
    pub cluster: Cluster,
    /// Trust domain whose identities are served.
    pub trust_domain: TrustDomain,
}

impl Callers {
    /// The identity that the certificate proves; if none was shown, that which the API server finds in the token.
    ///
    /// # Errors
    /// Unauthenticated when neither is there or the token is not good, permission denied for an identity that is not ours to serve,
    /// unavailable when the API server cannot be asked.
    pub async fn identify(&self, extensions: &Extensions) -> Result<SpiffeId, Status> {
        let Some(peer) = extensions.get::<Peer>() else {
            return Err(Status::internal("a request of no connection"));
        };
        let Some(certificate) = &peer.certificate else {
            return self.by_token(peer).await;
        };
        let Some(id) = certificate.spiffe.clone() else {
            let problem =
                format!("{}: certificate {} has no workload identity", peer.address, certificate.serial);
            return Err(Status::permission_denied(problem));
        };
        if id.trust_domain != self.trust_domain {
            let problem =
                format!("{id} is of another trust domain; this control plane serves {}", self.trust_domain);
            return Err(Status::permission_denied(problem));
        }
        Ok(id)
    }

    async fn by_token(&self, peer: &Peer) -> Result<SpiffeId, Status> {
        let Some(bearer) = &peer.bearer else { return Err(peer.stranger()) };
        // Whoever invents tokens waits for his like, and the API server is asked a few at a time.
        let _turn = REVIEWS.acquire().await;
        let reviewed = self.cluster.review_token(bearer.token(), ISTIO_AUDIENCE).await;
        let Some(account) = reviewed.map_err(|error| api_status(&error))? else {
            let problem = format!("the token is not valid for audience {ISTIO_AUDIENCE}, or has expired");
            return Err(Status::unauthenticated(problem));
        };
        Ok(SpiffeId {
            trust_domain: self.trust_domain.clone(),
            namespace: account.namespace,
            service_account: account.name,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_token_is_read_whatever_the_case_of_its_scheme_and_never_shown() {
        let of = |value: &'static str| {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
            Bearer::of(&headers)
        };
        assert_eq!(of("bearer  abc ").unwrap().token(), "abc");
        assert_eq!(format!("{:?}", of("Bearer abc")), "Some(Bearer(…))");
        for bad in ["Bearer", "Bearer ", "Basic abc", "abc"] {
            assert!(of(bad).is_none(), "{bad:?}");
        }
    }
}
