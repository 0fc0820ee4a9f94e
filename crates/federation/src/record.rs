//! Records: our words on the wire and back, checked.

use std::sync::Arc;

use isthmus_model::export::{Capacity, NetworkGateway, ServiceExport};
use isthmus_model::locality::Locality;
use isthmus_model::name::ClusterId;
use isthmus_model::service::{Location, Protocol, ServicePort, TargetPort};
use isthmus_proto::federation::{self as wire, RecordType, record::Body};
use thiserror::Error;

/// What a record is known by, within its owner.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Type number; unknown ones are kept as they are.
    pub kind: i32,
    /// Key.
    pub key: Arc<str>,
}

impl Key {
    /// A key of this type.
    #[must_use]
    pub fn new(kind: RecordType, key: &str) -> Self {
        Self { kind: kind as i32, key: key.into() }
    }

    /// As on the wire.
    #[must_use]
    pub fn to_wire(&self) -> wire::Key {
        wire::Key { r#type: self.kind, key: self.key.to_string() }
    }
}

impl From<&wire::Key> for Key {
    fn from(key: &wire::Key) -> Self {
        Self { kind: key.r#type, key: key.key.as_str().into() }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match RecordType::try_from(self.kind) {
            Ok(kind) => write!(f, "{} {}", kind.as_str_name().trim_start_matches("RECORD_TYPE_"), self.key),
            Err(_) => write!(f, "type {} {}", self.kind, self.key),
        }
    }
}

/// What a record says, in our words.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A service.
    Service(ServiceExport),
    /// A gateway.
    Gateway(NetworkGateway),
}

/// Why a record is refused. The text goes to its owner.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidRecord {
    /// It belongs to someone else.
    #[error("the record's owner is {said}, this link is with {expected}")]
    Owner {
        /// Said.
        said: String,
        /// Expected.
        expected: String,
    },
    /// A value is not what it should be.
    #[error("{field} {value:?}: {problem}")]
    Field {
        /// Which.
        field: &'static str,
        /// What it holds.
        value: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A type that this release does not take.
    #[error("this release does not take records of type {0}")]
    Type(i32),
    /// The body is not of the type.
    #[error("the body is not of the record's type")]
    Body,
    /// Too many records.
    #[error("the limit of {0} records of one peer is reached")]
    TooMany(usize),
    /// Too large in all.
    #[error("the limit of {0} bytes of one peer is reached")]
    TooLarge(usize),
}

/// `MESH/CLUSTER/REVISION`, for messages.
#[must_use]
pub fn owner_text(owner: &wire::Owner) -> String {
    format!("{}/{}/{}", owner.mesh_id, owner.cluster, owner.revision)
}

/// FNV-1a over fields, each with its length, so that `ab`,`c` and `a`,`bc` differ.
struct Hash(u64);

