//! TokenRequest and TokenReview.

use serde_json::{Value, json};

use super::Api;
use crate::auth::Identity;
use crate::auth::token::{Bound, Claims, Reference};
use crate::kinds::Kind;
use crate::meta;
use crate::status::{ApiError, Cause};

const SHORTEST: i64 = 600;
const LONGEST: i64 = 1 << 32;

impl Api {
    /// Answers a TokenRequest for a ServiceAccount.
    pub(crate) fn request_token(
        &self,
        accounts: &Kind,
        namespace: &str,
        name: &str,
        request: &Value,
    ) -> Result<Value, ApiError> {
        let account = self.get(accounts, namespace, name)?;
        let spec = &request["spec"];
        let bad = |field: &str, value: &Value, why: &str| {
            let mut error = ApiError::invalid(accounts, "", vec![Cause::invalid(field, value, why)]);
            error.message = error.message.replacen("ServiceAccount", "TokenRequest.authentication.k8s.io", 1);
            error.details.insert("group".into(), "authentication.k8s.io".into());
            error.details.insert("kind".into(), "TokenRequest".into());
            error
        };
        let seconds = match &spec["expirationSeconds"] {
            Value::Null => 3600,
            value => value
                .as_i64()
                .ok_or_else(|| bad("spec.expirationSeconds", value, "must be a whole number"))?,
        };
        if seconds < SHORTEST {
            let why = "may not specify a duration less than 10 minutes";
            return Err(bad("spec.expirationSeconds", &spec["expirationSeconds"], why));
        }
        if seconds > LONGEST {
            let why = "may not specify a duration larger than 2^32 seconds";
            return Err(bad("spec.expirationSeconds", &spec["expirationSeconds"], why));
        }
        let audiences: Vec<String> = spec["audiences"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|audience| audience.as_str().map(str::to_string))
            .collect();
        let aud = if audiences.is_empty() { vec![self.signer.issuer.clone()] } else { audiences };
        let mut kubernetes = Bound {
            namespace: namespace.to_string(),
            serviceaccount: Reference { name: name.to_string(), uid: account.uid().to_string() },
            secret: None,
            pod: None,
            node: None,
        };
        if spec["boundObjectRef"].is_object() {
            self.bind(namespace, name, &spec["boundObjectRef"], &mut kubernetes)?;
        }
        let now = meta::unix_seconds(self.clock());
        let claims = Claims {
            iss: self.signer.issuer.clone(),
            sub: format!("system:serviceaccount:{namespace}:{name}"),
            aud: aud.clone(),
            exp: now + seconds,
            iat: now,
            nbf: now,
            jti: uuid::Uuid::new_v4().to_string(),
            kubernetes,
        };
        let token =
            self.signer.sign(&claims).ok_or_else(|| ApiError::internal("signing the token failed"))?;
        let expires = jiff::Timestamp::from_second(claims.exp).unwrap_or_default();
        let mut answer = json!({
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": name, "namespace": namespace, "creationTimestamp": self.now()},
            "spec": {"audiences": aud, "expirationSeconds": seconds},
            "status": {"token": token, "expirationTimestamp": expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()},
        });
        answer["spec"]["boundObjectRef"] = spec["boundObjectRef"].clone();
        Ok(answer)
    }

