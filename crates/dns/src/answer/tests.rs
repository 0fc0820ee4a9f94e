use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::table::{Host, Origin, Perspective};

fn service(host: &str, short: &str, namespace: &str, addresses: &[&str]) -> Host {
    Host {
        host: host.into(),
        addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
        origin: Origin::Kubernetes { short: short.into(), namespace: namespace.into() },
        aliases: vec![],
    }
}

fn external(host: &str, addresses: &[&str]) -> Host {
    let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
    Host { host: host.into(), addresses, origin: Origin::External, aliases: vec![] }
}

fn perspective() -> Perspective {
    Perspective {
        namespace: "ns1".into(),
        domain: "ns1.svc.cluster.local".into(),
        search: Some("ns1.svc.cluster.local".into()),
    }
}

fn table() -> Table {
    let many: Vec<String> = (0..150).map(|n| format!("10.9.0.{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let mut aliased = service("aliased.ns2.svc.cluster.local", "aliased", "ns2", &["10.2.0.9"]);
    aliased.aliases = vec!["other.name".into()];
    Table::new(
        &[
            service("productpage.ns1.svc.cluster.local", "productpage", "ns1", &["9.9.9.9"]),
            service("example.ns2.svc.cluster.local", "example", "ns2", &["10.10.10.10"]),
            service("details.ns2.svc.cluster.remote", "details", "ns2", &["13.13.13.13"]),
            service("dual.ns1.svc.cluster.local", "dual", "ns1", &["2.2.2.2", "2001:db8::2", "3.3.3.3"]),
            service("pod-0.db.ns1.svc.cluster.local", "pod-0.db", "ns1", &["10.1.0.7"]),
            aliased,
            external("www.external.example", &["1.1.1.1"]),
            external("*.wildcard", &["10.0.0.1"]),
            external("*.b.wildcard", &["10.0.0.2"]),
            external("many.example", &many),
            external("not..a.name", &["10.0.0.3"]),
            external("-odd-.example", &["10.0.0.4"]),
        ],
        &perspective(),
    )
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_str(name).unwrap(), kind));
    message
}

fn ask_with(table: &Table, message: &Message, transport: Transport) -> Option<Message> {
    let mut chance = StdRng::seed_from_u64(1);
    match decide(Some(table), &message.to_vec().unwrap(), transport, &mut chance) {
        Verdict::Reply(bytes) => Some(Message::from_vec(&bytes).unwrap()),
        Verdict::Forward { .. } => None,
        Verdict::Ignore => panic!("a query is not ignored"),
    }
}

/// The answers as text, or none when the query is forwarded.
fn ask(name: &str, kind: RecordType) -> Option<Vec<String>> {
    let reply = ask_with(&table(), &question(name, kind), Transport::Udp)?;
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert!(reply.metadata.authoritative && reply.metadata.id == 77);
    Some(reply.answers.iter().map(|record| format!("{} {}", record.name, record.data)).collect())
}

fn a(name: &str) -> Option<Vec<String>> {
    ask(name, RecordType::A)
}

fn one(text: &str) -> Option<Vec<String>> {
    Some(vec![text.to_string()])
}

#[test]
fn a_service_of_the_own_namespace_has_four_names() {
    for name in [
        "productpage.",
        "productpage.ns1.",
        "productpage.ns1.svc.",
        "productpage.ns1.svc.cluster.local.",
        "ProductPage.NS1.",
    ] {
        assert_eq!(a(name), one(&format!("{} 9.9.9.9", name.to_lowercase())), "{name}");
    }
    assert_eq!(a("pod-0.db."), one("pod-0.db. 10.1.0.7"));
}

#[test]
fn the_first_search_domain_expands_to_an_alias() {
    assert_eq!(
        a("productpage.ns1.ns1.svc.cluster.local."),
        Some(vec![
            "productpage.ns1.ns1.svc.cluster.local. productpage.ns1.".into(),
            "productpage.ns1. 9.9.9.9".into()
        ])
    );
    assert_eq!(
        a("www.external.example.ns1.svc.cluster.local."),
        Some(vec![
            "www.external.example.ns1.svc.cluster.local. www.external.example.".into(),
            "www.external.example. 1.1.1.1".into()
        ])
    );
    // Nothing is expanded twice.
    assert_eq!(a("productpage.ns1.svc.cluster.local.ns1.svc.cluster.local."), None);
}

