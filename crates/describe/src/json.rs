//! Messages to JSON, by the rules of protobuf's JSON form, with the definitions' own field names.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage as _, Value as Field};
use serde_json::{Map, Number, Value, json};
use thiserror::Error;

use crate::descriptors;

/// A body that is not the message that it is said to be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("not a {type_url}: {problem}")]
pub struct Undecodable {
    /// What it is said to be.
    pub type_url: String,
    /// Why it is not.
    pub problem: String,
}

/// An encoded message as JSON. A type that nobody here knows, at the top or within, is written as its bytes in base64:
/// `{"@type": URL, "value": BASE64}`.
///
/// # Errors
/// When the body, or that of a known message inside an `Any` of it, cannot be decoded.
pub fn to_json(type_url: &str, body: &[u8]) -> Result<Value, Undecodable> {
    match decode(type_url, body)? {
        Some(message) => written(&message),
        None => Ok(unknown(type_url, body)),
    }
}

fn decode(type_url: &str, body: &[u8]) -> Result<Option<DynamicMessage>, Undecodable> {
    let Some(descriptor) = descriptors::message(type_url) else { return Ok(None) };
    let refuse = |error: prost::DecodeError| Undecodable {
        type_url: type_url.to_string(),
        problem: error.to_string(),
    };
    DynamicMessage::decode(descriptor, body).map(Some).map_err(refuse)
}

fn unknown(type_url: &str, body: &[u8]) -> Value {
    json!({"@type": type_url, "value": STANDARD.encode(body)})
}

fn written(message: &DynamicMessage) -> Result<Value, Undecodable> {
    let descriptor = message.descriptor();
    if descriptor.package_name() == "google.protobuf"
        && let Some(special) = well_known(descriptor.name(), message)
    {
        return special;
    }
    let mut members = Map::new();
    for (field, value) in message.fields() {
        members.insert(field.name().to_string(), any_number(&field, value)?);
    }
    Ok(Value::Object(members))
}

/// Messages with a form of their own.
fn well_known(name: &str, message: &DynamicMessage) -> Option<Result<Value, Undecodable>> {
    let field = |number: u32| message.get_field_by_number(number).map(|field| field.into_owned());
    let integer = |number: u32| match field(number) {
        Some(Field::I64(value)) => value,
        Some(Field::I32(value)) => i64::from(value),
        _ => 0,
    };
    Some(match name {
        "Any" => any(message),
        "Duration" => Ok(duration(integer(1), integer(2)).into()),
        "Struct" => match field(1) {
            Some(Field::Map(entries)) => map(entries.iter(), &Kind::Message(message.descriptor())),
            _ => Ok(json!({})),
        },
        "ListValue" => match field(1) {
            Some(Field::List(items)) => items.iter().map(nested).collect(),
            _ => Ok(json!([])),
        },
        // the one field that is set; none is null too
        "Value" => match message.fields().next() {
            Some((set, value)) if set.number() != 1 => any_number(&set, value),
            _ => Ok(Value::Null),
        },
        "BoolValue" | "UInt32Value" | "UInt64Value" | "Int32Value" | "Int64Value" | "DoubleValue"
        | "FloatValue" | "StringValue" | "BytesValue" => {
            let descriptor = message.descriptor().get_field(1)?;
            any_number(&descriptor, &message.get_field(&descriptor))
        }
        _ => return None,
    })
}

/// A message of the given type inside its envelope.
fn any(message: &DynamicMessage) -> Result<Value, Undecodable> {
    let field = |number: u32| message.get_field_by_number(number).map(|field| field.into_owned());
    let (Some(Field::String(type_url)), Some(Field::Bytes(body))) = (field(1), field(2)) else {
        return Ok(json!({}));
    };
    if type_url.is_empty() {
        return Ok(json!({}));
    }
    let Some(inner) = decode(&type_url, &body)? else { return Ok(unknown(&type_url, &body)) };
    Ok(match written(&inner)? {
        Value::Object(members) if !has_own_form(&inner) => {
            let mut all = Map::from_iter([("@type".to_string(), Value::from(type_url))]);
            all.extend(members);
            Value::Object(all)
        }
        value => json!({"@type": type_url, "value": value}),
    })
}

