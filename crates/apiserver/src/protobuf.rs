//! Kubernetes' protobuf bodies, which kubectl's generators send: decoded to the same JSON that everything else reads.
//!
//! Answers are always JSON; clients that send protobuf accept it.

use std::collections::HashMap;
use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value};

/// The media type.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";
/// Messages inside messages at most.
const DEPTH: usize = 32;

/// Why a body is not readable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error("it does not begin as a Kubernetes protobuf body")]
    Magic,
    #[error("it ends in the middle of a field")]
    Truncated,
    #[error("field {field} of {message} has wire type {wire}")]
    WireType { message: String, field: u64, wire: u64 },
    #[error("{0} is not known here in protobuf; send JSON")]
    Unknown(String),
    #[error("messages are nested too deeply")]
    Depth,
}

/// A field of a message: its JSON name and its type.
struct Field {
    name: String,
    list: bool,
    map: bool,
    kind: String,
}

type Messages = HashMap<String, HashMap<u64, Field>>;

fn messages() -> &'static Messages {
    static MESSAGES: OnceLock<Messages> = OnceLock::new();
    MESSAGES.get_or_init(|| {
        let text = include_str!("../data/protobuf-1.36.3.json");
        let raw: HashMap<String, HashMap<String, String>> = serde_json::from_str(text).unwrap_or_default();
        let field = |(number, text): (String, String)| {
            let (name, kind) = text.split_once(':')?;
            let (list, map) = (kind.starts_with("[]"), kind.starts_with("{}"));
            let kind = kind.trim_start_matches(['[', ']', '{', '}']).to_string();
            Some((number.parse().ok()?, Field { name: name.to_string(), list, map, kind }))
        };
        raw.into_iter().map(|(name, fields)| (name, fields.into_iter().filter_map(field).collect())).collect()
    })
}

/// One field on the wire.
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(DecodeError::Truncated)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Truncated)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    /// The next field; nothing at the end.
    fn field(&mut self, message: &str) -> Result<Option<(u64, Wire<'a>)>, DecodeError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let (field, wire) = (tag >> 3, tag & 7);
        let fixed =
            |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |value, byte| (value << 8) | u64::from(*byte));
        let value = match wire {
            0 => Wire::Number(self.varint()?),
            1 => Wire::Number(fixed(self.take(8)?)),
            5 => Wire::Number(fixed(self.take(4)?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| DecodeError::Truncated)?;
                Wire::Bytes(self.take(length)?)
            }
            _ => return Err(DecodeError::WireType { message: message.to_string(), field, wire }),
        };
        Ok(Some((field, value)))
    }
}

fn text(wire: &Wire<'_>) -> String {
    match wire {
        Wire::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Wire::Number(number) => number.to_string(),
    }
}

