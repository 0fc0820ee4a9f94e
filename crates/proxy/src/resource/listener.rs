//! Listeners.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::proxy_protocol_config::Version;
use envoy_types::pb::envoy::config::core::v3::{Address, TrafficDirection, address};
use envoy_types::pb::envoy::config::listener::v3 as proto;
use envoy_types::pb::envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol;
use prost::{DecodeError, encoding};

use super::chain::Chain;
use super::tls::Configurations;
use super::{Checked, Invalid, Within, cidr, decode, duration, port, socket_address, unpack};
use crate::announced::Accepted;
use crate::chains::{Builder, Chains, Criteria, Transport};
use crate::config::Keepalive;

/// A compiled listener.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) name: Arc<str>,
    pub(crate) address: SocketAddr,
    /// Where it listens; the first is its address.
    pub(crate) places: Box<[Place]>,
    /// It has a socket of its own; others are found by original destination.
    pub(crate) bound: bool,
    /// Its connections were redirected: their original destination counts.
    pub(crate) captures: bool,
    /// Its connections go on to the listener of their original destination.
    pub(crate) hands_over: bool,
    pub(crate) direction: Direction,
    /// Time for the first bytes, where the listener sets one.
    pub(crate) detection: Option<Duration>,
    /// A balancer before it announces its clients by PROXY headers.
    pub(crate) announced: Option<Accepted>,
    pub(crate) keepalive: Option<Keepalive>,
    pub(crate) chains: Chains,
}

/// An address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) address: SocketAddr,
    /// `[::]` takes IPv4 too.
    pub(crate) dual_stack: bool,
}

/// Which way connections pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the workload.
    Outbound,
    /// To the workload.
    Inbound,
    /// Through a gateway.
    Through,
}

impl Listener {
    pub(crate) fn compile(name: &Arc<str>, bytes: &Bytes, tls: &Configurations) -> Checked<Self> {
        let (rest, listed) =
            split(bytes).map_err(|error| Invalid::new("resource", format!("does not decode: {error}")))?;
        let listener: proto::Listener = decode(&rest)?;
        let refuse = |set: bool, field: &str| if set { Err(Invalid::unsupported(field)) } else { Ok(()) };
        refuse(listener.api_listener.is_some(), "api_listener")?;
        refuse(listener.udp_listener_config.is_some(), "udp_listener_config")?;
        refuse(listener.filter_chain_matcher.is_some(), "filter_chain_matcher")?;
        refuse(listener.transparent.is_some_and(|on| on.value), "transparent")?;
        let mut captures = false;
        let mut announced = None;
        for (position, filter) in listener.listener_filters.iter().enumerate() {
            let known = |part: &str| filter.name.contains(part);
            if known("proxy_protocol") {
                announced = Some(accepted(filter).within(format!("listener_filters[{position}]"))?);
                continue;
            }
            captures |= known("original_dst");
            if !(known("original_dst") || known("tls_inspector") || known("http_inspector")) {
                let problem = format!("filter {:?} is not supported by this proxy", filter.name);
                return Err(Invalid::new(format!("listener_filters[{position}]"), problem));
            }
        }
        #[expect(deprecated, reason = "older control planes bind so")]
        let old_bind = listener.deprecated_v1.as_ref().and_then(|v1| v1.bind_to_port);
        let hands_over = listener.use_original_dst.is_some_and(|on| on.value);
        let bound = listener.bind_to_port.or(old_bind).is_none_or(|on| on.value);
        let captures = captures || hands_over;
        let direction = match TrafficDirection::try_from(listener.traffic_direction) {
            Ok(TrafficDirection::Inbound) => Direction::Inbound,
            _ if &**name == crate::proxy::INBOUND => Direction::Inbound,
            // Found by original destination: only what leaves the workload is.
            _ if captures || !bound => Direction::Outbound,
            _ => Direction::Through,
        };
        let waits = duration("listener_filters_timeout", listener.listener_filters_timeout.as_ref())?;
        let places = places(&listener)?;
        Ok(Self {
            name: Arc::clone(name),
            address: places[0].address,
            places,
            bound,
            captures,
            hands_over,
            direction,
            detection: waits.filter(|waits| !waits.is_zero()),
            announced,
            keepalive: listener.tcp_keepalive.as_ref().map(Keepalive::compile),
            chains: chains(&listener, bytes, &listed, tls)?,
        })
    }
}

/// The listener's address and its additional ones.
fn places(listener: &proto::Listener) -> Checked<Box<[Place]>> {
    let place = |address: Option<&Address>| {
        let dual_stack = match address.and_then(|address| address.address.as_ref()) {
            Some(address::Address::SocketAddress(socket)) => socket.ipv4_compat,
            _ => false,
        };
        Ok(Place { address: socket_address(address)?, dual_stack })
    };
    let mut places = vec![place(listener.address.as_ref())?];
    for (position, more) in listener.additional_addresses.iter().enumerate() {
        let more = place(more.address.as_ref()).within(format!("additional_addresses[{position}]"))?;
        if places.iter().any(|known: &Place| known.address == more.address) {
            let problem = format!("{} is there twice", more.address);
            return Err(Invalid::new(format!("additional_addresses[{position}]"), problem));
        }
        places.push(more);
    }
    Ok(places.into())
}

