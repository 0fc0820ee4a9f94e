use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as proto;
use prost::Message;
use rustls::crypto::aws_lc_rs;

use super::*;
use crate::resource::chain::{Target, Timing};
use crate::resource::listener::Listener;

fn chain(name: &str) -> Arc<Chain> {
    Arc::new(Chain {
        name: name.into(),
        tls: None,
        rbac: Box::default(),
        target: Target::Close,
        timing: Timing::default(),
        attempts: None,
    })
}

fn hello(name: &str, alpn: &[&str]) -> ClientHello {
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let name = name.to_string().try_into().unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    isthmus_sni::HelloReader::new().push(&bytes).unwrap().unwrap()
}

fn table(chains: &[(&str, Criteria)]) -> Chains {
    let mut builder = Builder::default();
    for (name, criteria) in chains {
        builder.add(criteria, &chain(name)).unwrap();
    }
    builder.build()
}

fn found<'a>(chains: &'a Chains, destination: &str, seen: Seen<'_>) -> Option<&'a str> {
    chains.find(destination.parse().unwrap(), seen).map(|chain| &*chain.name)
}

fn istio() -> Vec<String> {
    isthmus_sni::ISTIO_ALPN.iter().map(ToString::to_string).collect()
}

#[test]
fn permissive_chains_are_told_apart_by_what_is_seen() {
    let at = |transport, protocols| Criteria { port: Some(3306), transport, protocols, ..Default::default() };
    let chains = table(&[
        ("mtls", at(Transport::Tls, istio())),
        ("tls", at(Transport::Tls, vec![])),
        ("plain", at(Transport::Plain, vec![])),
    ]);
    let mesh = hello("a.b", &["istio-peer-exchange", "istio"]);
    assert_eq!(found(&chains, "10.0.0.1:3306", Seen::Tls(&mesh)), Some("mtls"));
    assert_eq!(found(&chains, "10.0.0.1:3306", Seen::Tls(&hello("a.b", &["http/1.1"]))), Some("tls"));
    assert_eq!(found(&chains, "10.0.0.1:3306", Seen::Plain), Some("plain"));
    assert_eq!(found(&chains, "10.0.0.1:3307", Seen::Plain), None);
    assert!(matches!(chains.need("10.0.0.1:3306".parse().unwrap()), Need::FirstBytes));
}

#[test]
fn a_port_with_one_chain_for_all_needs_no_byte() {
    let chains = table(&[("all", Criteria { port: Some(80), ..Default::default() })]);
    let need = chains.need("10.0.0.1:80".parse().unwrap());
    assert!(matches!(need, Need::Nothing(Some(chain)) if &*chain.name == "all"));
    assert!(matches!(chains.need("10.0.0.1:81".parse().unwrap()), Need::Nothing(None)));
}

#[test]
fn the_longest_network_the_exact_name_and_the_longest_wildcard_win() {
    let net = |net: &str| Criteria { networks: vec![net.parse().unwrap()], ..Default::default() };
    let chains =
        table(&[("wide", net("10.0.0.0/8")), ("narrow", net("10.1.0.0/16")), ("any", Criteria::default())]);
    assert_eq!(found(&chains, "10.1.2.3:1", Seen::Plain), Some("narrow"));
    assert_eq!(found(&chains, "10.2.2.3:1", Seen::Plain), Some("wide"));
    assert_eq!(found(&chains, "[::ffff:10.1.2.3]:1", Seen::Plain), Some("narrow"), "a mapped address");
    assert_eq!(found(&chains, "192.0.2.1:1", Seen::Plain), Some("any"));

    let name = |name: &str| Criteria { server_names: vec![name.to_string()], ..Default::default() };
    let chains = table(&[("exact", name("a.b.c")), ("near", name("*.b.c")), ("far", name("*.c"))]);
    let by = |server: &str| found(&chains, "10.0.0.1:1", Seen::Tls(&hello(server, &[])));
    assert_eq!(by("a.b.c"), Some("exact"));
    assert_eq!(by("x.b.c"), Some("near"));
    assert_eq!(by("x.y.b.c"), Some("near"));
    assert_eq!(by("x.c"), Some("far"));
    assert_eq!(by("x.d"), None);
}

