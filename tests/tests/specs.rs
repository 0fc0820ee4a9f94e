//! The demo applies specs and nothing that a control plane should write; systemd units start what there is.

use std::fs;
use std::path::Path;

use serde::Deserialize as _;
use serde_json::Value;

const APPLIED: [&str; 10] = [
    "Namespace",
    "ServiceAccount",
    "Service",
    "PeerAuthentication",
    "AuthorizationPolicy",
    "DestinationRule",
    "Gateway",
    "WorkloadGroup",
    "ServiceEntry",
    "VirtualService",
];

#[test]
fn the_demo_applies_specs_only() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/demo");
    let mut objects = 0;
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.path().extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = fs::read_to_string(entry.path()).unwrap();
        for document in serde_yaml::Deserializer::from_str(&text) {
            let object = Value::deserialize(document).unwrap();
            let kind = object["kind"].as_str().unwrap_or_default();
            assert!(APPLIED.contains(&kind), "{}: {kind}", entry.path().display());
            assert!(object.get("status").is_none(), "{}: {kind} with a status", entry.path().display());
            objects += 1;
        }
    }
    assert!(objects > 15, "{objects} objects");
}