    fn bind(&self, namespace: &str, account: &str, to: &Value, bound: &mut Bound) -> Result<(), ApiError> {
        let name = to["name"].as_str().unwrap_or_default();
        let kind = to["kind"].as_str().unwrap_or_default();
        if to["apiVersion"].as_str().is_some_and(|version| !version.is_empty() && version != "v1") {
            return Err(ApiError::bad_request(format!(
                "cannot bind token for serviceaccount {account:?} to object kind {kind:?} of apiVersion {}",
                to["apiVersion"]
            )));
        }
        let (plural, slot) = match kind {
            "Pod" => ("pods", &mut bound.pod),
            "Secret" => ("secrets", &mut bound.secret),
            "Node" => ("nodes", &mut bound.node),
            _ => {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token to object of type /v1, Kind={kind}"
                )));
            }
        };
        let kind = self.core(plural)?;
        let object = self.get(&kind, namespace, name)?;
        if plural == "pods" && object.value["spec"]["serviceAccountName"] != account {
            let why = format!(
                "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
            );
            return Err(ApiError::bad_request(why));
        }
        if let Some(uid) = to["uid"].as_str().filter(|uid| !uid.is_empty() && *uid != object.uid()) {
            let why = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have \
                 been deleted and then recreated"
            );
            return Err(ApiError::conflict(&kind, name, &why));
        }
        *slot = Some(Reference { name: name.to_string(), uid: object.uid().to_string() });
        Ok(())
    }

    /// Who a token is, if it is ours, valid now, for one of these audiences, and what it is bound to still exists.
    pub(crate) fn identify(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<(Identity, Vec<String>), String> {
        let now = meta::unix_seconds(self.clock());
        let claims = self.signer.check(token, now).map_err(|error| error.to_string())?;
        let common: Vec<String> = claims.aud.iter().filter(|aud| audiences.contains(aud)).cloned().collect();
        if common.is_empty() {
            return Err(format!(
                "token audiences {:?} is invalid for the target audiences {audiences:?}",
                claims.aud
            ));
        }
        let bound = &claims.kubernetes;
        let exists = |plural: &str, namespace: &str, reference: &Reference| {
            let kind = self.core(plural).map_err(|error| error.to_string())?;
            match self.get(&kind, namespace, &reference.name) {
                Ok(object) if object.uid() == reference.uid => Ok(()),
                _ => Err(format!(
                    "{} {}/{} that the token needs is gone",
                    kind.kind, namespace, reference.name
                )),
            }
        };
        exists("serviceaccounts", &bound.namespace, &bound.serviceaccount)?;
        let mut extra = std::collections::BTreeMap::new();
        extra.insert(
            "authentication.kubernetes.io/credential-id".to_string(),
            vec![format!("JTI={}", claims.jti)],
        );
        if let Some(secret) = &bound.secret {
            exists("secrets", &bound.namespace, secret)?;
        }
        if let Some(pod) = &bound.pod {
            exists("pods", &bound.namespace, pod)?;
            extra.insert("authentication.kubernetes.io/pod-name".to_string(), vec![pod.name.clone()]);
            extra.insert("authentication.kubernetes.io/pod-uid".to_string(), vec![pod.uid.clone()]);
        }
        if let Some(node) = &bound.node {
            exists("nodes", "", node)?;
            extra.insert("authentication.kubernetes.io/node-name".to_string(), vec![node.name.clone()]);
        }
        let groups = format!("system:serviceaccounts:{}", bound.namespace);
        let mut identity = Identity::new(&claims.sub, &["system:serviceaccounts", &groups]);
        identity.uid = bound.serviceaccount.uid.clone();
        identity.extra = extra;
        Ok((identity, common))
    }

    /// Answers a TokenReview.
    pub(crate) fn review_token(&self, review: &Value) -> Result<Value, ApiError> {
        let token = review["spec"]["token"].as_str().unwrap_or_default();
        if token.is_empty() {
            return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
        }
        let asked: Vec<String> = review["spec"]["audiences"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|audience| audience.as_str().map(str::to_string))
            .collect();
        let audiences = if asked.is_empty() { vec![self.signer.issuer.clone()] } else { asked };
        let status = match self.identify(token, &audiences) {
            Ok((identity, common)) => {
                json!({"authenticated": true, "user": identity.to_value(), "audiences": common})
            }
            Err(why) => json!({"user": {}, "error": format!("[invalid bearer token, {why}]")}),
        };
        Ok(json!({
            "kind": "TokenReview",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": review.get("metadata").cloned().unwrap_or_else(|| json!({})),
            "spec": review["spec"],
            "status": status,
        }))
    }
}