/// Which PROXY headers a listener takes. It takes none without: who may leave it out may also forge it.
fn accepted(filter: &proto::ListenerFilter) -> Checked<Accepted> {
    let mut accepted = Accepted { v1: true, v2: true };
    let Some(proto::listener_filter::ConfigType::TypedConfig(any)) = &filter.config_type else {
        return Ok(accepted);
    };
    let config: ProxyProtocol = unpack(any)?;
    if config.allow_requests_without_proxy_protocol {
        return Err(Invalid::unsupported("allow_requests_without_proxy_protocol"));
    }
    for version in &config.disallowed_versions {
        match Version::try_from(*version) {
            Ok(Version::V1) => accepted.v1 = false,
            Ok(Version::V2) => accepted.v2 = false,
            Err(_) => return Err(Invalid::new("disallowed_versions", format!("{version} is no version"))),
        }
    }
    if !accepted.v1 && !accepted.v2 {
        return Err(Invalid::new("disallowed_versions", "no version is left"));
    }
    Ok(accepted)
}

/// A listener's bytes without its filter chains, and where each of these stands. A gateway may have a chain for each service of the mesh:
/// decoded together they would take 3 KB each, and that memory would stay.
fn split(bytes: &[u8]) -> Result<(Vec<u8>, Vec<Range<usize>>), DecodeError> {
    /// Number of `filter_chains`.
    const CHAINS: u32 = 3;
    let (mut rest, mut chains, mut at) = (Vec::new(), Vec::new(), bytes);
    while !at.is_empty() {
        let field = at;
        let (number, kind) = encoding::decode_key(&mut at)?;
        if number == CHAINS && kind == encoding::WireType::LengthDelimited {
            let length = usize::try_from(encoding::decode_varint(&mut at)?).unwrap_or(usize::MAX);
            // A chain that is cut off is left to the decoder, which says so.
            if let Some((_, after)) = at.split_at_checked(length) {
                let begins = bytes.len() - at.len();
                chains.push(begins..begins + length);
                at = after;
                continue;
            }
            rest.extend_from_slice(field);
            break;
        }
        encoding::skip_field(kind, number, &mut at, encoding::DecodeContext::default())?;
        rest.extend_from_slice(&field[..field.len() - at.len()]);
    }
    Ok((rest, chains))
}

fn chains(
    listener: &proto::Listener,
    message: &Bytes,
    listed: &[Range<usize>],
    tls: &Configurations,
) -> Checked<Chains> {
    let mut builder = Builder::new(message);
    for (position, place) in listed.iter().enumerate() {
        let bytes = &message[place.clone()];
        let chain: &proto::FilterChain = &decode(bytes).within(format_args!("filter_chains[{position}]"))?;
        let field = || match chain.name.as_str() {
            "" => format!("filter_chains[{position}]"),
            name => format!("filter_chains[{name:?}]"),
        };
        let compiled = Arc::new(Chain::compile(chain, tls).within(field())?);
        let criteria = criteria(chain.filter_chain_match.as_ref()).within(field())?;
        let added = match chain.transport_socket {
            None => builder.add_at(&criteria, &compiled, place.start, place.len()),
            Some(_) => builder.add(&criteria, &compiled),
        };
        added.map_err(|other| {
            Invalid::new(
                format!("{}.filter_chain_match", field()),
                format!("equals that of {:?}", other.name),
            )
        })?;
    }
    if let Some(chain) = &listener.default_filter_chain {
        builder.set_default(Arc::new(Chain::compile(chain, tls).within("default_filter_chain")?));
    }
    Ok(builder.build())
}

/// A chain that terminates nothing, from its message.
pub(crate) fn passing(bytes: &[u8]) -> Checked<(Criteria, Chain)> {
    let chain: proto::FilterChain = decode(bytes)?;
    Ok((criteria(chain.filter_chain_match.as_ref())?, Chain::passing(&chain)?))
}

fn criteria(of: Option<&proto::FilterChainMatch>) -> Checked<Criteria> {
    let Some(of) = of else { return Ok(Criteria::default()) };
    let refuse = |set: bool, field: &str| {
        if set { Err(Invalid::unsupported(format!("filter_chain_match.{field}"))) } else { Ok(()) }
    };
    refuse(!of.source_prefix_ranges.is_empty(), "source_prefix_ranges")?;
    refuse(!of.direct_source_prefix_ranges.is_empty(), "direct_source_prefix_ranges")?;
    refuse(!of.source_ports.is_empty(), "source_ports")?;
    refuse(of.source_type != 0, "source_type")?;
    refuse(!of.address_suffix.is_empty() || of.suffix_len.is_some(), "address_suffix")?;
    let networks = of.prefix_ranges.iter().map(|range| cidr("filter_chain_match.prefix_ranges", range));
    let transport = match of.transport_protocol.as_str() {
        "" => Transport::Any,
        "tls" => Transport::Tls,
        "raw_buffer" => Transport::Plain,
        other => {
            let problem = format!("{other:?} is neither tls nor raw_buffer");
            return Err(Invalid::new("filter_chain_match.transport_protocol", problem));
        }
    };
    let names = of.server_names.iter().map(|name| {
        let partial = name.contains('*') && !name.starts_with("*.");
        if partial || name.is_empty() {
            let problem = format!("{name:?}: only a whole first label may be \"*\"");
            return Err(Invalid::new("filter_chain_match.server_names", problem));
        }
        Ok(name.to_ascii_lowercase())
    });
    Ok(Criteria {
        port: match &of.destination_port {
            None => None,
            Some(value) => Some(port("filter_chain_match.destination_port", value.value)?),
        },
        networks: networks.collect::<Checked<_>>()?,
        server_names: names.collect::<Checked<_>>()?,
        transport,
        protocols: of.application_protocols.clone(),
    })
}