#[test]
fn a_name_that_fails_on_protocol_does_not_fall_back_to_a_wider_name() {
    let chains = table(&[
        ("mesh", Criteria { server_names: vec!["a.b".into()], protocols: istio(), ..Default::default() }),
        ("any", Criteria::default()),
    ]);
    assert_eq!(found(&chains, "10.0.0.1:1", Seen::Tls(&hello("a.b", &["istio"]))), Some("mesh"));
    assert_eq!(found(&chains, "10.0.0.1:1", Seen::Tls(&hello("a.b", &["h2"]))), None);
    assert_eq!(found(&chains, "10.0.0.1:1", Seen::Tls(&hello("x.y", &["h2"]))), Some("any"));
}

#[test]
fn two_chains_for_the_same_connections_are_refused() {
    let mut builder = Builder::default();
    builder.add(&Criteria { protocols: istio(), ..Default::default() }, &chain("first")).unwrap();
    let clash = Criteria { protocols: vec!["h2".into(), "istio".into()], ..Default::default() };
    assert_eq!(&*builder.add(&clash, &chain("second")).unwrap_err().name, "first");
}

/// A listener's message with these chains, compiled.
fn compiled(chains: Vec<proto::FilterChain>) -> Result<Chains, String> {
    let address = core::SocketAddress {
        address: "0.0.0.0".into(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(15443)),
        ..Default::default()
    };
    let listener = proto::Listener {
        address: Some(core::Address { address: Some(core::address::Address::SocketAddress(address)) }),
        filter_chains: chains,
        ..Default::default()
    };
    let identity = isthmus_testkit::MeshCa::new().workload("west", "istio-system/gateway");
    let tls = crate::resource::tls::Configurations::new(identity);
    let listener = Listener::compile(&"l".into(), &listener.encode_to_vec().into(), &tls);
    listener.map(|listener| listener.chains).map_err(|invalid| invalid.to_string())
}

fn by_names(chain: &str, names: &[&str], alpn: &[&str]) -> proto::FilterChain {
    let texts = |list: &[&str]| list.iter().map(ToString::to_string).collect();
    proto::FilterChain {
        name: chain.into(),
        filter_chain_match: Some(proto::FilterChainMatch {
            server_names: texts(names),
            application_protocols: texts(alpn),
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[test]
fn a_chain_by_name_alone_stays_in_its_message_until_a_connection_names_it() {
    let all = vec![
        by_names("one", &["a.b", "A.C"], &["istio"]),
        by_names("two", &["b.c"], &[]),
        by_names("wide", &["*.c"], &[]),
    ];
    let chains = compiled(all).unwrap();
    let names = &chains.any_port.any;
    assert!(names.exact.is_empty() && names.suffix.len() == 1);
    let named = names.named.as_ref().unwrap();
    let by = |server: &str, alpn| found(&chains, "10.0.0.1:1", Seen::Tls(&hello(server, alpn)));
    assert!(matches!(chains.need("10.0.0.1:1".parse().unwrap()), Need::FirstBytes));
    assert_eq!(chains.some(10).len(), 4, "one for each name");
    assert_eq!(named.awake(), 0, "looking wakes nothing");
    assert_eq!(by("x.y", &[]), None);
    assert_eq!(named.awake(), 0, "nor does a name that is not there");
    assert_eq!(by("a.b", &["istio"]), Some("one"));
    assert_eq!(by("a.c", &["istio"]), Some("one"));
    assert_eq!(by("a.c", &["h2"]), None, "it has its name and is not for the wider one");
    assert_eq!(by("b.c", &[]), Some("two"));
    assert_eq!(by("d.c", &[]), Some("wide"));
    assert_eq!((named.awake(), chains.len()), (3, 3));
}

#[test]
fn chains_with_one_name_are_told_apart_by_protocol_or_refused() {
    let all = || vec![by_names("istio", &["a.b"], &["istio"]), by_names("h2", &["a.b"], &["h2"])];
    let chains = compiled(all()).unwrap();
    let by = |alpn| found(&chains, "10.0.0.1:1", Seen::Tls(&hello("a.b", alpn)));
    assert_eq!((by(&["istio"]), by(&["h2"]), by(&["http/1.1"])), (Some("istio"), Some("h2"), None));
    for more in [by_names("again", &["x.y", "a.b"], &["h2"]), by_names("twice", &["c.d", "c.d"], &[])] {
        let refused = compiled([all(), vec![more]].concat()).unwrap_err();
        assert!(refused.contains("equals that of"), "{refused}");
    }
}
