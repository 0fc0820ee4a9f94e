//! WorkloadEntries: Istio's auto-registration.

use isthmus_model::Labels;
use isthmus_resources::convert::HEALTH_CHECKS_ANNOTATION;
use isthmus_resources::istio::WorkloadGroup;
use isthmus_resources::{Kind, Object, Resource, parse};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::state::{Connection, GROUP, connect_annotations};
use super::{
    ATTEMPTS, Inner, Place, Registration, RegistrationError, RegistrationRequest, failed, text, workload,
};
use crate::api::{ApiError, Preconditions};

const HEALTHY: &str = "Healthy";

impl Inner {
    pub(super) async fn connect_entry(
        &self,
        request: &RegistrationRequest,
        place: &Place,
        started: Timestamp,
    ) -> Result<(), RegistrationError> {
        for _ in 0..ATTEMPTS {
            let found = self
                .cluster
                .get(Kind::WorkloadEntry, Some(&place.namespace), &place.name)
                .await
                .map_err(failed(request))?;
            let outcome = match (found, &request.registration) {
                (Some(entry), _) => self.adopt(request, place, &entry, started).await?,
                (None, Registration::Group(group)) => {
                    let group = self.group(request, group).await?;
                    let entry = build(request, place, &group, &self.config.holder, started);
                    self.cluster.create(Kind::WorkloadEntry, entry).await.map(drop)
                }
                (None, _) => {
                    return Err(RegistrationError::Missing {
                        workload: workload(request),
                        missing: format!("WorkloadEntry {}/{}", place.namespace, place.name),
                        command: "kubectl apply -f FILE".to_string(),
                    });
                }
            };
            match outcome {
                Ok(()) => return Ok(()),
                Err(ApiError::Conflict { .. } | ApiError::AlreadyExists { .. }) => {}
                Err(error) => return Err(failed(request)(error)),
            }
        }
        let action = format!("writing WorkloadEntry {}/{}", place.namespace, place.name);
        Err(failed(request)(ApiError::Conflict { action, message: "too many writers".to_string() }))
    }

    async fn group(
        &self,
        request: &RegistrationRequest,
        name: &str,
    ) -> Result<Resource<WorkloadGroup>, RegistrationError> {
        let namespace = request.namespace.as_str();
        let found = self.cluster.get(Kind::WorkloadGroup, Some(namespace), name).await;
        let missing = || RegistrationError::Missing {
            workload: workload(request),
            missing: format!("WorkloadGroup {namespace}/{name}"),
            command: "kubectl apply -f FILE".to_string(),
        };
        let value = found.map_err(failed(request))?.ok_or_else(missing)?;
        match parse(value) {
            Ok(Object::WorkloadGroup(group)) => Ok((*group).clone()),
            Ok(_) => Err(missing()),
            Err(error) => {
                Err(RegistrationError::Invalid { workload: workload(request), problem: error.to_string() })
            }
        }
    }

    /// Takes over an entry that is there.
    async fn adopt(
        &self,
        request: &RegistrationRequest,
        place: &Place,
        entry: &Value,
        started: Timestamp,
    ) -> Result<Result<(), ApiError>, RegistrationError> {
        let account = text(entry, "/spec/serviceAccount");
        if !account.is_empty() && account != &*request.identity.service_account {
            return Err(RegistrationError::Identity {
                workload: workload(request),
                identity: request.identity.to_string(),
                problem: format!(
                    "is not service account {account} of WorkloadEntry {}/{}",
                    place.namespace, place.name
                ),
            });
        }
        let by_name = matches!(request.registration, Registration::Entry(_));
        if by_name && entry["metadata"]["annotations"].get(HEALTH_CHECKS_ANNOTATION).is_none() {
            // Not ours to keep: its owner did not ask for it.
            return Ok(Ok(()));
        }
        if !Connection::read(entry).should_connect(&self.config.holder, started) {
            return Ok(Ok(()));
        }
        let patch = json!({"metadata": {
            "resourceVersion": entry["metadata"]["resourceVersion"],
            "annotations": connect_annotations(&self.config.holder, started),
        }});
        let outcome =
            self.cluster.merge(Kind::WorkloadEntry, Some(&place.namespace), &place.name, None, patch).await;
        Ok(outcome.map(drop))
    }

