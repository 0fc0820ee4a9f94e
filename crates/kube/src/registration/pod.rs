//! Pods for processes on hosts without a kubelet. A Lease of the same name holds the stream's record and owns the Pod, so that
//! neither can outlive the other.

use isthmus_resources::Kind;
use isthmus_resources::convert::{NETWORK_LABEL, TLS_MODE_LABEL};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::state::{Connection, connect_annotations};
use super::{ATTEMPTS, Inner, Place, RegistrationError, RegistrationRequest, failed, text, workload};
use crate::api::{ApiError, LEASE, Preconditions};

/// Annotation with the identity that a registered name belongs to.
pub(super) const IDENTITY: &str = "isthmus.io/identity";
/// Label of Leases that are records of Pods.
pub(super) const RECORD: &str = "isthmus.io/registered";
/// How long a record holds without renewal, in seconds.
pub(super) const LEASE_SECONDS: u32 = 60;

const IMAGE: &str = "isthmus.io/host-process";
const HEALTH_CHECKED: &str = "isthmus.io/health-checked";

impl Inner {
    pub(super) async fn connect_pod(
        &self,
        request: &RegistrationRequest,
        started: Timestamp,
    ) -> Result<(), RegistrationError> {
        let (namespace, account) = (request.namespace.as_str(), &*request.identity.service_account);
        let found = self.cluster.get(Kind::ServiceAccount, Some(namespace), account).await;
        if found.map_err(failed(request))?.is_none() {
            return Err(RegistrationError::Missing {
                workload: workload(request),
                missing: format!("ServiceAccount {namespace}/{account}"),
                command: format!("kubectl create serviceaccount -n {namespace} {account}"),
            });
        }
        for _ in 0..ATTEMPTS {
            let outcome = match self.record(request, started).await? {
                Ok(record) => self.write_pod(request, &record).await?,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(()) => return Ok(()),
                Err(
                    ApiError::Conflict { .. } | ApiError::AlreadyExists { .. } | ApiError::NotFound { .. },
                ) => {}
                Err(error) => return Err(failed(request)(error)),
            }
        }
        let action = format!("writing Pod {namespace}/{}", request.name);
        Err(failed(request)(ApiError::Conflict { action, message: "too many writers".to_string() }))
    }

    /// Looks for the Pod that Kubernetes runs.
    pub(super) async fn expect_pod(&self, request: &RegistrationRequest) -> Result<(), RegistrationError> {
        let (namespace, name) = (request.namespace.as_str(), request.name.as_str());
        let found = self.cluster.get(Kind::Pod, Some(namespace), name).await.map_err(failed(request))?;
        let Some(pod) = found else {
            return Err(RegistrationError::Missing {
                workload: workload(request),
                missing: format!("Pod {namespace}/{name}, which Kubernetes runs and nobody else writes,"),
                command: "kubectl apply -f FILE".to_string(),
            });
        };
        let account = match text(&pod, "/spec/serviceAccountName") {
            "" => "default",
            account => account,
        };
        if account != &*request.identity.service_account {
            return Err(RegistrationError::Identity {
                workload: workload(request),
                identity: request.identity.to_string(),
                problem: format!("is not service account {account} of that Pod"),
            });
        }
        Ok(())
    }

