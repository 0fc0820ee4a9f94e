//! Sets of field paths, in the notation of `fieldsV1`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::schema::{ListType, Node};

/// A set of paths as a tree. Children are keyed as `fieldsV1` writes them: `f:name`, `k:{"key":1}`, `v:value`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FieldSet {
    /// Whether the path to here is itself in the set.
    pub(super) member: bool,
    pub(super) children: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    pub(super) fn is_empty(&self) -> bool {
        !self.member && self.children.values().all(FieldSet::is_empty)
    }

    /// Adds a path.
    pub(super) fn insert(&mut self, path: &[String]) {
        match path.split_first() {
            None => self.member = true,
            Some((first, rest)) => self.children.entry(first.clone()).or_default().insert(rest),
        }
    }

    pub(super) fn child_mut(&mut self, element: &str) -> &mut FieldSet {
        self.children.entry(element.to_string()).or_default()
    }

    pub(super) fn union(&mut self, other: &Self) {
        self.member |= other.member;
        for (element, child) in &other.children {
            self.child_mut(element).union(child);
        }
    }

    #[must_use]
    pub(super) fn intersection(&self, other: &Self) -> Self {
        let both = |(element, child): (&String, &FieldSet)| {
            let common = child.intersection(other.children.get(element)?);
            (!common.is_empty()).then(|| (element.clone(), common))
        };
        Self {
            member: self.member && other.member,
            children: self.children.iter().filter_map(both).collect(),
        }
    }

    #[must_use]
    pub(super) fn difference(&self, other: &Self) -> Self {
        let left = |(element, child): (&String, &FieldSet)| {
            let left = match other.children.get(element) {
                Some(taken) => child.difference(taken),
                None => child.clone(),
            };
            (!left.is_empty()).then(|| (element.clone(), left))
        };
        Self {
            member: self.member && !other.member,
            children: self.children.iter().filter_map(left).collect(),
        }
    }

    /// Reads `fieldsV1`; what is not an object counts as a leaf.
    pub(super) fn parse(value: &Value) -> Self {
        let Some(fields) = value.as_object() else { return Self { member: true, ..Self::default() } };
        let mut set = Self::default();
        for (element, child) in fields {
            if element == "." {
                set.member = true;
                continue;
            }
            let mut parsed = Self::parse(child);
            if child.as_object().is_some_and(Map::is_empty) {
                parsed.member = true;
            }
            set.children.insert(element.clone(), parsed);
        }
        set
    }

    /// Writes `fieldsV1`.
    pub(super) fn to_value(&self) -> Value {
        let mut fields = Map::new();
        if self.member && !self.children.is_empty() {
            fields.insert(".".to_string(), Value::Object(Map::new()));
        }
        for (element, child) in &self.children {
            fields.insert(element.clone(), child.to_value());
        }
        Value::Object(fields)
    }

    /// The paths as Kubernetes prints them: `.spec.ports[port=80,protocol="TCP"].name`.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect("", &mut paths);
        paths
    }

    fn collect(&self, at: &str, paths: &mut Vec<String>) {
        if self.member && !at.is_empty() {
            paths.push(at.to_string());
        }
        for (element, child) in &self.children {
            child.collect(&format!("{at}{}", printed(element)), paths);
        }
    }
}

fn printed(element: &str) -> String {
    if let Some(name) = element.strip_prefix("f:") {
        return format!(".{name}");
    }
    if let Some(Ok(Value::Object(keys))) = element.strip_prefix("k:").map(serde_json::from_str) {
        let keys: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
        return format!("[{}]", keys.join(","));
    }
    format!("[={}]", element.strip_prefix("v:").unwrap_or(element))
}

/// How a value is taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// As one value.
    Leaf,
    /// By its keys.
    Map,
    /// By its items' identities.
    List,
}

/// How a value under a node is taken apart. Where nothing is known, objects are maps and lists are leaves.
pub(super) fn shape(value: &Value, node: Option<&Node>) -> Shape {
    match value {
        Value::Object(_) => match node {
            Some(node) if node.map_atomic => Shape::Leaf,
            _ => Shape::Map,
        },
        Value::Array(_) => match node.map(|node| &node.list_type) {
            Some(ListType::Set | ListType::Map(_)) => Shape::List,
            Some(ListType::Atomic) | None => Shape::Leaf,
        },
        _ => Shape::Leaf,
    }
}

pub(super) fn field_element(name: &str) -> String {
    format!("f:{name}")
}

/// The identity of a list's item.
pub(super) fn item_element(item: &Value, list: Option<&Node>) -> String {
    let Some(list) = list else { return format!("v:{item}") };
    match &list.list_type {
        ListType::Map(keys) => {
            let mut identity = Map::new();
            for key in keys {
                let default =
                    || list.items.as_ref()?.properties.get(key).and_then(|field| field.default.clone());
                if let Some(value) = item.get(key).cloned().or_else(default) {
                    identity.insert(key.clone(), value);
                }
            }
            format!("k:{}", Value::Object(identity))
        }
        ListType::Set | ListType::Atomic => format!("v:{item}"),
    }
}

/// The set of all fields of a value.
pub(super) fn fields_of(value: &Value, node: Option<&Node>) -> FieldSet {
    let mut set = FieldSet::default();
    match (shape(value, node), value) {
        (Shape::Map, Value::Object(fields)) => {
            for (key, field) in fields {
                let child = node.and_then(|node| node.field(key));
                let mut below = fields_of(field, child);
                let declared = node.is_some_and(|node| node.declares(key));
                let empty = field.is_null() || field.as_object().is_some_and(Map::is_empty);
                below.member |= empty || !declared;
                set.children.insert(field_element(key), below);
            }
        }
        (Shape::List, Value::Array(items)) => {
            for item in items {
                let mut below = fields_of(item, node.and_then(|node| node.items.as_deref()));
                below.member = true;
                set.children.insert(item_element(item, node), below);
            }
        }
        _ => set.member = true,
    }
    set
}
