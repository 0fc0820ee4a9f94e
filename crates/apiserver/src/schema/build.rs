//! Building the tree from OpenAPI definitions and from the schemas of CRDs.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{ListType, Node, Rules, Type};

/// Prefix of a reference in the definitions.
const REFERENCE: &str = "#/components/schemas/";

/// Kubernetes' own definitions, as published by 1.36.3 for the kinds we serve.
pub(crate) struct Definitions {
    raw: Map<String, Value>,
    built: HashMap<String, Arc<Node>>,
}

impl Definitions {
    /// Reads the definitions that come with the program.
    pub(crate) fn load() -> Self {
        let text = include_str!("../../data/kubernetes-1.36.3.json");
        let raw = match serde_json::from_str(text) {
            Ok(Value::Object(raw)) => raw,
            _ => Map::new(),
        };
        Self { raw, built: HashMap::new() }
    }

    /// The definitions as they are, for publication.
    pub(crate) fn raw(&self) -> &Map<String, Value> {
        &self.raw
    }

    /// The tree of one definition.
    pub(crate) fn node(&mut self, name: &str) -> Arc<Node> {
        let mut open = Vec::new();
        self.resolve(name, &mut open)
    }

    fn resolve(&mut self, name: &str, open: &mut Vec<String>) -> Arc<Node> {
        if let Some(node) = self.built.get(name) {
            return Arc::clone(node);
        }
        // Only the schemas of CRDs refer to themselves; they are checked by the CRD's own rules.
        if open.iter().any(|other| other == name) {
            return Arc::new(Node::any());
        }
        let Some(raw) = self.raw.get(name).cloned() else { return Arc::new(Node::any()) };
        open.push(name.to_string());
        let mut node = self.build(&raw, open);
        open.pop();
        node.go_type = name.rsplit('.').next().map(str::to_string);
        special(name, &mut node);
        let node = Arc::new(node);
        self.built.insert(name.to_string(), Arc::clone(&node));
        node
    }

    fn child(&mut self, raw: &Value, open: &mut Vec<String>) -> Arc<Node> {
        if let Some(name) = reference(raw) {
            let target = self.resolve(name, open);
            let (list_type, atomic, merge_key) = (list_type(raw), map_atomic(raw), merge_key(raw));
            if list_type == ListType::Atomic && !atomic && merge_key.is_none() {
                return target;
            }
            let mut node = (*target).clone();
            node.map_atomic |= atomic;
            node.merge_key = merge_key;
            return Arc::new(node);
        }
        Arc::new(self.build(raw, open))
    }

    fn build(&mut self, raw: &Value, open: &mut Vec<String>) -> Node {
        let mut node = Node {
            kind: type_of(raw),
            list_type: list_type(raw),
            map_atomic: map_atomic(raw),
            merge_key: merge_key(raw),
            int_or_string: raw["format"] == "int-or-string",
            bytes: raw["format"] == "byte",
            rules: Rules::required_only(raw).map(Box::new),
            // Only read to tell list items apart: the port's protocol.
            default: raw
                .get("default")
                .filter(|value| value.as_str() != Some("") && !value.is_object())
                .cloned(),
            ..Node::default()
        };
        // Kubernetes' decoder takes null for an absent value everywhere.
        node.nullable = true;
        if let Some(properties) = raw["properties"].as_object() {
            for (key, value) in properties.clone() {
                let child = self.child(&value, open);
                node.properties.insert(key, child);
            }
        }
        if raw["additionalProperties"].is_object() {
            node.additional = Some(self.child(&raw["additionalProperties"].clone(), open));
        }
        if raw["items"].is_object() {
            node.items = Some(self.child(&raw["items"].clone(), open));
        }
        let free_object =
            node.kind == Some(Type::Object) && node.properties.is_empty() && node.additional.is_none();
        node.preserve_unknown = free_object || node.is_unknown();
        node
    }
}

/// Definitions whose JSON is not what their schema says.
fn special(name: &str, node: &mut Node) {
    let short = name.rsplit('.').next().unwrap_or(name);
    match short {
        "Quantity" | "IntOrString" => {
            *node = Node { int_or_string: true, nullable: true, ..Node::default() };
            node.preserve_unknown = true;
        }
        "FieldsV1" | "RawExtension" | "JSON" => *node = Node { nullable: true, ..Node::any() },
        "JSONSchemaProps" => *node = Node { kind: Some(Type::Object), map_atomic: true, ..Node::any() },
        _ => {}
    }
}

/// The tree of a CRD's `openAPIV3Schema`, with the fields that every object has.
pub(crate) fn from_crd(schema: &Value, metadata: &Arc<Node>) -> Node {
    let mut node = structural(schema);
    node.kind = Some(Type::Object);
    let text = Arc::new(Node { kind: Some(Type::String), ..Node::default() });
    node.properties.insert("apiVersion".to_string(), Arc::clone(&text));
    node.properties.insert("kind".to_string(), text);
    node.properties.insert("metadata".to_string(), Arc::clone(metadata));
    node
}

fn structural(raw: &Value) -> Node {
    let mut node = Node {
        kind: type_of(raw),
        list_type: list_type(raw),
        map_atomic: map_atomic(raw),
        nullable: raw["nullable"] == true,
        preserve_unknown: raw["x-kubernetes-preserve-unknown-fields"] == true,
        int_or_string: raw["x-kubernetes-int-or-string"] == true,
        embedded_resource: raw["x-kubernetes-embedded-resource"] == true,
        default: raw.get("default").cloned(),
        rules: Rules::of(raw).map(Box::new),
        ..Node::default()
    };
    if let Some(properties) = raw["properties"].as_object() {
        for (key, value) in properties {
            node.properties.insert(key.clone(), Arc::new(structural(value)));
        }
    }
    match &raw["additionalProperties"] {
        Value::Object(_) => node.additional = Some(Arc::new(structural(&raw["additionalProperties"]))),
        Value::Bool(true) => node.additional = Some(Arc::new(Node::any())),
        _ => {}
    }
    if raw["items"].is_object() {
        node.items = Some(Arc::new(structural(&raw["items"])));
    }
    node
}

fn reference(raw: &Value) -> Option<&str> {
    let direct = raw["$ref"].as_str();
    let wrapped = || raw["allOf"].as_array().filter(|all| all.len() == 1)?.first()?["$ref"].as_str();
    direct.or_else(wrapped)?.strip_prefix(REFERENCE)
}

fn type_of(raw: &Value) -> Option<Type> {
    Some(match raw["type"].as_str()? {
        "object" => Type::Object,
        "array" => Type::Array,
        "string" => Type::String,
        "integer" => Type::Integer,
        "number" => Type::Number,
        "boolean" => Type::Boolean,
        _ => return None,
    })
}

fn list_type(raw: &Value) -> ListType {
    match raw["x-kubernetes-list-type"].as_str() {
        Some("set") => ListType::Set,
        Some("map") => {
            let keys = raw["x-kubernetes-list-map-keys"].as_array();
            let keys = keys.into_iter().flatten().filter_map(|key| key.as_str().map(str::to_string));
            ListType::Map(keys.collect())
        }
        _ => ListType::Atomic,
    }
}

fn map_atomic(raw: &Value) -> bool {
    raw["x-kubernetes-map-type"] == "atomic"
}

fn merge_key(raw: &Value) -> Option<String> {
    let strategy = raw["x-kubernetes-patch-strategy"].as_str()?;
    if !strategy.split(',').any(|one| one == "merge") {
        return None;
    }
    Some(raw["x-kubernetes-patch-merge-key"].as_str().unwrap_or_default().to_string())
}