    /// The record: made, or taken over from an earlier stream of the same identity.
    async fn record(
        &self,
        request: &RegistrationRequest,
        started: Timestamp,
    ) -> Result<Result<Value, ApiError>, RegistrationError> {
        let (namespace, name) = (request.namespace.as_str(), request.name.as_str());
        let found = self.cluster.get(LEASE, Some(namespace), name).await.map_err(failed(request))?;
        let time = micros(started);
        let spec = json!({
            "holderIdentity": self.config.holder,
            "leaseDurationSeconds": LEASE_SECONDS,
            "acquireTime": time,
            "renewTime": time,
        });
        let mut annotations = connect_annotations(&self.config.holder, started);
        let Some(record) = found else {
            annotations[IDENTITY] = json!(request.identity.to_string());
            if let Some(members) = annotations.as_object_mut() {
                members.retain(|_, value| !value.is_null());
            }
            let lease = json!({
                "apiVersion": LEASE.api_version(),
                "kind": LEASE.kind,
                "metadata": {
                    "name": name,
                    "namespace": namespace,
                    "labels": {RECORD: "pod"},
                    "annotations": annotations,
                },
                "spec": spec,
            });
            return Ok(self.cluster.create(LEASE, lease).await);
        };
        let owner = text(&record["metadata"]["annotations"], &format!("/{}", IDENTITY.replace('/', "~1")));
        if owner != request.identity.to_string() {
            let owner = if owner.is_empty() { "a Lease that no workload made" } else { owner };
            return Err(RegistrationError::NameTaken {
                workload: workload(request),
                owner: owner.to_string(),
            });
        }
        if !Connection::read(&record).should_connect(&self.config.holder, started) {
            return Ok(Ok(record));
        }
        let patch = json!({
            "metadata": {
                "resourceVersion": record["metadata"]["resourceVersion"],
                "annotations": annotations,
            },
            "spec": spec,
        });
        Ok(self.cluster.merge(LEASE, Some(namespace), name, None, patch).await)
    }

    async fn write_pod(
        &self,
        request: &RegistrationRequest,
        record: &Value,
    ) -> Result<Result<(), ApiError>, RegistrationError> {
        let (namespace, name) = (request.namespace.as_str(), request.name.as_str());
        let wanted = build(request, text(record, "/metadata/uid"));
        let found = self.cluster.get(Kind::Pod, Some(namespace), name).await.map_err(failed(request))?;
        let mut ready = !request.health_checked;
        if let Some(pod) = found {
            if pod["metadata"]["annotations"].get(IDENTITY).is_none() {
                let owner = "a Pod that no workload registered".to_string();
                return Err(RegistrationError::NameTaken { workload: workload(request), owner });
            }
            if same_spec(&pod, &wanted) {
                // What it last said of its health holds until it says otherwise.
                ready = ready || is_ready(&pod);
                return Ok(self.refresh_pod(request, &pod, &wanted, ready).await);
            }
            let preconditions =
                Preconditions { uid: Some(text(&pod, "/metadata/uid")), ..Preconditions::default() };
            let deleted = self.cluster.delete(Kind::Pod, Some(namespace), name, preconditions).await;
            if let Err(error) = deleted {
                return Ok(Err(error));
            }
        }
        let created = match self.cluster.create(Kind::Pod, wanted).await {
            Ok(created) => created,
            Err(error) => return Ok(Err(error)),
        };
        Ok(self.write_status(request, &created, ready).await)
    }

    async fn refresh_pod(
        &self,
        request: &RegistrationRequest,
        pod: &Value,
        wanted: &Value,
        ready: bool,
    ) -> Result<(), ApiError> {
        let mut labels = wanted["metadata"]["labels"].clone();
        let known = pod["metadata"]["labels"].as_object();
        for key in known.into_iter().flat_map(Map::keys) {
            if labels.get(key).is_none() {
                labels[key] = Value::Null;
            }
        }
        let annotations = &wanted["metadata"]["annotations"];
        let stale = pod["metadata"]["labels"] != wanted["metadata"]["labels"]
            || annotations
                .as_object()
                .into_iter()
                .flatten()
                .any(|(key, value)| pod["metadata"]["annotations"].get(key) != Some(value));
        let (namespace, name) = (Some(request.namespace.as_str()), request.name.as_str());
        if stale {
            let patch = json!({"metadata": {"labels": labels, "annotations": annotations}});
            self.cluster.merge(Kind::Pod, namespace, name, None, patch).await?;
        }
        self.write_status(request, pod, ready).await
    }