fn has_own_form(message: &DynamicMessage) -> bool {
    let descriptor = message.descriptor();
    descriptor.package_name() == "google.protobuf" && descriptor.name() != "Empty"
}

/// `10s`, `0.250s`, `-1.000000001s`: no digits, or 3, 6 or 9 of them.
fn duration(seconds: i64, nanos: i64) -> String {
    let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
    let (seconds, nanos) = (seconds.unsigned_abs(), nanos.unsigned_abs());
    match nanos {
        0 => format!("{sign}{seconds}s"),
        n if n % 1_000_000 == 0 => format!("{sign}{seconds}.{:03}s", n / 1_000_000),
        n if n % 1_000 == 0 => format!("{sign}{seconds}.{:06}s", n / 1_000),
        n => format!("{sign}{seconds}.{n:09}s"),
    }
}

/// A field with one value, several, or a map of them.
fn any_number(field: &FieldDescriptor, value: &Field) -> Result<Value, Undecodable> {
    match value {
        Field::List(items) => items.iter().map(|item| single(&field.kind(), item)).collect(),
        Field::Map(entries) => {
            let entry = field.kind();
            let of = entry.as_message().map_or(entry.clone(), |entry| entry.map_entry_value_field().kind());
            map(entries.iter(), &of)
        }
        one => single(&field.kind(), one),
    }
}

fn map<'a>(
    entries: impl Iterator<Item = (&'a MapKey, &'a Field)>,
    kind: &Kind,
) -> Result<Value, Undecodable> {
    let mut sorted: Vec<(String, &Field)> = entries.map(|(key, value)| (key_text(key), value)).collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    let pairs = sorted.into_iter().map(|(key, value)| Ok((key, single(kind, value)?)));
    pairs.collect::<Result<Map<_, _>, _>>().map(Value::Object)
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(value) => value.to_string(),
        MapKey::I32(value) => value.to_string(),
        MapKey::I64(value) => value.to_string(),
        MapKey::U32(value) => value.to_string(),
        MapKey::U64(value) => value.to_string(),
        MapKey::String(value) => value.clone(),
    }
}

fn nested(value: &Field) -> Result<Value, Undecodable> {
    match value {
        Field::Message(message) => written(message),
        _ => Ok(Value::Null),
    }
}

fn single(kind: &Kind, value: &Field) -> Result<Value, Undecodable> {
    Ok(match value {
        Field::Bool(value) => (*value).into(),
        Field::I32(value) => (*value).into(),
        Field::U32(value) => (*value).into(),
        // 64 bits are more than a JSON number holds everywhere
        Field::I64(value) => value.to_string().into(),
        Field::U64(value) => value.to_string().into(),
        Field::F32(value) => float(f64::from(*value)),
        Field::F64(value) => float(*value),
        Field::String(value) => value.as_str().into(),
        Field::Bytes(value) => STANDARD.encode(value).into(),
        Field::EnumNumber(number) => match kind.as_enum().and_then(|kind| kind.get_value(*number)) {
            Some(known) => known.name().into(),
            None => (*number).into(),
        },
        Field::Message(message) => written(message)?,
        Field::List(_) | Field::Map(_) => Value::Null,
    })
}

/// Whole numbers without a point; what is no number as the word that protobuf has for it.
fn float(value: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() < EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "whole and below 2^53")]
        return (value as i64).into();
    }
    let word = match value {
        v if v.is_nan() => "NaN",
        v if v > 0.0 => "Infinity",
        _ => "-Infinity",
    };
    Number::from_f64(value).map_or_else(|| word.into(), Value::Number)
}

#[cfg(test)]
mod tests;
