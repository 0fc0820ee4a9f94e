//! IPv4 and IPv6.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as lds;
use isthmus_proxy::Limits;

use crate::flood::{SNI, gateway};
use crate::resources::*;
use crate::support::*;

fn at(gateway: &Running, listener: &str) -> Vec<SocketAddr> {
    let all = gateway.proxy.addresses().into_iter();
    all.filter(|(name, _)| &**name == listener).map(|(_, address)| address).collect()
}

#[tokio::test]
async fn a_listener_serves_all_its_addresses_and_endpoints_of_both_families() {
    let (four, six) = (
        Server::start(Does::Echo("four:")).await,
        Server::at("[::1]:0".parse().unwrap(), Does::Echo("six:")).await,
    );
    let gateway = gateway(Limits::default(), &[six.address]);
    let mut listener = gateway_listener("both", &[(SNI, SNI)]);
    let more = lds::AdditionalAddress { address: address("[::1]:0".parse().unwrap()), ..Default::default() };
    listener.additional_addresses.push(more);
    gateway.take(vec![], vec![], vec![listener.clone()]);
    let addresses = at(&gateway, "both");
    assert_eq!(addresses.iter().filter(|address| address.is_ipv6()).count(), 1, "{addresses:?}");
    for address in &addresses {
        assert!(say(*address, &hello(SNI)).await.unwrap().starts_with(b"six:"), "{address}");
    }
    gateway.take(vec![], vec![assignment(SNI, vec![vec![endpoint(four.address, false)]])], vec![]);
    for address in &addresses {
        assert!(say(*address, &hello(SNI)).await.unwrap().starts_with(b"four:"), "{address}");
    }
    // A listener that loses an address keeps the other as it is.
    listener.additional_addresses.clear();
    gateway.take(vec![], vec![], vec![listener]);
    let kept = at(&gateway, "both");
    assert_eq!(kept.len(), 1);
    assert!(kept[0].is_ipv4() && addresses.contains(&kept[0]));
}

#[tokio::test]
async fn one_dual_stack_socket_takes_both_families_where_it_is_asked_for() {
    let server = Server::start(Does::Echo("west:")).await;
    let gateway = gateway(Limits::default(), &[server.address]);
    let place = |compatible: bool| {
        let socket = core::SocketAddress {
            address: "::".into(),
            ipv4_compat: compatible,
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(0)),
            ..Default::default()
        };
        Some(core::Address { address: Some(core::address::Address::SocketAddress(socket)) })
    };
    for (name, compatible) in [("dual", true), ("six", false)] {
        let listener = lds::Listener { address: place(compatible), ..gateway_listener(name, &[(SNI, SNI)]) };
        gateway.take(vec![], vec![], vec![listener]);
        let port = at(&gateway, name)[0].port();
        let six = say(SocketAddr::new("::1".parse().unwrap(), port), &hello(SNI)).await;
        assert!(six.unwrap().starts_with(b"west:"));
        let four = say(SocketAddr::new("127.0.0.1".parse().unwrap(), port), &hello(SNI)).await;
        assert_eq!(four.is_ok_and(|answer| answer.starts_with(b"west:")), compatible, "{name}");
    }
}

#[tokio::test]
async fn an_address_that_cannot_be_had_refuses_the_listener_and_leaves_it_as_it_was() {
    let server = Server::start(Does::Echo("west:")).await;
    let gateway = gateway(Limits::default(), &[server.address]);
    let before = at(&gateway, "0.0.0.0_15443");
    let mut listener = gateway_listener("0.0.0.0_15443", &[(SNI, SNI)]);
    let taken = lds::AdditionalAddress { address: address(server.address), ..Default::default() };
    listener.additional_addresses.push(taken);
    let rejections = gateway.give(vec![(listener.name.clone(), listener)]);
    assert!(rejections[0].reason.contains(&server.address.to_string()), "{rejections:?}");
    assert_eq!(at(&gateway, "0.0.0.0_15443"), before);
    assert!(say(before[0], &hello(SNI)).await.unwrap().starts_with(b"west:"));
}
