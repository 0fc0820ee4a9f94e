//! The value rules of a schema: what a value must be beyond its type.

use regex::Regex;
use serde_json::Value;

use super::Node;

/// Value rules of one schema.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    pub(crate) required: Vec<String>,
    pub(crate) choices: Option<Vec<Value>>,
    pub(crate) pattern: Option<Regex>,
    pub(crate) format: Option<String>,
    pub(crate) minimum: Option<(f64, bool)>,
    pub(crate) maximum: Option<(f64, bool)>,
    pub(crate) multiple_of: Option<f64>,
    pub(crate) min_length: Option<usize>,
    pub(crate) max_length: Option<usize>,
    pub(crate) min_items: Option<usize>,
    pub(crate) max_items: Option<usize>,
    pub(crate) min_properties: Option<usize>,
    pub(crate) max_properties: Option<usize>,
    pub(crate) unique: bool,
    pub(crate) all_of: Vec<Node>,
    pub(crate) any_of: Vec<Node>,
    pub(crate) one_of: Vec<Node>,
    pub(crate) not: Option<Box<Node>>,
}

impl Rules {
    /// Only what must be there.
    pub(super) fn required_only(raw: &Value) -> Option<Self> {
        let required = required(raw);
        (!required.is_empty()).then(|| Self { required, ..Self::default() })
    }

    /// All rules of a CRD's schema. A pattern that does not compile is dropped: the CRD's own check reports it.
    pub(super) fn of(raw: &Value) -> Option<Self> {
        let size = |key: &str| raw[key].as_u64().and_then(|size| usize::try_from(size).ok());
        let bound = |key: &str, exclusive: &str| {
            raw[key].as_f64().map(|bound| (bound, raw[exclusive].as_bool().unwrap_or(false)))
        };
        let nodes = |key: &str| {
            raw[key].as_array().map(|all| all.iter().map(junctor).collect::<Vec<_>>()).unwrap_or_default()
        };
        let rules = Self {
            required: required(raw),
            choices: raw["enum"].as_array().cloned(),
            pattern: raw["pattern"].as_str().and_then(|pattern| Regex::new(pattern).ok()),
            format: raw["format"].as_str().map(str::to_string),
            minimum: bound("minimum", "exclusiveMinimum"),
            maximum: bound("maximum", "exclusiveMaximum"),
            multiple_of: raw["multipleOf"].as_f64(),
            min_length: size("minLength"),
            max_length: size("maxLength"),
            min_items: size("minItems"),
            max_items: size("maxItems"),
            min_properties: size("minProperties"),
            max_properties: size("maxProperties"),
            unique: raw["uniqueItems"] == true,
            all_of: nodes("allOf"),
            any_of: nodes("anyOf"),
            one_of: nodes("oneOf"),
            not: raw["not"].is_object().then(|| Box::new(junctor(&raw["not"]))),
        };
        (!rules.is_empty()).then_some(rules)
    }

    fn is_empty(&self) -> bool {
        self.required.is_empty()
            && self.choices.is_none()
            && self.pattern.is_none()
            && self.format.is_none()
            && self.minimum.is_none()
            && self.maximum.is_none()
            && self.multiple_of.is_none()
            && self.min_length.is_none()
            && self.max_length.is_none()
            && self.min_items.is_none()
            && self.max_items.is_none()
            && self.min_properties.is_none()
            && self.max_properties.is_none()
            && !self.unique
            && self.all_of.is_empty()
            && self.any_of.is_empty()
            && self.one_of.is_empty()
            && self.not.is_none()
    }
}

/// Inside `allOf`, `anyOf`, `oneOf` and `not` a schema only tests values; it declares no fields.
fn junctor(raw: &Value) -> Node {
    let mut node = super::from_crd(raw, &std::sync::Arc::new(Node::any()));
    if !raw["type"].is_string() {
        node.kind = None;
    }
    for own in ["apiVersion", "kind", "metadata"] {
        if raw["properties"].get(own).is_none() {
            node.properties.remove(own);
        }
    }
    node
}

fn required(raw: &Value) -> Vec<String> {
    let names = raw["required"].as_array().into_iter().flatten();
    names.filter_map(|name| name.as_str().map(str::to_string)).collect()
}
