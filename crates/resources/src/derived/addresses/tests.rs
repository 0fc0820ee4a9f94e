//! Allocation without an API server: entries in, plans out.

use serde_json::{Value, json};

use super::*;

fn entry(name: &str, created: &str, spec: Value, addresses: Value) -> Object {
    crate::parse(json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": name, "namespace": "web", "creationTimestamp": created},
        "spec": spec,
        "status": {"addresses": addresses},
    }))
    .unwrap()
}

fn hosts_spec(hosts: &[&str]) -> Value {
    json!({"hosts": hosts, "resolution": "DNS"})
}

fn plan(addresses: &mut Addresses, name: &str) -> Option<Vec<(String, String)>> {
    let wanted = addresses.plan(&("web".to_string(), name.to_string()))?;
    Some(wanted.into_iter().map(|address| (address.host, address.value)).collect())
}

fn pair(host: &str, value: &str) -> (String, String) {
    (host.to_string(), value.to_string())
}

const EARLY: &str = "2026-01-01T00:00:00Z";
const LATE: &str = "2026-01-02T00:00:00Z";

#[test]
fn each_host_gets_one_address_of_each_family_from_the_start_of_the_pools() {
    let mut addresses = Addresses::default();
    addresses.apply(&Change::Applied(entry(
        "a",
        EARLY,
        hosts_spec(&["x.example", "y.example", "x.example"]),
        json!([]),
    )));
    assert_eq!(
        plan(&mut addresses, "a").unwrap(),
        [
            pair("x.example", "240.240.0.1"),
            pair("x.example", "2001:2::1"),
            pair("y.example", "240.240.0.2"),
            pair("y.example", "2001:2::2"),
        ]
    );
}

#[test]
fn what_is_assigned_stays_and_is_never_given_twice() {
    let mut addresses = Addresses::default();
    let assigned =
        json!([{"value": "240.240.0.1", "host": "x.example"}, {"value": "2001:2::1", "host": "x.example"}]);
    addresses.apply(&Change::Applied(entry("a", EARLY, hosts_spec(&["x.example"]), assigned)));
    assert_eq!(plan(&mut addresses, "a"), None);
    addresses.apply(&Change::Removed(Kind::ServiceEntry, Some("web".parse().unwrap()), "a".into()));
    addresses.apply(&Change::Applied(entry("b", LATE, hosts_spec(&["y.example"]), json!([]))));
    assert_eq!(plan(&mut addresses, "b").unwrap()[0], pair("y.example", "240.240.0.2"));
}

#[test]
fn entries_that_are_not_eligible_get_nothing_and_lose_what_they_have() {
    let mut addresses = Addresses::default();
    let held = json!([{"value": "240.240.0.9", "host": "x.example"}]);
    let cases = [
        json!({"hosts": ["x.example"], "resolution": "NONE"}),
        json!({"hosts": ["x.example"], "resolution": "DNS", "addresses": ["192.0.2.1"]}),
        json!({"hosts": ["*.example"], "resolution": "STATIC"}),
    ];
    for spec in cases {
        addresses.apply(&Change::Applied(entry("a", EARLY, spec.clone(), json!([]))));
        assert_eq!(plan(&mut addresses, "a"), None, "{spec}");
        addresses.apply(&Change::Applied(entry("a", EARLY, spec.clone(), held.clone())));
        assert_eq!(plan(&mut addresses, "a"), Some(Vec::new()), "{spec}");
    }
    let dynamic = json!({"hosts": ["*.example"], "resolution": "DYNAMIC_DNS"});
    addresses.apply(&Change::Applied(entry("a", EARLY, dynamic, json!([]))));
    assert_eq!(plan(&mut addresses, "a").unwrap().len(), 2);
}

#[test]
fn the_oldest_keeps_an_address_that_two_have() {
    let mut addresses = Addresses::default();
    let same =
        json!([{"value": "240.240.0.7", "host": "x.example"}, {"value": "2001:2::7", "host": "x.example"}]);
    addresses.apply(&Change::Applied(entry("young", LATE, hosts_spec(&["x.example"]), same.clone())));
    addresses.dirty.clear();
    addresses.apply(&Change::Applied(entry("old", EARLY, hosts_spec(&["x.example"]), same)));
    assert!(
        addresses.dirty.contains(&("web".to_string(), "young".to_string())),
        "the other holder is looked at too"
    );
    assert_eq!(plan(&mut addresses, "old"), None);
    assert_eq!(
        plan(&mut addresses, "young").unwrap(),
        [pair("x.example", "240.240.0.1"), pair("x.example", "2001:2::1")]
    );
}

#[test]
fn an_address_that_a_user_asks_for_is_given_up() {
    let mut addresses = Addresses::default();
    let held =
        json!([{"value": "240.240.0.7", "host": "x.example"}, {"value": "2001:2::7", "host": "x.example"}]);
    addresses.apply(&Change::Applied(entry("a", EARLY, hosts_spec(&["x.example"]), held)));
    addresses.dirty.clear();
    let literal = json!({"hosts": ["z.example"], "resolution": "STATIC", "addresses": ["240.240.0.7"]});
    addresses.apply(&Change::Applied(entry("b", LATE, literal, json!([]))));
    assert!(addresses.dirty.contains(&("web".to_string(), "a".to_string())));
    assert_eq!(
        plan(&mut addresses, "a").unwrap(),
        [pair("x.example", "240.240.0.1"), pair("x.example", "2001:2::7")]
    );
}
