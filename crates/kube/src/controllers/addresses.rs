//! Addresses for ServiceEntries without any: what is planned is written.

use std::collections::BTreeSet;

use isthmus_resources::derived::Key;
use isthmus_resources::derived::addresses::Addresses;
use isthmus_resources::istio::ServiceEntryAddress;
use isthmus_resources::{Kind, Object};
use serde_json::{Value, json};

use crate::api::ApiError;
use crate::client::Cluster;

/// Writes what differs; false when something remains to be done.
pub(super) async fn write(addresses: &mut Addresses, cluster: &Cluster) -> bool {
    let mut remaining = BTreeSet::new();
    for key in addresses.take_dirty() {
        let Some(wanted) = addresses.plan(&key) else { continue };
        match assign(cluster, &key, &wanted).await {
            Ok(Some(written)) => {
                if let Ok(Object::ServiceEntry(entry)) = isthmus_resources::parse(written) {
                    addresses.written(entry);
                }
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "address not allocated");
                remaining.insert(key);
            }
        }
    }
    addresses.mark(remaining);
    addresses.is_settled()
}

/// Writes the addresses by a patch that holds only if nobody wrote others meanwhile.
async fn assign(
    cluster: &Cluster,
    key: &Key,
    wanted: &[ServiceEntryAddress],
) -> Result<Option<Value>, ApiError> {
    let (namespace, name) = (Some(key.0.as_str()), key.1.as_str());
    let Some(current) = cluster.get(Kind::ServiceEntry, namespace, name).await? else { return Ok(None) };
    let addresses: Vec<Value> =
        wanted.iter().map(|address| json!({"value": address.value, "host": address.host})).collect();
    let patch = patch(&current, &json!(addresses));
    let outcome = cluster.json_patch(Kind::ServiceEntry, namespace, name, Some("status"), patch).await;
    match outcome {
        Err(ApiError::NotFound { .. }) => Ok(None),
        outcome => outcome.map(Some),
    }
}

fn patch(current: &Value, addresses: &Value) -> Value {
    let version = json!({"op": "test", "path": "/metadata/resourceVersion", "value": current["metadata"]["resourceVersion"]});
    match current.get("status").filter(|status| !status.is_null()) {
        None => json!([version, {"op": "add", "path": "/status", "value": {"addresses": addresses}}]),
        Some(status) => match status.get("addresses") {
            None => json!([version, {"op": "add", "path": "/status/addresses", "value": addresses}]),
            Some(old) => json!([
                {"op": "test", "path": "/status/addresses", "value": old},
                {"op": "replace", "path": "/status/addresses", "value": addresses},
            ]),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_hold_only_while_nobody_else_wrote() {
        let new = json!([{"value": "240.240.0.1", "host": "x"}]);
        let bare = json!({"metadata": {"resourceVersion": "5"}});
        assert_eq!(
            patch(&bare, &new)[0],
            json!({"op": "test", "path": "/metadata/resourceVersion", "value": "5"})
        );
        assert_eq!(patch(&bare, &new)[1]["path"], "/status");
        let old = json!([{"value": "240.240.0.9", "host": "x"}]);
        let full = json!({"metadata": {"resourceVersion": "5"}, "status": {"addresses": old}});
        assert_eq!(patch(&full, &new)[0], json!({"op": "test", "path": "/status/addresses", "value": old}));
    }
}