/// A whole body: the envelope (`runtime.Unknown`) and the object in it.
pub(crate) fn decode(body: &[u8]) -> Result<Value, DecodeError> {
    let mut reader = Reader(body.strip_prefix(MAGIC).ok_or(DecodeError::Magic)?);
    let (mut api_version, mut kind, mut raw): (String, String, &[u8]) = (String::new(), String::new(), &[]);
    while let Some((field, value)) = reader.field("Unknown")? {
        match (field, value) {
            (1, Wire::Bytes(meta)) => {
                let mut meta = Reader(meta);
                while let Some((field, value)) = meta.field("TypeMeta")? {
                    match field {
                        1 => api_version = text(&value),
                        2 => kind = text(&value),
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let group = match api_version.split_once('/') {
        Some((group, version)) => format!("{}.{version}", group.split('.').next().unwrap_or(group)),
        None => format!("core.{api_version}"),
    };
    let name =
        if kind == "DeleteOptions" { "meta.v1.DeleteOptions".to_string() } else { format!("{group}.{kind}") };
    let mut value = message(&name, raw, 0)?;
    value["apiVersion"] = api_version.into();
    value["kind"] = kind.into();
    Ok(value)
}

fn message(name: &str, bytes: &[u8], depth: usize) -> Result<Value, DecodeError> {
    if depth > DEPTH {
        return Err(DecodeError::Depth);
    }
    let fields = messages().get(name).ok_or_else(|| DecodeError::Unknown(name.to_string()))?;
    let mut reader = Reader(bytes);
    let mut object = Map::new();
    while let Some((number, wire)) = reader.field(name)? {
        let Some(field) = fields.get(&number) else { continue };
        if field.map {
            let Wire::Bytes(entry) = wire else { continue };
            let (key, value) = map_entry(field, entry, depth)?;
            let map = object.entry(field.name.clone()).or_insert_with(|| Value::Object(Map::new()));
            if let Some(map) = map.as_object_mut() {
                map.insert(key, value);
            }
            continue;
        }
        let value = scalar(name, number, &field.kind, &wire, depth)?;
        if field.list {
            let list = object.entry(field.name.clone()).or_insert_with(|| Value::Array(Vec::new()));
            if let Some(list) = list.as_array_mut() {
                list.push(value);
            }
        } else {
            object.insert(field.name.clone(), value);
        }
    }
    // The wire says empty where JSON leaves out.
    object.retain(|_, value| !(value.is_null() || *value == "" || *value == 0));
    Ok(special(name, object))
}

fn map_entry(field: &Field, bytes: &[u8], depth: usize) -> Result<(String, Value), DecodeError> {
    let mut reader = Reader(bytes);
    let (mut key, mut value) = (String::new(), Value::String(String::new()));
    while let Some((number, wire)) = reader.field("map")? {
        match number {
            1 => key = text(&wire),
            2 => value = scalar("map", number, &field.kind, &wire, depth)?,
            _ => {}
        }
    }
    Ok((key, value))
}

fn scalar(of: &str, field: u64, kind: &str, wire: &Wire<'_>, depth: usize) -> Result<Value, DecodeError> {
    let wrong = |wire| DecodeError::WireType { message: of.to_string(), field, wire };
    Ok(match (kind, wire) {
        ("s", Wire::Bytes(_)) => text(wire).into(),
        ("y", Wire::Bytes(bytes)) => BASE64.encode(bytes).into(),
        ("b", Wire::Number(number)) => (*number != 0).into(),
        ("i", Wire::Number(number)) => number.cast_signed().into(),
        ("d", Wire::Number(number)) => f64::from_bits(*number).into(),
        ("s" | "y", Wire::Number(_)) => return Err(wrong(0)),
        ("b" | "i" | "d", Wire::Bytes(_)) => return Err(wrong(2)),
        (_, Wire::Bytes(bytes)) => message(kind, bytes, depth + 1)?,
        (_, Wire::Number(_)) => return Err(wrong(0)),
    })
}

/// Messages whose JSON is not an object of their fields.
fn special(name: &str, mut object: Map<String, Value>) -> Value {
    match name {
        "meta.v1.Time" | "meta.v1.MicroTime" | "meta.v1.Timestamp" => {
            let Some(seconds) = object.get("seconds").and_then(Value::as_i64) else { return Value::Null };
            let nanos =
                object.get("nanos").and_then(Value::as_i64).and_then(|nanos| i32::try_from(nanos).ok());
            let Ok(at) = jiff::Timestamp::new(seconds, nanos.unwrap_or(0)) else { return Value::Null };
            let form =
                if name == "meta.v1.MicroTime" { "%Y-%m-%dT%H:%M:%S.%6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
            at.strftime(form).to_string().into()
        }
        "resource.Quantity" => object.remove("string").unwrap_or_else(|| "0".into()),
        "intstr.IntOrString" => match object.remove("strVal") {
            Some(text) => text,
            None => object.remove("intVal").unwrap_or_else(|| 0.into()),
        },
        "meta.v1.FieldsV1" | "runtime.RawExtension" => {
            let raw = object.remove("Raw").or_else(|| object.remove("raw"));
            let bytes = raw.and_then(|raw| BASE64.decode(raw.as_str()?).ok()).unwrap_or_default();
            serde_json::from_slice(&bytes).unwrap_or(Value::Null)
        }
        "authentication.v1.ExtraValue" | "authorization.v1.ExtraValue" => {
            object.remove("items").unwrap_or_else(|| Value::Array(Vec::new()))
        }
        _ => Value::Object(object),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(bytes.len()).expect("a short field")];
        out.extend_from_slice(bytes);
        out
    }

    fn body(kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [field(1, b"v1"), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &meta), field(2, raw)].concat()
    }

    #[test]
    fn a_service_reads_as_its_json() {
        let port =
            [field(1, b"http"), vec![3 << 3, 80], field(4, &[vec![1 << 3, 0], vec![2 << 3, 90]].concat())]
                .concat();
        let selector = field(2, &[field(1, b"app"), field(2, b"web")].concat());
        let spec = field(2, &[field(1, &port), selector, field(3, b"")].concat());
        let metadata = field(1, &field(1, b"web"));
        let value = decode(&body("Service", &[metadata, spec].concat())).expect("it decodes");
        let expected = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {
            "ports": [{"name": "http", "port": 80, "targetPort": 90}], "selector": {"app": "web"}}});
        assert_eq!(value, expected);
    }

    #[test]
    fn what_is_cut_or_unknown_is_an_error() {
        let whole = body("Service", &field(1, &field(1, b"web")));
        for end in 0..whole.len() - 1 {
            // Cut at a field's border it is a smaller message: no error, and no panic either.
            let _ = decode(&whole[..end]);
        }
        assert_eq!(decode(b"{}"), Err(DecodeError::Magic));
        assert!(matches!(decode(&body("Nothing", b"")), Err(DecodeError::Unknown(_))));
        assert_eq!(decode(&body("Service", &[0x0a, 0x7f])), Err(DecodeError::Truncated));
    }
}
