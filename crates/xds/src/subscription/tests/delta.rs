use super::*;

fn bench(sets: &[(&'static str, &[(&str, &str)])]) -> Bench {
    Bench::new(Flavour::Delta, sets)
}

#[test]
fn only_what_changed_is_sent_and_what_is_gone_is_named() {
    let mut bench = bench(&[(CLUSTER, &[("a", "1"), ("b", "1"), ("c", "1")])]);
    bench.delta(CLUSTER, "", &[], &[]);
    assert_eq!(bench.settle(), ["CDS a,b,c"]);
    bench.publish(&[(CLUSTER, &[("a", "1"), ("b", "2"), ("d", "1")])]);
    assert_eq!(bench.settle(), ["CDS b,d,-c"]);
    assert_eq!(bench.report(CLUSTER).resources, 3);
}

#[test]
fn a_name_asked_for_on_demand_is_answered_by_itself_or_by_its_removal() {
    let mut bench = bench(&[(LISTENER, &[("10.0.0.1_80", "1")])]);
    bench.delta(LISTENER, "", &["10.0.0.1_80"], &[]);
    assert_eq!(bench.settle(), ["LDS 10.0.0.1_80"]);
    assert_eq!(bench.delta(LISTENER, "", &["10.0.0.2_80"], &[]), Heard::Asked);
    assert_eq!(bench.settle(), ["LDS -10.0.0.2_80"]);
    bench.publish(&[(LISTENER, &[("10.0.0.1_80", "1"), ("10.0.0.2_80", "1"), ("10.0.0.3_80", "1")])]);
    assert_eq!(bench.settle(), ["LDS 10.0.0.2_80"]);
    bench.publish(&[(LISTENER, &[("10.0.0.1_80", "1")])]);
    assert_eq!(bench.settle(), ["LDS -10.0.0.2_80"]);
}

#[test]
fn the_first_absent_name_of_a_type_is_told_too() {
    let mut bench = bench(&[(LISTENER, &[])]);
    bench.delta(LISTENER, "", &["x"], &[]);
    assert_eq!(bench.settle(), ["LDS -x"]);
}

#[test]
fn a_name_subscribed_again_is_sent_again() {
    let mut bench = bench(&[(ENDPOINTS, &[("a", "1")])]);
    bench.delta(ENDPOINTS, "", &["a"], &[]);
    bench.settle();
    bench.delta(ENDPOINTS, "", &["a"], &[]);
    assert_eq!(bench.settle(), ["EDS a"]);
}

#[test]
fn a_dropped_name_is_heard_of_no_more() {
    let mut bench = bench(&[(ENDPOINTS, &[("a", "1"), ("b", "1")])]);
    bench.delta(ENDPOINTS, "", &["a", "b"], &[]);
    bench.settle();
    assert_eq!(bench.delta(ENDPOINTS, "", &[], &["a"]), Heard::Dropped);
    bench.publish(&[(ENDPOINTS, &[("a", "2"), ("b", "1")])]);
    assert_eq!(bench.next(), None);
    assert_eq!(bench.report(ENDPOINTS).resources, 1);
    bench.delta(ENDPOINTS, "", &[], &["b"]);
    bench.publish(&[(ENDPOINTS, &[])]);
    assert_eq!(bench.next(), None);
}

#[test]
fn an_acknowledgement_changes_nothing_by_itself() {
    let mut bench = bench(&[(CLUSTER, &[("a", "1")])]);
    bench.delta(CLUSTER, "", &[], &[]);
    let nonce = bench.next().unwrap().nonce;
    assert_eq!(bench.delta(CLUSTER, &nonce, &[], &[]), Heard::Acked);
    assert_eq!(bench.next(), None);
    assert_eq!(bench.report(CLUSTER).standing, Standing::Acked);
}

#[test]
fn names_in_an_acknowledgement_of_an_older_response_count() {
    let mut bench = bench(&[(ENDPOINTS, &[("a", "1"), ("b", "1")])]);
    bench.delta(ENDPOINTS, "", &["a"], &[]);
    let first = bench.next().unwrap().nonce;
    bench.publish(&[(ENDPOINTS, &[("a", "2"), ("b", "1")])]);
    bench.next().unwrap();
    assert_eq!(bench.delta(ENDPOINTS, &first, &["b"], &[]), Heard::Asked);
    assert_eq!(bench.settle(), ["EDS b"]);
}

#[test]
fn a_reconnect_brings_only_differences() {
    let mut bench = bench(&[(CLUSTER, &[("new", "1"), ("other", "2"), ("same", "1")])]);
    let initial = [("same", version("1")), ("other", version("1")), ("gone", version("1"))];
    bench.delta_with(CLUSTER, "", &[], &[], &initial);
    assert_eq!(bench.settle(), ["CDS new,other,-gone"]);
    assert_eq!(bench.report(CLUSTER).resources, 3);
    bench.publish(&[(CLUSTER, &[("same", "1")])]);
    assert_eq!(bench.settle(), ["CDS -new,-other"]);
}

#[test]
fn a_reconnect_without_differences_is_answered_emptily() {
    let mut bench = bench(&[(CLUSTER, &[("same", "1")])]);
    bench.delta_with(CLUSTER, "", &[], &[], &[("same", version("1"))]);
    assert_eq!(bench.settle(), ["CDS"]);
}

#[test]
fn names_held_from_an_earlier_stream_are_subscribed() {
    let mut bench = bench(&[(LISTENER, &[("a", "2"), ("b", "1")])]);
    let initial = [("a", version("1")), ("gone", version("1"))];
    bench.delta_with(LISTENER, "", &["b", "never"], &[], &initial);
    assert_eq!(bench.settle(), ["LDS a,b,-gone,-never"]);
}

#[test]
fn everything_and_names_can_be_asked_for_together_and_dropped_apart() {
    let mut bench = bench(&[(LISTENER, &[("a", "1"), ("b", "1")])]);
    bench.delta(LISTENER, "", &["*", "a", "x"], &[]);
    assert_eq!(bench.settle(), ["LDS a,b,-x"]);
    // The client cannot know whether `a` is part of everything: it is told.
    bench.delta(LISTENER, "", &[], &["a"]);
    assert_eq!(bench.settle(), ["LDS a"]);
    bench.delta(LISTENER, "", &["b"], &["*"]);
    assert_eq!(bench.settle(), ["LDS b"]);
    bench.publish(&[(LISTENER, &[("a", "2"), ("b", "2")])]);
    assert_eq!(bench.settle(), ["LDS b"]);
}

#[test]
fn everything_can_be_asked_for_later() {
    let mut bench = bench(&[(LISTENER, &[("a", "1"), ("b", "1")])]);
    bench.delta(LISTENER, "", &["a"], &[]);
    bench.settle();
    bench.delta(LISTENER, "", &["*"], &[]);
    assert_eq!(bench.settle(), ["LDS a,b"]);
}

#[test]
fn a_large_answer_comes_in_parts_and_a_refused_part_stays_refused() {
    let mut bench = bench(&[]);
    let big = |at: u8| Resource::new(format!("c{at:02}"), Bytes::from(vec![at; 1_000_000]));
    let set = Arc::new(ResourceSet::new((0..9).map(big).collect()));
    bench.view = Arc::new(View { version: 1, sets: vec![(CLUSTER, set)] });
    bench.delta(CLUSTER, "", &[], &[]);
    let parts: Vec<Read> = std::iter::from_fn(|| bench.next()).collect();
    assert_eq!(parts.iter().map(|part| part.resources.len()).sum::<usize>(), 9);
    assert_eq!(parts.len(), 3);
    bench.delta(CLUSTER, &parts[0].nonce, &[], &[]);
    bench.nack(CLUSTER, &parts[1].nonce);
    bench.delta(CLUSTER, &parts[2].nonce, &[], &[]);
    assert_eq!(bench.report(CLUSTER).standing, Standing::Nacked);
}

#[test]
fn endpoints_of_a_reconnect_are_not_sent_twice() {
    let sets: [(&'static str, &[(&str, &str)]); 2] = [(CLUSTER, &[("a", "2")]), (ENDPOINTS, &[("a", "e")])];
    let mut bench = bench(&sets);
    bench.delta_with(CLUSTER, "", &[], &[], &[("a", version("1"))]);
    bench.delta_with(ENDPOINTS, "", &["a"], &[], &[("a", version("e"))]);
    assert_eq!(bench.settle(), ["CDS a", "EDS"]);
}

#[test]
fn streams_that_ask_for_the_same_get_the_same_bytes() {
    let mut one = bench(&[(ENDPOINTS, &[("a", "1"), ("b", "1")])]);
    let mut two = Bench { subscriptions: Subscriptions::new(Flavour::Delta), ..bench(&[]) };
    (two.view, two.cache) = (Arc::clone(&one.view), Arc::clone(&one.cache));
    for bench in [&mut one, &mut two] {
        bench.delta(ENDPOINTS, "", &["a", "b"], &[]);
    }
    let first = one.subscriptions.next(&one.view, &one.cache).unwrap();
    let second = two.subscriptions.next(&two.view, &two.cache).unwrap();
    let pointer = |response: &Response| response.payload.parts[0].segments[0].as_ptr();
    assert_eq!(pointer(&first), pointer(&second));
    assert!(std::ptr::eq(
        one.subscriptions.watches[0].names.as_slice(),
        two.subscriptions.watches[0].names.as_slice()
    ));
}
