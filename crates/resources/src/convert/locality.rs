//! Where workloads run.

use isthmus_model::Locality;
use isthmus_model::shared::shared;

use crate::istio;
use crate::kubernetes;
use crate::meta::{Meta, Resource};

/// Locality by explicit label: `topology.istio.io/locality`, else `istio-locality`, whose `.` stand for `/` when there is no
/// `/`.
fn labelled(meta: &Meta) -> Option<Locality> {
    let text = meta.labels.get("topology.istio.io/locality").or_else(|| meta.labels.get("istio-locality"))?;
    if text.is_empty() {
        return None;
    }
    Some(if text.contains('/') { Locality::parse(text) } else { Locality::parse(&text.replace('.', "/")) })
}

/// Locality of a Node by its topology labels.
#[must_use]
pub fn node_locality(node: &Resource<kubernetes::Node>) -> Locality {
    let label = |key: &str, old: &str| {
        let labels = &node.meta.labels;
        shared(labels.get(key).or_else(|| labels.get(old)).unwrap_or_default())
    };
    Locality {
        region: label("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"),
        zone: label("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"),
        subzone: label("topology.istio.io/subzone", "topology.istio.io/subzone"),
    }
}

/// Locality of a Pod: its own label, else its Node's.
#[must_use]
pub fn pod_locality(pod: &Resource<kubernetes::Pod>, node: Option<&Resource<kubernetes::Node>>) -> Locality {
    labelled(&pod.meta).or_else(|| node.map(node_locality)).unwrap_or_default()
}

/// Locality of a WorkloadEntry: its field, else its labels.
#[must_use]
pub fn workload_entry_locality(entry: &istio::WorkloadEntry, meta: Option<&Meta>) -> Locality {
    if !entry.locality.is_empty() {
        return Locality::parse(&entry.locality);
    }
    if let Some(locality) = meta.and_then(labelled) {
        return locality;
    }
    let inner = Meta { labels: entry.labels.clone(), ..Meta::default() };
    labelled(&inner).unwrap_or_default()
}
