//! The split-horizon rule: who reaches an endpoint directly, who through a gateway, who not at all.

use std::net::IpAddr;

use isthmus_model::{Endpoint, NetworkGateway};
use isthmus_registry::Gateways;

use crate::class::Class;
use crate::cluster::Use;

/// How a class reaches an endpoint.
pub(crate) enum Way<'a> {
    /// At its own address.
    Direct,
    /// Through any of these.
    Through(Vec<&'a NetworkGateway>),
    /// It does not.
    None,
}

/// Istio's algorithm, with two more rules: an aggregate has no address of its own and always takes gateways (those of its own
/// cluster when it claims our network, where our own gateways could only send it in circles); and a gateway that passes TLS on
/// never leads to another gateway.
pub(crate) fn way<'a>(
    endpoint: &Endpoint,
    class: &Class,
    gateways: &'a Gateways,
    mutual: bool,
    usage: Use,
) -> Way<'a> {
    let same = class.network.reaches(&endpoint.network);
    if usage == Use::Passthrough {
        let reachable = same && !endpoint.aggregate && !endpoint.address.is_empty() && mutual;
        return if reachable { Way::Direct } else { Way::None };
    }
    let mut candidates = gateways.of(&endpoint.network, &endpoint.cluster);
    if endpoint.aggregate {
        if same {
            candidates.retain(|gateway| gateway.cluster == endpoint.cluster);
        }
    } else {
        let forced = class.network.is_unnamed() && !endpoint.network.is_unnamed();
        if candidates.is_empty() || (same && !forced) {
            return if endpoint.address.is_empty() { Way::None } else { Way::Direct };
        }
    }
    // a gateway known by a host name only has no address to give
    candidates
        .retain(|gateway| gateway.address.parse::<IpAddr>().is_ok_and(|address| class.has_family(address)));
    if candidates.is_empty() || !mutual { Way::None } else { Way::Through(candidates) }
}
