use super::*;

fn bench(sets: &[(&'static str, &[(&str, &str)])]) -> Bench {
    Bench::new(Flavour::World, sets)
}

#[test]
fn a_full_state_type_repeats_everything_when_anything_changes() {
    let mut bench = bench(&[(CLUSTER, &[("a", "a1"), ("b", "b1")])]);
    bench.world(CLUSTER, "", &[]);
    assert_eq!(bench.settle(), ["CDS a1,b1"]);
    bench.publish(&[(CLUSTER, &[("a", "a2"), ("b", "b1")])]);
    assert_eq!(bench.settle(), ["CDS a2,b1"]);
    bench.publish(&[(CLUSTER, &[("a", "a2")])]);
    assert_eq!(bench.settle(), ["CDS a2"]);
}

#[test]
fn endpoints_come_one_by_one() {
    let mut bench = bench(&[(ENDPOINTS, &[("a", "a1"), ("b", "b1"), ("c", "c1")])]);
    bench.world(ENDPOINTS, "", &["a", "b"]);
    assert_eq!(bench.settle(), ["EDS a1,b1"]);
    bench.publish(&[(ENDPOINTS, &[("a", "a1"), ("b", "b2"), ("c", "c2")])]);
    assert_eq!(bench.settle(), ["EDS b2"]);
    bench.publish(&[(ENDPOINTS, &[("a", "a1"), ("b", "b2"), ("c", "c3")])]);
    assert_eq!(bench.next(), None);
}

#[test]
fn asking_for_no_name_of_a_named_type_drops_it_whatever_the_nonce() {
    let mut bench = bench(&[(ENDPOINTS, &[("a", "a1")])]);
    assert_eq!(bench.world(ENDPOINTS, "", &[]), Heard::Dropped);
    bench.world(ENDPOINTS, "", &["a"]);
    bench.settle();
    assert_eq!(bench.world(ENDPOINTS, "stale", &[]), Heard::Dropped);
    assert!(!bench.subscriptions.watches(ENDPOINTS));
    bench.publish(&[(ENDPOINTS, &[("a", "a2")])]);
    assert_eq!(bench.next(), None);
}

#[test]
fn a_nonce_of_an_earlier_response_is_ignored() {
    let mut bench = bench(&[(ENDPOINTS, &[("a", "1"), ("b", "1")])]);
    bench.world(ENDPOINTS, "", &["a"]);
    let first = bench.next().unwrap();
    bench.publish(&[(ENDPOINTS, &[("a", "2"), ("b", "1")])]);
    let second = bench.next().unwrap();
    assert_eq!(bench.world(ENDPOINTS, &first.nonce, &["a", "b"]), Heard::Stale);
    assert_eq!(bench.next(), None);
    assert_eq!(bench.world(ENDPOINTS, &second.nonce, &["a", "b"]), Heard::Asked);
    assert_eq!(bench.settle(), ["EDS 2,1"]);
}

#[test]
fn an_unknown_nonce_on_a_new_stream_is_answered() {
    let mut bench = bench(&[(CLUSTER, &[("a", "1")])]);
    assert_eq!(bench.world(CLUSTER, "from-an-earlier-stream", &[]), Heard::Asked);
    assert_eq!(bench.settle(), ["CDS 1"]);
}

#[test]
fn added_names_are_answered_and_dropped_names_are_not() {
    let mut bench = bench(&[(ROUTE, &[("a", "1"), ("b", "1")])]);
    bench.world(ROUTE, "", &["a"]);
    let nonce = bench.next().unwrap().nonce;
    assert_eq!(bench.world(ROUTE, &nonce, &["a"]), Heard::Acked);
    assert_eq!(bench.next(), None);
    assert_eq!(bench.world(ROUTE, &nonce, &["b", "a"]), Heard::Asked);
    let nonce = bench.next().unwrap().nonce;
    assert_eq!(bench.world(ROUTE, &nonce, &["b"]), Heard::Dropped);
    assert_eq!(bench.next(), None);
    bench.publish(&[(ROUTE, &[("a", "2"), ("b", "1")])]);
    assert_eq!(bench.next(), None);
}

#[test]
fn listeners_asked_for_by_name_are_not_everything_and_vanish_by_absence() {
    let mut bench = bench(&[(LISTENER, &[("a", "1"), ("b", "1")])]);
    bench.world(LISTENER, "", &["a"]);
    assert_eq!(bench.settle(), ["LDS 1"]);
    assert_eq!(bench.report(LISTENER).resources, 1);
    bench.publish(&[(LISTENER, &[("b", "1")])]);
    assert_eq!(bench.settle(), ["LDS"]);
}

#[test]
fn a_star_is_everything() {
    let mut bench = bench(&[(LISTENER, &[("a", "1"), ("b", "1")])]);
    bench.world(LISTENER, "", &["*"]);
    assert_eq!(bench.next().unwrap().resources.len(), 2);
}

#[test]
fn endpoints_are_answered_again_after_clusters_were_asked_for_again() {
    let mut bench = bench(&[(CLUSTER, &[("a", "1")]), (ENDPOINTS, &[("a", "e")])]);
    bench.world(CLUSTER, "", &[]);
    bench.settle();
    bench.world(ENDPOINTS, "", &["a"]);
    bench.settle();
    let nonce = format!("{:x}", bench.subscriptions.nonces);
    bench.world(CLUSTER, "", &[]);
    assert_eq!(
        bench.world(ENDPOINTS, &nonce, &["a"]),
        Heard::Asked,
        "though it looks like an acknowledgement"
    );
    assert_eq!(bench.settle(), ["CDS 1", "EDS e"]);
}

#[test]
fn a_refusal_may_still_add_names() {
    let mut bench = bench(&[(ENDPOINTS, &[("a", "1"), ("b", "1")])]);
    bench.world(ENDPOINTS, "", &["a"]);
    let nonce = bench.next().unwrap().nonce;
    let names = Wanted::Exactly(vec!["a".into(), "b".into()]);
    let refusal = Request { type_url: ENDPOINTS.into(), nonce, error: Some("no".into()), names };
    assert_eq!(bench.heard(refusal), Heard::Nacked);
    assert_eq!(bench.next().unwrap().resources.len(), 2);
}

#[test]
fn names_that_do_not_exist_are_answered_with_what_does() {
    let mut bench = bench(&[(ENDPOINTS, &[("a", "1")])]);
    bench.world(ENDPOINTS, "", &["x"]);
    assert_eq!(bench.settle(), ["EDS"]);
    bench.publish(&[(ENDPOINTS, &[("a", "1"), ("x", "now")])]);
    assert_eq!(bench.settle(), ["EDS now"]);
}

#[test]
fn names_in_another_order_are_the_same_and_ask_for_nothing() {
    let mut bench = bench(&[(ENDPOINTS, &[("a", "1"), ("b", "1")])]);
    bench.world(ENDPOINTS, "", &["b", "a"]);
    let nonce = bench.next().unwrap().nonce;
    assert_eq!(bench.world(ENDPOINTS, &nonce, &["b", "a"]), Heard::Acked);
    assert_eq!(bench.world(ENDPOINTS, &nonce, &["a", "b"]), Heard::Acked);
    assert_eq!(bench.settle(), Vec::<String>::new());
    assert_eq!(bench.world(ENDPOINTS, &nonce, &["a"]), Heard::Dropped);
    assert_eq!(bench.world(ENDPOINTS, &nonce, &["b", "a"]), Heard::Asked);
}

#[test]
fn a_name_that_is_no_text_ends_the_stream() {
    let mut bench = bench(&[]);
    let names = Wanted::Exactly(vec![Bytes::from_static(b"\xff")]);
    let request = Request { type_url: ENDPOINTS.into(), names, ..Request::default() };
    let heard = bench.subscriptions.heard(request, &bench.view, &bench.cache);
    assert_eq!(heard, Err(BadRequest::NotText(ENDPOINTS.into())));
}
