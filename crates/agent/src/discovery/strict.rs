//! Which inbound ports take mutual TLS only: what must stay refused while no agent guards them.

use bytes::Bytes;
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, Listener};
use isthmus_capture::Strict;
use prost::{DecodeError, Message};

/// Listener of captured inbound connections.
pub const INBOUND: &str = "virtualInbound";

/// Reads it off the filter chains: a port is strict when no chain for it would take a connection in plaintext. Envoy picks
/// the chains of a port before anything else, so that chains without a port do not speak for ports that have their own; the
/// default chain takes what no chain took, on every port.
///
/// # Errors
/// When the message cannot be decoded.
pub(super) fn read(body: &Bytes) -> Result<Strict, DecodeError> {
    let listener = Listener::decode(body.clone())?;
    let mut found = Strict::default();
    let mut general: Vec<&FilterChain> = Vec::new();
    for chain in &listener.filter_chains {
        match port(chain) {
            Some(port) if takes_plaintext(chain) => drop(found.open.insert(port)),
            Some(port) => drop(found.ports.insert(port)),
            None => general.push(chain),
        }
    }
    if listener.default_filter_chain.as_ref().is_some_and(takes_plaintext) {
        return Ok(Strict::default());
    }
    found.ports = &found.ports - &found.open;
    found.others = !general.is_empty() && !general.iter().any(|chain| takes_plaintext(chain));
    Ok(found)
}

fn port(chain: &FilterChain) -> Option<u16> {
    let port = chain.filter_chain_match.as_ref()?.destination_port.as_ref()?;
    u16::try_from(port.value).ok()
}

fn takes_plaintext(chain: &FilterChain) -> bool {
    let protocol = chain.filter_chain_match.as_ref().map_or("", |found| &*found.transport_protocol);
    matches!(protocol, "" | "raw_buffer") && chain.transport_socket.is_none()
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::TransportSocket;
    use envoy_types::pb::envoy::config::listener::v3::FilterChainMatch;
    use envoy_types::pb::google::protobuf::UInt32Value;

    use std::collections::BTreeSet;

    use super::*;

    fn chain(port: Option<u32>, protocol: &str, tls: bool) -> FilterChain {
        FilterChain {
            filter_chain_match: Some(FilterChainMatch {
                destination_port: port.map(|value| UInt32Value { value }),
                transport_protocol: protocol.into(),
                ..Default::default()
            }),
            transport_socket: tls.then(TransportSocket::default),
            ..Default::default()
        }
    }

    fn of(filter_chains: Vec<FilterChain>) -> Strict {
        let listener = Listener { filter_chains, ..Default::default() };
        read(&listener.encode_to_vec().into()).unwrap()
    }

    #[test]
    fn a_port_with_no_way_in_for_plaintext_is_strict() {
        let found = of(vec![
            chain(Some(3306), "tls", true),
            chain(Some(9080), "tls", true),
            chain(Some(9080), "raw_buffer", false),
            chain(Some(80), "raw_buffer", false),
            chain(Some(443), "", true),
            chain(None, "tls", true),
            chain(None, "raw_buffer", false),
        ]);
        assert_eq!(found.ports, BTreeSet::from([443, 3306]));
        assert_eq!(found.open, BTreeSet::from([80, 9080]));
        assert!(!found.others);
    }

    #[test]
    fn a_mesh_under_strict_refuses_what_has_no_chain_of_its_own() {
        let found = of(vec![chain(None, "tls", true), chain(Some(8080), "raw_buffer", false)]);
        assert!(found.others);
        assert_eq!(found.open, BTreeSet::from([8080]));
        assert!(!of(vec![]).others);
    }

    #[test]
    fn a_default_chain_in_plaintext_leaves_nothing_strict() {
        let listener = Listener {
            filter_chains: vec![chain(Some(3306), "tls", true)],
            default_filter_chain: Some(FilterChain::default()),
            ..Default::default()
        };
        assert_eq!(read(&listener.encode_to_vec().into()).unwrap(), Strict::default());
    }
}