impl Hash {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn feed(&mut self, field: &[u8]) {
        for byte in (field.len() as u64).to_le_bytes().iter().chain(field) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn text(&mut self, field: impl std::fmt::Display) {
        self.feed(field.to_string().as_bytes());
    }
}

/// Hash of one record within a digest; digests are sums of these, so that order does not matter.
#[must_use]
pub fn digest_of(key: &Key, version: u64) -> u64 {
    let mut hash = Hash::new();
    hash.feed(key.key.as_bytes());
    hash.feed(&version.to_le_bytes());
    hash.0
}

/// A service on the wire, with its version: equal services have equal versions whoever computes them.
#[must_use]
pub fn service(owner: &wire::Owner, export: &ServiceExport) -> wire::Record {
    let mut capacity: Vec<&Capacity> = export.capacity.iter().collect();
    capacity.sort_by(|a, b| (&a.locality, &a.network, &a.labels).cmp(&(&b.locality, &b.network, &b.labels)));
    let mut addresses: Vec<String> = export.addresses.iter().map(ToString::to_string).collect();
    addresses.sort_unstable();
    let mut identities: Vec<String> = export.identities.iter().map(ToString::to_string).collect();
    identities.sort_unstable();

    let mut hash = Hash::new();
    hash.text(&export.host);
    for port in &export.ports {
        hash.feed(port.name.as_bytes());
        hash.text(port.number);
        hash.text(port.protocol.as_str());
    }
    hash.text(export.location == Location::MeshExternal);
    let shape = hash.0;
    hash.feed(export.name.as_bytes());
    hash.text(&export.namespace);
    addresses.iter().chain(&identities).for_each(|text| hash.text(text));
    hash.text(addresses.len());
    for (key, value) in export.labels.iter() {
        hash.feed(key.as_bytes());
        hash.feed(value.as_bytes());
    }
    for one in &capacity {
        hash.text(&one.locality);
        hash.text(&one.network);
        for (key, value) in one.labels.iter() {
            hash.feed(key.as_bytes());
            hash.feed(value.as_bytes());
        }
        hash.text(one.ready);
        hash.text(one.unready);
    }
    let body = wire::ServiceExport {
        host: export.host.to_string(),
        name: export.name.to_string(),
        namespace: export.namespace.to_string(),
        ports: export.ports.iter().map(port_to_wire).collect(),
        addresses,
        shape,
        capacity: capacity.into_iter().map(capacity_to_wire).collect(),
        identities,
        mesh_external: export.location == Location::MeshExternal,
        labels: export.labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
    };
    wire::Record {
        owner: Some(owner.clone()),
        r#type: RecordType::ServiceExport as i32,
        key: export.host.to_string(),
        version: hash.0,
        body: Some(Body::Service(body)),
    }
}

/// A gateway on the wire.
#[must_use]
pub fn gateway(owner: &wire::Owner, gateway: &NetworkGateway) -> wire::Record {
    let key = gateway_key(gateway.network.as_str(), &gateway.address, u32::from(gateway.port));
    let mut hash = Hash::new();
    hash.text(&key);
    wire::Record {
        owner: Some(owner.clone()),
        r#type: RecordType::Gateway as i32,
        key,
        version: hash.0,
        body: Some(Body::Gateway(wire::Gateway {
            network: gateway.network.to_string(),
            address: gateway.address.to_string(),
            port: u32::from(gateway.port),
        })),
    }
}

fn gateway_key(network: &str, address: &str, port: u32) -> String {
    format!("{network}|{address}|{port}")
}

fn port_to_wire(port: &ServicePort) -> wire::Port {
    wire::Port {
        name: port.name.to_string(),
        number: u32::from(port.number),
        protocol: port.protocol.as_str().to_string(),
    }
}

fn capacity_to_wire(capacity: &Capacity) -> wire::Capacity {
    wire::Capacity {
        locality: capacity.locality.to_string(),
        network: capacity.network.to_string(),
        labels: capacity.labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        ready: capacity.ready,
        unready: capacity.unready,
        endpoints: Vec::new(),
    }
}

/// Reads a record of `peer`, whose records must be `owner`'s.
///
/// # Errors
/// Everything that makes it unusable; the rest of the stream goes on.
pub fn read(record: &wire::Record, owner: &wire::Owner, peer: &ClusterId) -> Result<Item, InvalidRecord> {
    check_owner(record.owner.as_ref(), owner)?;
    let kind = RecordType::try_from(record.r#type).map_err(|_| InvalidRecord::Type(record.r#type))?;
    match (kind, &record.body) {
        (RecordType::ServiceExport, Some(Body::Service(service))) => {
            same_key(&record.key, &service.host)?;
            read_service(service).map(Item::Service)
        }
        (RecordType::Gateway, Some(Body::Gateway(gateway))) => {
            same_key(&record.key, &gateway_key(&gateway.network, &gateway.address, gateway.port))?;
            read_gateway(gateway, peer).map(Item::Gateway)
        }
        (RecordType::ServiceExport | RecordType::Gateway, _) => Err(InvalidRecord::Body),
        _ => Err(InvalidRecord::Type(record.r#type)),
    }
}

/// Whether a record or tombstone is its sender's own.
///
/// # Errors
/// When it is not.
pub fn check_owner(said: Option<&wire::Owner>, expected: &wire::Owner) -> Result<(), InvalidRecord> {
    if said == Some(expected) {
        return Ok(());
    }
    let said = said.map_or_else(|| "nobody".to_string(), owner_text);
    Err(InvalidRecord::Owner { said, expected: owner_text(expected) })
}

fn same_key(key: &str, expected: &str) -> Result<(), InvalidRecord> {
    if key == expected {
        return Ok(());
    }
    Err(field("key", key, format!("must be {expected:?}, as the body says")))
}

fn field(field: &'static str, value: &str, problem: impl std::fmt::Display) -> InvalidRecord {
    let value = value.chars().take(100).collect();
    InvalidRecord::Field { field, value, problem: problem.to_string() }
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(
    name: &'static str,
    text: &str,
) -> Result<T, InvalidRecord> {
    text.parse().map_err(|error| field(name, text, error))
}

fn port_number(name: &'static str, number: u32) -> Result<u16, InvalidRecord> {
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(field(name, &number.to_string(), "must be 1 to 65535")),
    }
}

fn read_service(service: &wire::ServiceExport) -> Result<ServiceExport, InvalidRecord> {
    let ports = service.ports.iter().map(|port| {
        let number = port_number("ports.number", port.number)?;
        Ok(ServicePort {
            name: port.name.as_str().into(),
            number,
            protocol: Protocol::parse(&port.protocol),
            target: TargetPort::Number(number),
        })
    });
    let capacity = service.capacity.iter().map(|one| {
        Ok(Capacity {
            locality: Locality::parse(&one.locality),
            network: parse("capacity.network", &one.network)?,
            labels: sorted(&one.labels).collect(),
            ready: one.ready,
            unready: one.unready,
        })
    });
    Ok(ServiceExport {
        host: parse("host", &service.host)?,
        name: service.name.as_str().into(),
        namespace: parse("namespace", &service.namespace)?,
        ports: ports.collect::<Result<_, InvalidRecord>>()?,
        addresses: service.addresses.iter().map(|text| parse("addresses", text)).collect::<Result<_, _>>()?,
        location: if service.mesh_external { Location::MeshExternal } else { Location::MeshInternal },
        labels: sorted(&service.labels).collect(),
        capacity: capacity.collect::<Result<_, InvalidRecord>>()?,
        identities: service
            .identities
            .iter()
            .map(|text| parse("identities", text))
            .collect::<Result<_, _>>()?,
    })
}

fn sorted(labels: &std::collections::HashMap<String, String>) -> impl Iterator<Item = (&str, &str)> {
    labels.iter().map(|(key, value)| (key.as_str(), value.as_str()))
}

fn read_gateway(gateway: &wire::Gateway, peer: &ClusterId) -> Result<NetworkGateway, InvalidRecord> {
    if gateway.address.is_empty() || gateway.address.len() > 253 {
        return Err(field("address", &gateway.address, "must be an address or a host name"));
    }
    Ok(NetworkGateway {
        network: parse("network", &gateway.network)?,
        cluster: peer.clone(),
        address: gateway.address.as_str().into(),
        port: port_number("port", gateway.port)?,
    })
}

#[cfg(test)]
pub(crate) mod tests;
