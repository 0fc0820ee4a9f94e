//! Response bodies as shared bytes.
//!
//! A response is one gRPC message of several pieces: a short head of its own stream (frame header, type, version, nonce), then
//! segments that streams share. Protobuf fields may come in any order, so the head can go first.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use isthmus_proto::resource::Resource;
use prost::encoding::{encode_varint, encoded_len_varint};

use crate::flavour::Flavour;
use crate::frame::{HEADER, put_header};

/// Length-delimited field of this number.
const fn tag(number: u64) -> u64 {
    number << 3 | 2
}

/// One response's shared part.
#[derive(Debug, Clone, Default)]
pub struct Part {
    /// Encoded `resources` and `removed_resources` fields.
    pub segments: Vec<Bytes>,
    /// Their length in bytes.
    pub length: usize,
    /// How many resources are in it.
    pub resources: usize,
}

/// What is to be said of one type: one response, or several where the protocol lets a change be split.
#[derive(Debug, Default)]
pub struct Payload {
    /// At least one part.
    pub parts: Vec<Part>,
}

impl Payload {
    /// Says nothing, which still is an answer.
    #[must_use]
    pub fn empty() -> Arc<Self> {
        Arc::new(Self { parts: vec![Part::default()] })
    }

    /// Resources of all parts.
    #[must_use]
    pub fn resources(&self) -> usize {
        self.parts.iter().map(|part| part.resources).sum()
    }

    /// Bytes of all parts.
    #[must_use]
    pub fn length(&self) -> usize {
        self.parts.iter().map(|part| part.length).sum()
    }
}

fn field_len(number: u64, length: usize) -> usize {
    encoded_len_varint(tag(number)) + encoded_len_varint(length as u64) + length
}

fn put_field(out: &mut BytesMut, number: u64, value: &[u8]) {
    put_key(out, number, value.len());
    out.put_slice(value);
}

fn put_key(out: &mut BytesMut, number: u64, length: usize) {
    encode_varint(tag(number), out);
    encode_varint(length as u64, out);
}

/// 16 lower-case hexadecimal digits.
#[must_use]
pub fn version_text(version: u64) -> String {
    format!("{version:016x}")
}

/// Length of the `resources` field for one resource.
pub(crate) fn resource_len(flavour: Flavour, type_url: &str, resource: &Resource) -> usize {
    let any = field_len(1, type_url.len()) + field_len(2, resource.body.len());
    match flavour {
        Flavour::World => field_len(2, any),
        Flavour::Delta => {
            field_len(2, field_len(1, 16) + field_len(2, any) + field_len(3, resource.name.len()))
        }
    }
}

/// Appends the `resources` field for one resource: `Any` in state of the world; `Resource` with version and name in delta.
pub(crate) fn put_resource(out: &mut BytesMut, flavour: Flavour, type_url: &str, resource: &Resource) {
    let any = field_len(1, type_url.len()) + field_len(2, resource.body.len());
    if flavour == Flavour::Delta {
        put_key(out, 2, field_len(1, 16) + field_len(2, any) + field_len(3, resource.name.len()));
        put_field(out, 1, version_text(resource.version).as_bytes());
        put_field(out, 3, resource.name.as_bytes());
    }
    put_key(out, 2, any);
    put_field(out, 1, type_url.as_bytes());
    put_field(out, 2, &resource.body);
}

/// Appends `removed_resources`.
pub(crate) fn put_removed(out: &mut BytesMut, name: &str) {
    put_field(out, 6, name.as_bytes());
}

/// Length of a `removed_resources` entry.
pub(crate) fn removed_len(name: &str) -> usize {
    field_len(6, name.len())
}

/// The stream's own piece: frame header for the whole message, then version, type and nonce.
pub(crate) fn head(type_url: &str, version: u64, nonce: &str, part: &Part) -> Bytes {
    let version = version.to_string();
    let own = field_len(1, version.len()) + field_len(4, type_url.len()) + field_len(5, nonce.len());
    let mut out = BytesMut::with_capacity(HEADER + own);
    put_header(&mut out, own + part.length);
    put_field(&mut out, 1, version.as_bytes());
    put_field(&mut out, 4, type_url.as_bytes());
    put_field(&mut out, 5, nonce.as_bytes());
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};
    use prost::Message;

    #[test]
    fn both_flavours_decode_as_the_messages_of_the_protocol() {
        let url = "type.googleapis.com/test.Thing";
        let resource = Resource::new("a|b", Bytes::from(vec![7; 300]));
        for flavour in [Flavour::World, Flavour::Delta] {
            let mut body = BytesMut::new();
            put_resource(&mut body, flavour, url, &resource);
            assert_eq!(body.len(), resource_len(flavour, url, &resource));
            if flavour == Flavour::Delta {
                put_removed(&mut body, "gone");
            }
            let part = Part { length: body.len(), segments: vec![body.freeze()], resources: 1 };
            let mut message = head(url, 9, "n1", &part).to_vec();
            message.extend_from_slice(&part.segments[0]);
            assert_eq!(
                message.len() - HEADER,
                u32::from_be_bytes(message[1..5].try_into().unwrap()) as usize
            );
            match flavour {
                Flavour::World => {
                    let read = DiscoveryResponse::decode(&message[HEADER..]).unwrap();
                    assert_eq!((read.version_info.as_str(), read.nonce.as_str()), ("9", "n1"));
                    assert_eq!(read.resources[0].type_url, url);
                    assert_eq!(read.resources[0].value, resource.body);
                }
                Flavour::Delta => {
                    let read = DeltaDiscoveryResponse::decode(&message[HEADER..]).unwrap();
                    assert_eq!(read.removed_resources, ["gone"]);
                    assert_eq!(read.resources[0].name, "a|b");
                    assert_eq!(read.resources[0].version, version_text(resource.version));
                    assert_eq!(read.resources[0].resource.as_ref().unwrap().value, resource.body);
                }
            }
        }
    }
}
