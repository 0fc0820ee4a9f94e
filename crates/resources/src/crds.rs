//! CustomResourceDefinitions of all custom kinds, as `apiextensions.k8s.io/v1` objects.

use serde_json::{Value, json};

use crate::kind::Kind;

/// The shape of Istio's kinds; `crds/README.md` says what is in the files.
const ISTIO: [&str; 14] = [
    include_str!("../crds/authorizationpolicies.json"),
    include_str!("../crds/destinationrules.json"),
    include_str!("../crds/envoyfilters.json"),
    include_str!("../crds/gateways.json"),
    include_str!("../crds/peerauthentications.json"),
    include_str!("../crds/proxyconfigs.json"),
    include_str!("../crds/requestauthentications.json"),
    include_str!("../crds/serviceentries.json"),
    include_str!("../crds/sidecars.json"),
    include_str!("../crds/telemetries.json"),
    include_str!("../crds/virtualservices.json"),
    include_str!("../crds/wasmplugins.json"),
    include_str!("../crds/workloadentries.json"),
    include_str!("../crds/workloadgroups.json"),
];

/// The definitions of the 15 Istio kinds and of Peer.
#[must_use]
pub fn crds() -> Vec<Value> {
    let mut all: Vec<Value> = ISTIO
        .iter()
        .map(|text| {
            let source: Value = serde_json::from_str(text).expect("the files in crds/ are JSON");
            let versions = source["versions"].as_array().into_iter().flatten().map(|version| {
                json!({
                    "name": version["name"],
                    "served": version["served"],
                    "storage": version["storage"],
                    "additionalPrinterColumns": source["additionalPrinterColumns"],
                    "schema": {"openAPIV3Schema": source["openAPIV3Schema"]},
                    "subresources": {"status": {}},
                })
            });
            definition(&source["group"], &source["names"], "Namespaced", versions.collect())
        })
        .collect();
    all.push(istio_operator());
    all.push(peer());
    all
}

fn definition(group: &Value, names: &Value, scope: &str, versions: Vec<Value>) -> Value {
    let name =
        format!("{}.{}", names["plural"].as_str().unwrap_or_default(), group.as_str().unwrap_or_default());
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "isthmus"}},
        "spec": {"group": group, "names": names, "scope": scope, "versions": versions},
    })
}

fn own_names(kind: Kind) -> (Value, Value) {
    let names = kind.names();
    let written = json!({
        "kind": names.kind,
        "listKind": format!("{}List", names.kind),
        "plural": names.plural,
        "singular": names.kind.to_ascii_lowercase(),
        "shortNames": names.short,
        "categories": ["isthmus"],
    });
    (json!(names.group), written)
}

fn istio_operator() -> Value {
    let (group, names) = own_names(Kind::IstioOperator);
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let version = json!({
        "name": "v1alpha1",
        "served": true,
        "storage": true,
        "additionalPrinterColumns": [
            {"name": "Revision", "type": "string", "jsonPath": ".spec.revision", "description": "Istio control plane revision"},
            {"name": "Status", "type": "string", "jsonPath": ".status.status", "description": "IOP current state"},
            {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        ],
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": open, "status": open}}},
        "subresources": {"status": {}},
    });
    definition(&group, &names, "Namespaced", vec![version])
}

fn peer() -> Value {
    let (group, names) = own_names(Kind::Peer);
    let text = |description: &str| json!({"type": "string", "description": description});
    let hash = |description: &str| json!({"type": "string", "description": description, "pattern": "^([0-9a-f]{64})?$"});
    let spec = json!({
        "type": "object",
        "description": "A control plane at the far end of a federation link; the object is named like its cluster.",
        "required": ["meshId"],
        "properties": {
            "meshId": text("Mesh of both."),
            "revision": text("The peer's revision."),
            "network": text("The peer's network."),
            "gateways": {
                "type": "array",
                "description": "HOST:PORT of the peer's gateways. Empty where the peer calls us.",
                "items": {"type": "string"},
            },
            "rootSha256": hash("SHA-256 of the shared root's DER, lower-case hex."),
            "secretSha256": hash("SHA-256 of the link's secret, on the side that is called."),
        },
    });
    let condition = json!({
        "type": "object",
        "properties": {
            "type": {"type": "string"},
            "status": {"type": "string"},
            "reason": {"type": "string"},
            "message": {"type": "string"},
            "lastProbeTime": {"type": "string", "format": "date-time"},
            "lastTransitionTime": {"type": "string", "format": "date-time"},
        },
    });
    let status = json!({
        "type": "object",
        "properties": {
            "state": text("Connected, Connecting, Waiting or Refused."),
            "synced": {"type": "boolean", "description": "Whether everything that the peer had to say has been said once, ever."},
            "lastHeard": {"type": "string", "format": "date-time", "description": "Last frame heard."},
            "services": {"type": "integer", "format": "int64", "description": "Services imported."},
            "error": text("Why it is not connected."),
            "conditions": {"type": "array", "items": condition},
        },
    });
    let version = json!({
        "name": "v1alpha1",
        "served": true,
        "storage": true,
        "additionalPrinterColumns": [
            {"name": "State", "type": "string", "jsonPath": ".status.state"},
            {"name": "Synced", "type": "boolean", "jsonPath": ".status.synced"},
            {"name": "Services", "type": "integer", "jsonPath": ".status.services"},
            {"name": "Last-Heard", "type": "date", "jsonPath": ".status.lastHeard"},
            {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        ],
        "schema": {"openAPIV3Schema": {
            "type": "object",
            "required": ["spec"],
            "properties": {"spec": spec, "status": status},
        }},
        "subresources": {"status": {}},
    });
    definition(&group, &names, "Cluster", vec![version])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_and_the_table_of_kinds_agree() {
        let all = crds();
        let custom: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| kind.is_custom()).collect();
        assert_eq!(all.len(), custom.len());
        for kind in custom {
            let names = kind.names();
            let name = format!("{}.{}", names.plural, names.group);
            let crd = all.iter().find(|crd| crd["metadata"]["name"] == name.as_str()).unwrap();
            let spec = &crd["spec"];
            assert_eq!(spec["names"]["kind"], names.kind);
            assert_eq!(spec["scope"] == "Namespaced", names.namespaced);
            let short: Vec<&str> = spec["names"]["shortNames"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            assert_eq!(short, names.short, "{name}");
            let mut served: Vec<&str> = Vec::new();
            for version in spec["versions"].as_array().unwrap() {
                served.push(version["name"].as_str().unwrap());
                assert_eq!(version["schema"]["openAPIV3Schema"]["type"], "object");
                assert_eq!(version["subresources"], json!({"status": {}}));
            }
            served.sort_unstable();
            let mut expected = names.versions.to_vec();
            expected.sort_unstable();
            assert_eq!(served, expected, "{name}");
            let storing =
                spec["versions"].as_array().unwrap().iter().filter(|version| version["storage"] == true);
            assert_eq!(storing.count(), 1, "{name}");
        }
    }
}