    async fn write_status(
        &self,
        request: &RegistrationRequest,
        pod: &Value,
        ready: bool,
    ) -> Result<(), ApiError> {
        let status = status(request, pod, ready, self.now());
        let (namespace, name) = (Some(request.namespace.as_str()), request.name.as_str());
        if status == pod["status"] {
            return Ok(());
        }
        let patch = json!({"status": status});
        self.cluster.merge(Kind::Pod, namespace, name, Some("status"), patch).await.map(drop)
    }

    pub(super) async fn pod_health(
        &self,
        place: &Place,
        healthy: bool,
        message: &str,
    ) -> Result<(), ApiError> {
        let found = self.cluster.get(Kind::Pod, Some(&place.namespace), &place.name).await?;
        let Some(pod) = found.filter(|pod| pod["metadata"]["annotations"].get(IDENTITY).is_some()) else {
            return Ok(());
        };
        if is_ready(&pod) == healthy {
            return Ok(());
        }
        let mut status = pod["status"].clone();
        status["conditions"] = json!(conditions(&pod, healthy, message, self.now()));
        set_container_ready(&mut status, healthy);
        let patch = json!({
            "metadata": {"resourceVersion": pod["metadata"]["resourceVersion"]},
            "status": status,
        });
        self.cluster
            .merge(Kind::Pod, Some(&place.namespace), &place.name, Some("status"), patch)
            .await
            .map(drop)
    }

    /// Deletes a Pod whose record has expired. The deletion of the record decides; a stream that came back meanwhile has
    /// changed it.
    pub(super) async fn remove_pod(&self, place: &Place, record: &Value) -> Result<(), ApiError> {
        let (namespace, name) = (Some(place.namespace.as_str()), place.name.as_str());
        let pod = self.cluster.get(Kind::Pod, namespace, name).await?;
        let preconditions = Preconditions {
            uid: Some(text(record, "/metadata/uid")),
            resource_version: Some(text(record, "/metadata/resourceVersion")),
        };
        self.cluster.delete(LEASE, namespace, name, preconditions).await?;
        let Some(pod) = pod.filter(|pod| owned_by(pod, text(record, "/metadata/uid"))) else { return Ok(()) };
        let preconditions =
            Preconditions { uid: Some(text(&pod, "/metadata/uid")), ..Preconditions::default() };
        self.cluster.delete(Kind::Pod, namespace, name, preconditions).await.map(drop)
    }
}

fn owned_by(pod: &Value, uid: &str) -> bool {
    let owners = pod["metadata"]["ownerReferences"].as_array();
    owners.into_iter().flatten().any(|owner| owner["uid"] == uid)
}

/// Whether a Pod that is there can serve as the wanted one: what cannot be changed in a Pod is equal.
fn same_spec(pod: &Value, wanted: &Value) -> bool {
    let owner = text(wanted, "/metadata/ownerReferences/0/uid");
    let ports = |pod: &Value| -> Vec<(String, u64)> {
        let list = pod["spec"]["containers"][0]["ports"].as_array();
        let port = |port: &Value| {
            (text(port, "/name").to_string(), port["containerPort"].as_u64().unwrap_or_default())
        };
        list.into_iter().flatten().map(port).collect()
    };
    owned_by(pod, owner)
        && pod["metadata"].get("deletionTimestamp").is_none()
        && text(pod, "/spec/serviceAccountName") == text(wanted, "/spec/serviceAccountName")
        && text(pod, "/spec/nodeName") == text(wanted, "/spec/nodeName")
        && ports(pod) == ports(wanted)
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|entry| entry["type"] == "Ready" && entry["status"] == "True")
}

