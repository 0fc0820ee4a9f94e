//! From Envoy's resources to the proxy's own compact tables.
//!
//! A resource is taken over whole or not at all. Fields that change nothing here (statistics, access log sinks, buffer
//! sizes) are passed over; a field whose meaning would be lost is refused by its path, so that the control plane learns of
//! it instead of a user.

pub(crate) mod assignment;
pub(crate) mod chain;
pub(crate) mod cluster;
pub(crate) mod listener;
pub(crate) mod matcher;
pub(crate) mod rbac;
pub(crate) mod tls;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::google::protobuf as pb;
use ipnet::IpNet;
use prost::{Message, Name};
use thiserror::Error;

/// Why a resource is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{field}: {problem}")]
pub(crate) struct Invalid {
    field: String,
    problem: String,
}

pub(crate) type Checked<T> = Result<T, Invalid>;

impl Invalid {
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }

    pub(crate) fn unsupported(field: impl Into<String>) -> Self {
        Self::new(field, "is not supported by this proxy")
    }
}

/// Puts the path of the enclosing message before the field's.
pub(crate) trait Within<T> {
    fn within(self, parent: impl std::fmt::Display) -> Checked<T>;
}

impl<T> Within<T> for Checked<T> {
    fn within(self, parent: impl std::fmt::Display) -> Self {
        self.map_err(|Invalid { field, problem }| Invalid { field: format!("{parent}.{field}"), problem })
    }
}

pub(crate) fn decode<T: Message + Default>(bytes: &[u8]) -> Checked<T> {
    T::decode(bytes).map_err(|error| Invalid::new("resource", format!("does not decode: {error}")))
}

/// Unpacks an `Any` that must be of this type.
pub(crate) fn unpack<T: Message + Default + Name>(any: &pb::Any) -> Checked<T> {
    if any.type_url != T::type_url() {
        return Err(Invalid::new(
            "typed_config",
            format!("{} where {} belongs", any.type_url, T::type_url()),
        ));
    }
    T::decode(&*any.value)
        .map_err(|error| Invalid::new("typed_config", format!("{}: does not decode: {error}", any.type_url)))
}

pub(crate) fn duration(field: &str, value: Option<&pb::Duration>) -> Checked<Option<Duration>> {
    let Some(value) = value else { return Ok(None) };
    match (u64::try_from(value.seconds), u32::try_from(value.nanos)) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Ok(Some(Duration::new(seconds, nanos))),
        _ => Err(Invalid::new(field, format!("{}s {}ns is not a duration", value.seconds, value.nanos))),
    }
}

pub(crate) fn port(field: &str, value: u32) -> Checked<u16> {
    u16::try_from(value).map_err(|_| Invalid::new(field, format!("{value} is not a port")))
}

pub(crate) fn ip(field: &str, text: &str) -> Checked<IpAddr> {
    text.parse().map_err(|_| Invalid::new(field, format!("{text:?} is not an IP address")))
}

pub(crate) fn cidr(field: &str, range: &core::CidrRange) -> Checked<IpNet> {
    let address = ip(field, &range.address_prefix)?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let length = range.prefix_len.as_ref().map_or(0, |length| length.value);
    u8::try_from(length)
        .ok()
        .and_then(|length| IpNet::new(address, length).ok())
        .map(|net| net.trunc())
        .ok_or_else(|| Invalid::new(field, format!("prefix length {length} is above {longest}")))
}

/// A host, by address or by name, and its port.
pub(crate) fn host_and_port(address: Option<&core::Address>) -> Checked<(String, u16)> {
    match address.and_then(|address| address.address.as_ref()) {
        Some(core::address::Address::SocketAddress(socket)) => {
            let port = match socket.port_specifier {
                Some(core::socket_address::PortSpecifier::PortValue(value)) => port("port_value", value)?,
                _ => return Err(Invalid::unsupported("address.socket_address.named_port")),
            };
            Ok((socket.address.clone(), port))
        }
        Some(core::address::Address::Pipe(_)) => Err(Invalid::unsupported("address.pipe")),
        Some(core::address::Address::EnvoyInternalAddress(_)) => {
            Err(Invalid::unsupported("address.envoy_internal_address"))
        }
        None => Err(Invalid::new("address", "is missing")),
    }
}

pub(crate) fn socket_address(address: Option<&core::Address>) -> Checked<SocketAddr> {
    let (host, port) = host_and_port(address)?;
    Ok(SocketAddr::new(ip("address.socket_address.address", &host)?, port))
}

/// A text in a protobuf struct, by path.
pub(crate) fn text<'a>(fields: &'a HashMap<String, pb::Value>, key: &str) -> Option<&'a str> {
    match fields.get(key)?.kind.as_ref()? {
        pb::value::Kind::StringValue(text) => Some(text),
        _ => None,
    }
}

/// The texts of a protobuf struct in key order; other kinds of values are left out.
pub(crate) fn texts(value: &pb::Struct) -> Vec<(String, String)> {
    let mut pairs: Vec<(String, String)> = value
        .fields
        .keys()
        .filter_map(|key| text(&value.fields, key).map(|text| (key.clone(), text.to_string())))
        .collect();
    pairs.sort_unstable();
    pairs
}