#[test]
fn a_service_of_another_namespace_needs_its_namespace() {
    assert_eq!(a("example."), None);
    assert_eq!(a("example.ns2."), one("example.ns2. 10.10.10.10"));
    assert_eq!(a("other.name."), one("other.name. 10.2.0.9"));
}

#[test]
fn a_service_of_another_domain_has_only_its_full_name() {
    assert_eq!(a("details.ns2."), None);
    assert_eq!(a("details.ns2.svc.cluster.remote."), one("details.ns2.svc.cluster.remote. 13.13.13.13"));
}

#[test]
fn a_family_without_addresses_is_an_empty_answer() {
    assert_eq!(ask("productpage.ns1.", RecordType::AAAA), Some(vec![]));
    assert_eq!(ask("dual.", RecordType::AAAA), one("dual. 2001:db8::2"));
    let mut both = a("dual.").unwrap();
    both.sort();
    assert_eq!(both, ["dual. 2.2.2.2", "dual. 3.3.3.3"]);
    // The alias stands although its target has no such address.
    assert_eq!(ask("productpage.ns1.ns1.svc.cluster.local.", RecordType::AAAA).unwrap().len(), 1);
}

#[test]
fn the_nearest_wildcard_answers_under_the_name_asked_for() {
    assert_eq!(a("foo.wildcard."), one("foo.wildcard. 10.0.0.1"));
    assert_eq!(a("a.foo.wildcard."), one("a.foo.wildcard. 10.0.0.1"));
    assert_eq!(a("foo.b.wildcard."), one("foo.b.wildcard. 10.0.0.2"));
    assert_eq!(a("wildcard."), None);
    assert_eq!(
        a("x.foo.b.wildcard.ns1.svc.cluster.local."),
        Some(vec![
            "x.foo.b.wildcard.ns1.svc.cluster.local. x.foo.b.wildcard.".into(),
            "x.foo.b.wildcard. 10.0.0.2".into()
        ])
    );
}

#[test]
fn unknown_names_and_other_types_are_forwarded() {
    assert_eq!(a("nobody.knows."), None);
    assert_eq!(ask("productpage.ns1.", RecordType::TXT), None);
    assert_eq!(ask(".", RecordType::A), None);
    let mut chaos = question("productpage.", RecordType::A);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(ask_with(&table(), &chaos, Transport::Udp), None);
    let mut update = question("productpage.", RecordType::A);
    update.metadata.op_code = OpCode::Update;
    assert_eq!(ask_with(&table(), &update, Transport::Udp), None);
}

#[test]
fn before_the_first_table_queries_fail_and_are_not_denied() {
    let query = question("productpage.", RecordType::A).to_vec().unwrap();
    let Verdict::Reply(reply) = decide(None, &query, Transport::Udp, &mut StdRng::seed_from_u64(1)) else {
        panic!("not answered")
    };
    assert_eq!(Message::from_vec(&reply).unwrap().metadata.response_code, ResponseCode::ServFail);
}

#[test]
fn odd_queries_get_an_error_and_replies_get_silence() {
    let mut chance = StdRng::seed_from_u64(1);
    let mut decide = |packet: &[u8]| decide(Some(&table()), packet, Transport::Udp, &mut chance);
    let code = |verdict| match verdict {
        Verdict::Reply(bytes) => Some(Message::from_vec(&bytes).unwrap().metadata.response_code),
        _ => None,
    };
    let none = Message::new(1, MessageType::Query, OpCode::Query).to_vec().unwrap();
    assert_eq!(code(decide(&none)), Some(ResponseCode::ServFail));
    let mut two = question("productpage.", RecordType::A);
    two.add_query(two.queries[0].clone());
    assert_eq!(code(decide(&two.to_vec().unwrap())), Some(ResponseCode::FormErr));
    let mut cut = question("productpage.", RecordType::A).to_vec().unwrap();
    cut.truncate(14);
    assert_eq!(code(decide(&cut)), Some(ResponseCode::FormErr));
    cut.truncate(11);
    assert_eq!(decide(&cut), Verdict::Ignore);
    let response = Message::response(1, OpCode::Query).to_vec().unwrap();
    assert_eq!(decide(&response), Verdict::Ignore);
}