    pub(super) async fn entry_health(
        &self,
        place: &Place,
        healthy: bool,
        message: &str,
    ) -> Result<(), ApiError> {
        let found = self.cluster.get(Kind::WorkloadEntry, Some(&place.namespace), &place.name).await?;
        let Some(entry) = found else { return Ok(()) };
        if Connection::read(&entry).controller.as_deref() != Some(self.config.holder.as_str()) {
            return Ok(());
        }
        let now = self.now();
        let Some(conditions) = healthy_condition(&entry, healthy, message, now) else { return Ok(()) };
        let patch = json!({
            "metadata": {"resourceVersion": entry["metadata"]["resourceVersion"]},
            "status": {"conditions": conditions},
        });
        let kind = Kind::WorkloadEntry;
        self.cluster.merge(kind, Some(&place.namespace), &place.name, Some("status"), patch).await.map(drop)
    }

    /// Deletes an auto-registered entry; takes only the health from one that somebody else made.
    pub(super) async fn remove_entry(&self, place: &Place, entry: &Value) -> Result<(), ApiError> {
        let version = text(entry, "/metadata/resourceVersion");
        if entry["metadata"]["annotations"].get(GROUP).is_some() {
            let preconditions =
                Preconditions { uid: Some(text(entry, "/metadata/uid")), resource_version: Some(version) };
            let of = Kind::WorkloadEntry;
            return self
                .cluster
                .delete(of, Some(&place.namespace), &place.name, preconditions)
                .await
                .map(drop);
        }
        let mut conditions = entry["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let before = conditions.len();
        conditions.retain(|condition| condition["type"] != HEALTHY);
        if conditions.len() == before {
            return Ok(());
        }
        let patch = json!({"metadata": {"resourceVersion": version}, "status": {"conditions": conditions}});
        let kind = Kind::WorkloadEntry;
        self.cluster.merge(kind, Some(&place.namespace), &place.name, Some("status"), patch).await.map(drop)
    }
}

/// The complete list of conditions with a new Healthy one; none when it says so already, or was written later.
fn healthy_condition(entry: &Value, healthy: bool, message: &str, now: Timestamp) -> Option<Vec<Value>> {
    let mut conditions = entry["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let status = if healthy { "True" } else { "False" };
    let message = if healthy { "" } else { message };
    if let Some(position) = conditions.iter().position(|condition| condition["type"] == HEALTHY) {
        let known = conditions.remove(position);
        let probed: Option<Timestamp> = known["lastProbeTime"].as_str().and_then(|text| text.parse().ok());
        let same = known["status"] == status && known["message"].as_str().unwrap_or_default() == message;
        if same || probed.is_some_and(|probed| probed > now) {
            return None;
        }
    }
    let mut condition = json!({
        "type": HEALTHY, "status": status, "lastProbeTime": now.to_string(), "lastTransitionTime": now.to_string(),
    });
    if !message.is_empty() {
        condition["message"] = json!(message);
    }
    conditions.push(condition);
    Some(conditions)
}

/// A new entry, with Istio's order of precedence: template, group's metadata, the workload's own word.
fn build(
    request: &RegistrationRequest,
    place: &Place,
    group: &Resource<WorkloadGroup>,
    holder: &str,
    started: Timestamp,
) -> Value {
    let Resource { meta, spec } = group;
    let mut entry = spec.template.clone();
    entry.address = request.ips.first().map(ToString::to_string).unwrap_or_default();
    let own = request.labels.iter().filter(|(key, _)| *key != "istio-locality");
    let labels: Labels = spec.template.labels.with(spec.metadata.labels.iter()).with(own);
    entry.labels = labels.clone();
    if !request.network.is_unnamed() {
        entry.network = request.network.to_string();
    }
    if !request.locality.is_empty() {
        entry.locality = request.locality.to_string();
    }
    let mut annotations = serde_json::Map::new();
    annotations.insert(GROUP.to_string(), json!(&*meta.name));
    annotations.extend(spec.metadata.annotations.iter().map(|(key, value)| (key.to_string(), json!(value))));
    if request.health_checked {
        annotations.insert(HEALTH_CHECKS_ANNOTATION.to_string(), json!("true"));
    }
    if let Value::Object(connect) = connect_annotations(holder, started) {
        annotations.extend(connect.into_iter().filter(|(_, value)| !value.is_null()));
    }
    json!({
        "apiVersion": Kind::WorkloadEntry.api_version(),
        "kind": "WorkloadEntry",
        "metadata": {
            "name": place.name,
            "namespace": place.namespace,
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [{
                "apiVersion": Kind::WorkloadGroup.api_version(),
                "kind": "WorkloadGroup",
                "name": &*meta.name,
                "uid": meta.uid.to_string(),
                "controller": true,
            }],
        },
        "spec": entry,
    })
}

#[cfg(test)]
mod tests {
    use isthmus_model::Locality;

    use super::*;

    #[test]
    fn an_entry_is_the_template_under_the_group_under_the_workload() {
        let group = parse(json!({
            "apiVersion": "networking.istio.io/v1", "kind": "WorkloadGroup",
            "metadata": {"name": "mysql", "namespace": "vm", "uid": "u1"},
            "spec": {
                "metadata": {"labels": {"app": "mysqldb", "tier": "group"}, "annotations": {"a": "b"}},
                "template": {
                    "serviceAccount": "mysql", "network": "template", "ports": {"tcp": 3306},
                    "labels": {"tier": "template", "only": "template"},
                },
            },
        }));
        let Ok(Object::WorkloadGroup(group)) = group else { panic!("{group:?}") };
        let request = RegistrationRequest {
            registration: Registration::Group("mysql".to_string()),
            namespace: "vm".parse().unwrap(),
            name: "vm1".to_string(),
            service_account: String::new(),
            identity: "spiffe://cluster.local/ns/vm/sa/mysql".parse().unwrap(),
            ips: vec!["192.0.2.7".parse().unwrap()],
            network: "site".parse().unwrap(),
            locality: Locality::parse("r/z"),
            labels: [("version", "v1"), ("istio-locality", "x")].into_iter().collect(),
            ports: Vec::new(),
            node: None,
            health_checked: true,
        };
        let place =
            Place { pod: false, namespace: "vm".to_string(), name: "mysql-192.0.2.7-site".to_string() };
        let entry = build(&request, &place, &group, "me", Timestamp::UNIX_EPOCH);
        assert_eq!(
            entry["spec"],
            json!({
                "address": "192.0.2.7", "network": "site", "locality": "r/z/", "serviceAccount": "mysql",
                "ports": {"tcp": 3306},
                "labels": {"app": "mysqldb", "tier": "group", "only": "template", "version": "v1"},
            })
        );
        let annotations = &entry["metadata"]["annotations"];
        assert_eq!(annotations[GROUP], "mysql");
        assert_eq!(annotations[HEALTH_CHECKS_ANNOTATION], "true");
        assert_eq!(annotations["a"], "b");
        assert_eq!(entry["metadata"]["ownerReferences"][0]["uid"], "u1");
        assert_eq!(entry["metadata"]["labels"], entry["spec"]["labels"]);
    }

    #[test]
    fn health_is_written_when_it_changes_and_not_again() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let first = healthy_condition(&json!({}), false, "refused", now).unwrap();
        let entry = json!({"status": {"conditions": first}});
        assert_eq!(healthy_condition(&entry, false, "refused", now), None);
        let second = healthy_condition(&entry, true, "", now).unwrap();
        assert_eq!(second.len(), 1);
        assert_eq!(second[0]["status"], "True");
        let earlier = Timestamp::from_second(1_600_000_000).unwrap();
        assert_eq!(healthy_condition(&entry, true, "", earlier), None, "a later probe has spoken");
    }
}
