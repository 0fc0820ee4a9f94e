//! What a WorkloadGroup's spec says of its machines.

use std::collections::BTreeMap;
use std::sync::Arc;

use isthmus_model::Locality;
use serde_json::Value;

/// Labels: the template's, then those of the group's metadata over them, as the control plane merges them too.
pub(crate) fn labels(spec: &Value) -> BTreeMap<Arc<str>, Arc<str>> {
    let mut labels = BTreeMap::new();
    for place in ["/template/labels", "/metadata/labels"] {
        for (key, value) in spec.pointer(place).and_then(Value::as_object).into_iter().flatten() {
            if let Some(value) = value.as_str() {
                labels.insert(key.as_str().into(), value.into());
            }
        }
    }
    labels
}

/// Ports by name.
pub(crate) fn ports(spec: &Value) -> Vec<(Arc<str>, u16)> {
    let ports = spec.pointer("/template/ports").and_then(Value::as_object);
    let port = |(name, number): (&String, &Value)| {
        let number = u16::try_from(number.as_u64()?).ok()?;
        Some((Arc::from(name.as_str()), number))
    };
    ports.into_iter().flatten().filter_map(port).collect()
}

/// Where they run.
pub(crate) fn locality(spec: &Value) -> Locality {
    Locality::parse(spec.pointer("/template/locality").and_then(Value::as_str).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_groups_metadata_wins_over_its_template() {
        let spec = serde_json::json!({
            "metadata": {"labels": {"app": "mysqldb"}},
            "template": {
                "labels": {"app": "old", "tier": "data"},
                "ports": {"tcp": 3306, "odd": 70000},
                "locality": "r/z",
            },
        });
        let labels = labels(&spec);
        assert_eq!(labels.get("app").map(|value| &**value), Some("mysqldb"));
        assert_eq!(labels.get("tier").map(|value| &**value), Some("data"));
        assert_eq!(ports(&spec), [("tcp".into(), 3306)]);
        assert_eq!(locality(&spec).zone.as_ref(), "z");
    }
}
