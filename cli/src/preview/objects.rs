//! Objects of files, read and validated as a control plane does.

use std::collections::BTreeMap;
use std::path::Path;

use isthmus_resources::convert::SERVICE_NAME_LABEL;
use isthmus_resources::parse::documents;
use isthmus_resources::{Kind, Meta, Object, ParseError, parse, validate, warnings};
use serde_json::{Value, json};

use super::Remarks;
use crate::files;

/// API groups of which every kind should be known: an unknown one is a mistake.
const OURS: [&str; 5] =
    ["networking.istio.io", "security.istio.io", "telemetry.istio.io", "extensions.istio.io", "isthmus.io"];
/// A group that a mesh would read, and this one does not yet.
const GATEWAY_API: &str = "gateway.networking.k8s.io";

/// An object, what it was made of, and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) object: Object,
    pub(super) raw: Value,
}

type Key = (Kind, String, String);

/// What was read of one cluster.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// The last of each name counts.
    pub(super) objects: BTreeMap<Key, Item>,
    places: BTreeMap<Key, String>,
    left_out: BTreeMap<String, usize>,
    gateway_api: usize,
    unconditional: usize,
}

impl Read {
    /// Adds what is in a path; objects that cannot be taken are refused by name, and the others stay.
    pub(super) fn add(&mut self, path: &Path, remarks: &mut Remarks) -> anyhow::Result<()> {
        for (file, text) in files::each(path)? {
            let text = match text {
                Ok(text) => text,
                Err(error) => {
                    remarks.refuse(&format!("{error:#}"));
                    continue;
                }
            };
            for (document, value) in documents(&text) {
                let place = format!("{file}: document {document}");
                match value {
                    Ok(value) => self.take(&place, value, remarks),
                    Err(ParseError::Yaml { problem, .. }) => remarks.refuse(&format!("{place}: {problem}")),
                    Err(error) => remarks.refuse(&format!("{place}: {error}")),
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, place: &str, mut value: Value, remarks: &mut Remarks) {
        if value["kind"] == "Endpoints" && value["apiVersion"] == "v1" {
            value = mirrored(&value);
        }
        if self.is_of_no_mesh(&value) {
            return;
        }
        let notes = warnings(&value);
        self.unconditional += usize::from(assume_ready(&mut value));
        let raw = value.clone();
        let object = match parse(value) {
            Ok(object) => object,
            Err(error) => return remarks.refuse(&format!("{place}: {error}")),
        };
        let named = format!("{place}: {} {}", object.kind(), object.meta());
        let problems = validate(&object);
        if !problems.is_empty() {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            return remarks.refuse(&format!("{named}: {}", problems.join("; ")));
        }
        for note in notes {
            remarks.warn(&format!("{named}: {note}"));
        }
        let key = key_of(object.kind(), object.meta());
        if let Some(before) = self.places.insert(key.clone(), place.to_string()) {
            remarks.warn(&format!("{named}: it is in {before} too; this one counts"));
        }
        self.objects.insert(key, Item { object, raw });
    }

    /// Whether an object is of a kind that no mesh reads: counted, and not looked at.
    fn is_of_no_mesh(&mut self, value: &Value) -> bool {
        let text = |member: &str| value.get(member).and_then(Value::as_str).unwrap_or_default();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        if api_version.is_empty() || kind.is_empty() || Kind::of(api_version, kind).is_some() {
            return false;
        }
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        if OURS.contains(&group) {
            return false;
        }
        if group == GATEWAY_API {
            self.gateway_api += 1;
        } else {
            *self.left_out.entry(kind.to_string()).or_default() += 1;
        }
        true
    }

    /// Says what was not looked at.
    pub(super) fn report(&mut self, remarks: &mut Remarks) {
        if self.objects.is_empty() {
            remarks.warn("the files have no objects of a mesh");
        }
        if self.gateway_api > 0 {
            let count = self.gateway_api;
            remarks.warn(&format!(
                "{count} objects of {GATEWAY_API} are left out: the Gateway API is not read yet"
            ));
        }
        if !self.left_out.is_empty() {
            let kinds: Vec<String> =
                self.left_out.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
            remarks.warn(&format!("left out, as a mesh reads no such kind: {}", kinds.join(", ")));
        }
        if self.unconditional > 0 {
            remarks.warn(&format!("{} Pods have no conditions and count as ready", self.unconditional));
        }
    }
}

pub(super) fn key_of(kind: Kind, meta: &Meta) -> Key {
    (kind, meta.namespace_str().to_string(), meta.name.to_string())
}

/// The EndpointSlice into which Kubernetes mirrors an Endpoints object.
fn mirrored(endpoints: &Value) -> Value {
    let meta = &endpoints["metadata"];
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut all = Vec::new();
    let mut ports = Vec::new();
    for subset in list(&endpoints["subsets"]) {
        for (member, ready) in [("addresses", true), ("notReadyAddresses", false)] {
            all.extend(list(&subset[member]).into_iter().map(|address| {
                json!({
                    "addresses": [address["ip"]], "conditions": {"ready": ready},
                    "targetRef": address["targetRef"], "nodeName": address["nodeName"], "hostname": address["hostname"],
                })
            }));
        }
        for port in list(&subset["ports"]) {
            if !ports.contains(&port) {
                ports.push(port);
            }
        }
    }
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": format!("{}-mirrored", meta["name"].as_str().unwrap_or_default()), "namespace": meta["namespace"],
            "labels": {SERVICE_NAME_LABEL: meta["name"]},
        },
        "endpoints": all, "ports": ports,
    })
}

/// A Pod that was written by hand has an address and no conditions: nobody but its writer can say that it is ready.
fn assume_ready(value: &mut Value) -> bool {
    if value["kind"] != "Pod" || value["apiVersion"] != "v1" {
        return false;
    }
    let Some(status) = value.get_mut("status").and_then(Value::as_object_mut) else { return false };
    let running = matches!(status.get("phase").and_then(Value::as_str), None | Some("Running"));
    let addressed = status.contains_key("podIP") || status.contains_key("podIPs");
    if !running || !addressed || status.contains_key("conditions") {
        return false;
    }
    status.insert("phase".to_string(), json!("Running"));
    status.insert("conditions".to_string(), json!([{"type": "Ready", "status": "True"}]));
    true
}