/// The smallest valid Pod.
fn build(request: &RegistrationRequest, record_uid: &str) -> Value {
    let locality = request.locality.to_string();
    let locality = locality.trim_end_matches('/').replace('/', ".");
    let extra = [
        (TLS_MODE_LABEL, "istio"),
        (NETWORK_LABEL, request.network.as_str()),
        ("topology.istio.io/locality", locality.as_str()),
    ];
    let missing = |key: &str| request.labels.get(key).is_none();
    let labels =
        request.labels.with(extra.into_iter().filter(|(key, value)| !value.is_empty() && missing(key)));
    let ports: Vec<Value> = request
        .ports
        .iter()
        .map(|(name, number)| {
            if name.is_empty() {
                json!({"containerPort": number, "protocol": "TCP"})
            } else {
                json!({"name": name, "containerPort": number, "protocol": "TCP"})
            }
        })
        .collect();
    let mut annotations = json!({IDENTITY: request.identity.to_string()});
    if request.health_checked {
        annotations[HEALTH_CHECKED] = json!("true");
    }
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": request.name,
            "namespace": request.namespace,
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [{
                "apiVersion": LEASE.api_version(), "kind": LEASE.kind, "name": request.name, "uid": record_uid,
            }],
        },
        "spec": {
            "serviceAccountName": &*request.identity.service_account,
            "automountServiceAccountToken": false,
            "containers": [{"name": "app", "image": IMAGE, "ports": ports}],
        },
    });
    if let Some(node) = &request.node {
        pod["spec"]["nodeName"] = json!(node);
    }
    pod
}

fn status(request: &RegistrationRequest, pod: &Value, ready: bool, now: Timestamp) -> Value {
    let started = pod["status"]["startTime"].as_str().map_or_else(|| seconds(now), String::from);
    let ips: Vec<Value> = request.ips.iter().map(|ip| json!({"ip": ip.to_string()})).collect();
    let first = request.ips.first().map(ToString::to_string).unwrap_or_default();
    json!({
        "phase": "Running",
        "startTime": started,
        "hostIP": first,
        "podIP": first,
        "podIPs": ips,
        "conditions": conditions(pod, ready, "", now),
        "containerStatuses": [{
            "name": "app",
            "image": IMAGE,
            "imageID": "",
            "ready": ready,
            "started": true,
            "restartCount": 0,
            "state": {"running": {"startedAt": started}},
        }],
    })
}

fn set_container_ready(status: &mut Value, ready: bool) {
    for container in status["containerStatuses"].as_array_mut().into_iter().flatten() {
        container["ready"] = json!(ready);
    }
}

/// The four conditions of a running Pod; times of those that do not change are kept.
fn conditions(pod: &Value, ready: bool, message: &str, now: Timestamp) -> Vec<Value> {
    let known = pod["status"]["conditions"].as_array();
    let condition = |kind: &str, holds: bool| {
        let status = if holds { "True" } else { "False" };
        let same = |entry: &&Value| entry["type"] == kind && entry["status"] == status;
        if let Some(same) = known.into_iter().flatten().find(same) {
            return same.clone();
        }
        let mut entry = json!({"type": kind, "status": status, "lastTransitionTime": seconds(now)});
        if !holds {
            entry["reason"] = json!("Unhealthy");
            if !message.is_empty() {
                entry["message"] = json!(message);
            }
        }
        entry
    };
    vec![
        condition("PodScheduled", true),
        condition("Initialized", true),
        condition("ContainersReady", ready),
        condition("Ready", ready),
    ]
}

/// Kubernetes' `Time`: whole seconds.
fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Kubernetes' `MicroTime`.
pub(super) fn micros(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_kubernetes_reads_them() {
        let time = Timestamp::new(1_700_000_000, 123_456_789).unwrap();
        assert_eq!(seconds(time), "2023-11-14T22:13:20Z");
        assert_eq!(micros(time), "2023-11-14T22:13:20.123456Z");
    }

    #[test]
    fn a_condition_that_holds_on_keeps_its_time() {
        let early = Timestamp::from_second(1_700_000_000).unwrap();
        let late = Timestamp::from_second(1_700_000_100).unwrap();
        let pod = json!({"status": {"conditions": conditions(&json!({}), false, "refused", early)}});
        let next = conditions(&pod, true, "", late);
        assert_eq!(next[0]["lastTransitionTime"], seconds(early));
        assert_eq!(next[3]["lastTransitionTime"], seconds(late));
        assert!(next[3].get("message").is_none());
    }
}