#[test]
fn long_answers_are_cut_to_what_the_client_takes() {
    let table = table();
    let mut query = question("many.example.", RecordType::A);
    let plain = ask_with(&table, &query, Transport::Udp).unwrap();
    assert!(plain.metadata.truncation && plain.to_vec().unwrap().len() <= 512, "{}", plain.answers.len());
    assert!(plain.answers.len() > 10);
    let tcp = ask_with(&table, &query, Transport::Tcp).unwrap();
    assert_eq!((tcp.answers.len(), tcp.metadata.truncation), (150, false));
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    query.set_edns(edns);
    let large = ask_with(&table, &query, Transport::Udp).unwrap();
    assert_eq!((large.answers.len(), large.metadata.truncation), (150, false));
    assert!(large.edns.is_some());
}

#[test]
fn answers_are_shuffled() {
    let table = table();
    let query = question("dual.", RecordType::A).to_vec().unwrap();
    let mut chance = StdRng::seed_from_u64(3);
    let mut first = [0; 2];
    for _ in 0..200 {
        let Verdict::Reply(bytes) = decide(Some(&table), &query, Transport::Udp, &mut chance) else {
            panic!()
        };
        let reply = Message::from_vec(&bytes).unwrap();
        let two = IpAddr::V4(Ipv4Addr::new(2, 2, 2, 2));
        first[usize::from(reply.answers[0].data.ip_addr() == Some(two))] += 1;
    }
    assert!(first.iter().all(|count| *count > 60), "{first:?}");
}

#[test]
fn a_host_that_is_no_name_is_reported_and_the_others_stand() {
    let table = table();
    assert_eq!(table.refused(), ["not..a.name.", "-odd-.example."]);
    assert_eq!(table.hosts(), 12);
}

#[test]
fn an_upstream_reply_over_the_limit_is_cut_and_marked() {
    let mut reply = Message::response(7, OpCode::Query);
    reply.add_query(Query::query(Name::from_str("big.example.").unwrap(), RecordType::A));
    for n in 0..100 {
        let data = RData::A(A(Ipv4Addr::new(10, 0, 0, n)));
        reply.add_answer(Record::from_rdata(Name::from_str("big.example.").unwrap(), 60, data));
    }
    let bytes = reply.to_vec().unwrap();
    assert_eq!(fit(bytes.clone(), 4096), Some(bytes.clone()));
    let cut = Message::from_vec(&fit(bytes, 512).unwrap()).unwrap();
    assert!(cut.metadata.truncation && !cut.answers.is_empty());
    assert_eq!(fit(vec![0xff; 600], 512), None);
}

proptest! {
    #[test]
    fn no_packet_makes_it_panic(packet in proptest::collection::vec(any::<u8>(), 0..600), tcp: bool) {
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        let _ = decide(Some(&table()), &packet, transport, &mut StdRng::seed_from_u64(1));
        let _ = fit(packet, 40);
    }

    #[test]
    fn no_damaged_query_makes_it_panic(at in 0usize..40, byte: u8, length in 0usize..60) {
        let mut packet = question("productpage.ns1.svc.cluster.local.", RecordType::A).to_vec().unwrap();
        if let Some(place) = packet.get_mut(at) {
            *place = byte;
        }
        packet.truncate(length);
        if let Verdict::Reply(bytes) = decide(Some(&table()), &packet, Transport::Udp, &mut StdRng::seed_from_u64(1)) {
            prop_assert!(bytes.len() <= 512);
        }
    }
}
