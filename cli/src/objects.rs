//! Objects of files, read and validated as a control plane does.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use isthmus_resources::convert::SERVICE_NAME_LABEL;
use isthmus_resources::parse::documents;
use isthmus_resources::{Kind, Meta, Object, ParseError, Problem, parse, validate, warnings};
use serde_json::{Value, json};

use crate::files;

/// API groups of which every kind should be known: an unknown one is a mistake.
const OURS: [&str; 5] =
    ["networking.istio.io", "security.istio.io", "telemetry.istio.io", "extensions.istio.io", "isthmus.io"];
/// A group that a mesh would read, and this one does not yet.
const GATEWAY_API: &str = "gateway.networking.k8s.io";

/// An object, what it was made of, and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) object: Object,
    pub(crate) raw: Value,
    pub(crate) place: Place,
}

/// Where an object was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// File, or `standard input`; empty for objects of an API server.
    pub(crate) file: Arc<str>,
    /// Position of its document, from 1.
    pub(crate) document: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: document {}", self.file, self.document)
    }
}

/// Something about what was read.
#[derive(Debug, Clone)]
pub(crate) struct Note {
    pub(crate) place: Place,
    /// Kind, namespace and name as its text gives them.
    pub(crate) header: (String, String, String),
    pub(crate) what: What,
}

/// What a note says.
#[derive(Debug, Clone)]
pub(crate) enum What {
    /// A file that cannot be read.
    File(String),
    /// A document or an object that cannot be read.
    Unreadable(ParseError),
    /// Rules that an object breaks.
    Invalid(Vec<Problem>),
    /// Parts that have no effect here.
    Unenforced(String),
    /// An object that another place has too; the last one counts.
    Twice(Place),
}

impl Note {
    /// Whether what it is about does not count.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self.what, What::File(_) | What::Unreadable(_) | What::Invalid(_))
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = &self.place;
        let (kind, namespace, name) = &self.header;
        let slash = if namespace.is_empty() { "" } else { "/" };
        let object = format!("{kind} {namespace}{slash}{name}");
        match &self.what {
            What::File(problem) => f.write_str(problem),
            What::Unreadable(ParseError::Yaml { problem, .. }) => write!(f, "{place}: {problem}"),
            What::Unreadable(error) => write!(f, "{place}: {error}"),
            What::Invalid(problems) => {
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                write!(f, "{place}: {object}: {}", problems.join("; "))
            }
            What::Unenforced(note) => write!(f, "{place}: {object}: {note}"),
            What::Twice(before) => write!(f, "{place}: {object}: it is in {before} too; this one counts"),
        }
    }
}

/// Kind, namespace and name.
pub(crate) type Key = (Kind, String, String);

/// What was read of one cluster.
#[derive(Debug, Default)]
pub(crate) struct Read {
    /// The last of each name counts.
    pub(crate) objects: BTreeMap<Key, Item>,
    /// What is to be said of it, in the order of reading.
    pub(crate) notes: Vec<Note>,
    /// Objects of kinds that no mesh reads.
    pub(crate) others: Vec<Value>,
    /// The files' texts.
    pub(crate) texts: BTreeMap<Arc<str>, String>,
    gateway_api: usize,
    unconditional: usize,
}

impl Read {
    /// Adds what is in a path; objects that cannot be taken are noted by name, and the others stay.
    pub(crate) fn add(&mut self, path: &Path) -> anyhow::Result<()> {
        for (file, text) in files::each(path)? {
            let file: Arc<str> = file.into();
            let text = match text {
                Ok(text) => text,
                Err(error) => {
                    let place = Place { file, document: 0 };
                    self.note(&place, &Value::Null, What::File(format!("{error:#}")));
                    continue;
                }
            };
            for (document, value) in documents(&text) {
                let place = Place { file: Arc::clone(&file), document };
                match value {
                    Ok(value) => self.take(place, value),
                    Err(error) => self.note(&place, &Value::Null, What::Unreadable(error)),
                }
            }
            self.texts.insert(file, text);
        }
        Ok(())
    }

    /// The objects, shared.
    pub(crate) fn objects(&self) -> Vec<Object> {
        self.objects.values().map(|item| item.object.clone()).collect()
    }

    /// Adds one object.
    pub(crate) fn take(&mut self, place: Place, mut value: Value) {
        if value["kind"] == "Endpoints" && value["apiVersion"] == "v1" {
            value = mirrored(&value);
        }
        if self.is_of_no_mesh(&value) {
            self.others.push(value);
            return;
        }
        let unenforced = warnings(&value);
        self.unconditional += usize::from(assume_ready(&mut value));
        let raw = value.clone();
        let object = match parse(value) {
            Ok(object) => object,
            Err(error) => return self.note(&place, &raw, What::Unreadable(error)),
        };
        let problems = validate(&object);
        if !problems.is_empty() {
            return self.note(&place, &raw, What::Invalid(problems));
        }
        for note in unenforced {
            self.note(&place, &raw, What::Unenforced(note));
        }
        let key = key_of(object.kind(), object.meta());
        if let Some(before) = self.objects.get(&key).map(|before| before.place.clone()) {
            self.note(&place, &raw, What::Twice(before));
        }
        self.objects.insert(key, Item { object, raw, place });
    }

    fn note(&mut self, place: &Place, raw: &Value, what: What) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let (kind, meta) = (text(&raw["kind"]), &raw["metadata"]);
        let mut namespace = text(&meta["namespace"]);
        let known = Kind::of(&text(&raw["apiVersion"]), &kind);
        if namespace.is_empty() && known.is_some_and(|kind| kind.names().namespaced) {
            namespace = "default".to_string();
        }
        self.notes.push(Note { place: place.clone(), header: (kind, namespace, text(&meta["name"])), what });
    }

    /// Whether an object is of a kind that no mesh reads.
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
        self.gateway_api += usize::from(group == GATEWAY_API);
        true
    }

    /// What was not looked at, and what was assumed.
    pub(crate) fn left_out(&self) -> Vec<String> {
        let mut said = Vec::new();
        if self.objects.is_empty() {
            said.push("the files have no objects of a mesh".to_string());
        }
        if self.gateway_api > 0 {
            let count = self.gateway_api;
            said.push(format!(
                "{count} objects of {GATEWAY_API} are left out: the Gateway API is not read yet"
            ));
        }
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        let text = |value: &'_ Value| value.as_str().unwrap_or_default().starts_with(GATEWAY_API);
        for other in self.others.iter().filter(|other| !text(&other["apiVersion"])) {
            *kinds.entry(other["kind"].as_str().unwrap_or_default()).or_default() += 1;
        }
        if !kinds.is_empty() {
            let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
            said.push(format!("left out, as a mesh reads no such kind: {}", kinds.join(", ")));
        }
        if self.unconditional > 0 {
            said.push(format!("{} Pods have no conditions and count as ready", self.unconditional));
        }
        said
    }
}

pub(crate) fn key_of(kind: Kind, meta: &Meta) -> Key {
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
