//! Status conditions that tell a user what became of an Istio object: refused, or stored and not enforced. Written only when
//! they differ from what stands there, so that a write never leads to another.

use std::collections::BTreeMap;
use std::sync::Arc;

use isthmus_lifecycle::{Clock, TaskGroup};
use isthmus_resources::Kind;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::api::ApiError;
use crate::client::Cluster;

/// Condition type: whether the object is in force.
const RECONCILED: &str = "Reconciled";
/// Condition type: parts of the object are stored and do nothing.
const NOT_ENFORCED: &str = "NotEnforced";
/// Condition type: parts of the object lose to an older one.
const CONFLICTED: &str = "Conflicted";
/// Longest message that is written.
const MESSAGE: usize = 1024;

/// Conditions that should stand in an object's status and do not yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    kind: Kind,
    namespace: Option<String>,
    name: String,
    resource_version: String,
    /// The complete list, those of others included.
    conditions: Vec<Value>,
}

/// Status, reason and message of a condition.
type Said<'a> = (&'a str, &'a str, String);

/// What an object's status says at present.
pub(crate) struct Current {
    kind: Kind,
    namespace: Option<String>,
    name: String,
    resource_version: String,
    conditions: Vec<Value>,
}

impl Current {
    /// None for kinds whose status is not ours to write.
    pub(crate) fn of(kind: Kind, value: &Value) -> Option<Self> {
        if !kind.is_custom() || kind == Kind::Peer {
            return None;
        }
        let text = |member: &str| value["metadata"][member].as_str().map(String::from);
        Some(Self {
            kind,
            namespace: text("namespace"),
            name: text("name")?,
            resource_version: text("resourceVersion").unwrap_or_default(),
            conditions: value["status"]["conditions"].as_array().cloned().unwrap_or_default(),
        })
    }

    /// What to write, if anything. An object that is wholly in force needs no words, except to take old ones back.
    pub(crate) fn finding(self, problems: &[String], unenforced: &[String]) -> Option<Finding> {
        let refused = (!problems.is_empty()).then(|| ("False", "Invalid", joined(problems)));
        let idle = (!unenforced.is_empty()).then(|| ("True", "NotImplemented", joined(unenforced)));
        self.with([(RECONCILED, refused), (NOT_ENFORCED, idle)])
    }

    /// What to write of what it loses to others, if anything.
    fn conflicted(self, losses: &[String]) -> Option<Finding> {
        let lost = (!losses.is_empty()).then(|| ("True", "OlderObject", joined(losses)));
        self.with([(CONFLICTED, lost)])
    }

    fn with<const N: usize>(self, wanted: [(&str, Option<Said<'_>>); N]) -> Option<Finding> {
        let mut conditions = self.conditions;
        let changed = wanted.map(|(kind, wanted)| set(&mut conditions, kind, wanted));
        changed.contains(&true).then_some(Finding {
            kind: self.kind,
            namespace: self.namespace,
            name: self.name,
            resource_version: self.resource_version,
            conditions,
        })
    }
}

fn joined(messages: &[String]) -> String {
    let mut text = messages.join("; ");
    if text.len() > MESSAGE {
        let end = (0..=MESSAGE).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Sets or takes away one condition of ours; true when the list changed.
fn set(conditions: &mut Vec<Value>, kind: &str, wanted: Option<Said<'_>>) -> bool {
    let position = conditions.iter().position(|condition| condition["type"] == kind);
    let Some((status, reason, message)) = wanted else {
        return position.map(|position| conditions.remove(position)).is_some();
    };
    if let Some(position) = position {
        let found = &conditions[position];
        if found["status"] == status && found["message"] == message.as_str() {
            return false;
        }
        conditions.remove(position);
    }
    conditions.push(json!({"type": kind, "status": status, "reason": reason, "message": message}));
    true
}

/// Starts the writer; the sender goes into [`crate::watch::Watch`].
pub fn writer(cluster: &Cluster, clock: Arc<dyn Clock>, tasks: &TaskGroup) -> mpsc::Sender<Finding> {
    let (send, mut receive) = mpsc::channel::<Finding>(1024);
    let (cluster, stop) = (cluster.clone(), tasks.signal());
    tasks.spawn_infallible("status conditions", async move {
        loop {
            let finding = tokio::select! {
                biased;
                () = stop.stopping() => return,
                finding = receive.recv() => finding,
            };
            let Some(finding) = finding else { return };
            write(&cluster, &*clock, finding).await;
        }
    });
    send
}

/// Says in the status of every object of a kind what it loses to older ones, by namespace and name; of all others, that they lose
/// nothing. False when some object changed meanwhile, so that it has to be said again.
///
/// # Errors
/// When the objects cannot be read.
pub async fn write_conflicts(
    cluster: &Cluster,
    clock: &dyn Clock,
    kind: Kind,
    losses: &BTreeMap<(String, String), Vec<String>>,
) -> Result<bool, ApiError> {
    let mut done = true;
    for object in cluster.list_installed(kind, None, None).await? {
        let Some(current) = Current::of(kind, &object) else { continue };
        let place = (current.namespace.clone().unwrap_or_default(), current.name.clone());
        let lost = losses.get(&place).map_or(&[][..], Vec::as_slice);
        if let Some(finding) = current.conflicted(lost) {
            done &= write(cluster, clock, finding).await;
        }
    }
    Ok(done)
}

/// False when it has to be judged and written anew.
async fn write(cluster: &Cluster, clock: &dyn Clock, finding: Finding) -> bool {
    let Finding { kind, namespace, name, resource_version, mut conditions } = finding;
    let now = crate::registration::rfc3339(clock.now());
    for condition in &mut conditions {
        if condition.get("lastTransitionTime").is_none() {
            condition["lastTransitionTime"] = json!(now);
        }
    }
    // A conflict means that the object changed meanwhile; that change brings its own finding.
    let patch =
        json!({"metadata": {"resourceVersion": resource_version}, "status": {"conditions": conditions}});
    match cluster.merge(kind, namespace.as_deref(), &name, Some("status"), patch).await {
        Ok(_) | Err(ApiError::NotFound { .. }) => true,
        Err(ApiError::Conflict { .. }) => false,
        Err(error) => {
            tracing::warn!(%error, "status condition not written");
            !error.is_transient()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn current(conditions: Value) -> Current {
        let value = json!({
            "metadata": {"name": "a", "namespace": "b", "generation": 3, "resourceVersion": "7"},
            "status": {"conditions": conditions},
        });
        Current::of(Kind::EnvoyFilter, &value).unwrap()
    }

    #[test]
    fn a_finding_that_stands_already_is_not_written_again() {
        let words = ["it does nothing".to_string()];
        let finding = current(json!([{"type": "Other", "status": "True"}])).finding(&[], &words).unwrap();
        assert_eq!(finding.conditions.len(), 2);
        assert_eq!(finding.conditions[0]["type"], "Other");
        let standing = Value::Array(finding.conditions);
        assert_eq!(current(standing.clone()).finding(&[], &words), None);
        let gone = current(standing).finding(&[], &[]).unwrap();
        assert_eq!(gone.conditions.len(), 1);
    }

    #[test]
    fn an_object_in_force_has_nothing_written() {
        assert_eq!(current(json!([])).finding(&[], &[]), None);
    }
}
