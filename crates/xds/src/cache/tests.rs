use super::*;

const URL: &str = "type.googleapis.com/test.Thing";

fn set(resources: &[(&str, &str)]) -> Arc<ResourceSet> {
    let resource =
        |(name, body): &(&str, &str)| Resource::new(*name, Bytes::copy_from_slice(body.as_bytes()));
    Arc::new(ResourceSet::new(resources.iter().map(resource).collect()))
}

fn many(count: usize, size: usize) -> Vec<Resource> {
    (0..count).map(|at| Resource::new(format!("name-{at:05}"), Bytes::from(vec![at as u8; size]))).collect()
}

#[test]
fn a_diff_names_what_is_new_changed_and_gone() {
    let diff = Diff::between(
        &set(&[("a", "1"), ("b", "1"), ("c", "1")]),
        &set(&[("b", "1"), ("c", "2"), ("d", "1")]),
    );
    let upserts: Vec<(&str, bool)> = diff.upserts.iter().map(|(r, new)| (&*r.name, *new)).collect();
    assert_eq!(upserts, [("c", false), ("d", true)]);
    assert_eq!(diff.removed, ["a".into()]);
}

#[test]
fn streams_at_one_cursor_share_the_difference_and_its_bytes() {
    let cache = Cache::new();
    let (old, new) = (set(&[("a", "1")]), set(&[("a", "2")]));
    let first = cache.diff(&old, &new);
    assert!(Arc::ptr_eq(&first, &cache.diff(&old, &new)));
    assert!(
        Arc::ptr_eq(&cache.change(URL, &first), &cache.change(URL, &first))
            || first.encoded.lock().upgrade().is_none()
    );
    let held = cache.change(URL, &first);
    assert!(Arc::ptr_eq(&held, &cache.change(URL, &first)));
}

#[test]
fn sets_that_differ_in_one_resource_share_all_other_bytes() {
    let cache = Cache::new();
    let base = many(1000, 100);
    let mut other = base.clone();
    other[500] = Resource::new("name-00500", Bytes::from_static(b"own"));
    let one = cache.full(Flavour::Delta, URL, &Arc::new(ResourceSet::new(base)));
    let two = cache.full(Flavour::Delta, URL, &Arc::new(ResourceSet::new(other)));
    let pointers = |payload: &Payload| -> std::collections::HashSet<*const u8> {
        payload.parts.iter().flat_map(|part| &part.segments).map(|segment| segment.as_ptr()).collect()
    };
    let (one, two) = (pointers(&one), pointers(&two));
    assert!(one.len() > 10);
    assert_eq!(one.difference(&two).count(), 1);
}

#[test]
fn bytes_are_freed_once_nobody_sends_them() {
    let cache = Cache::new();
    let all = Arc::new(ResourceSet::new(many(100, 10)));
    let payload = cache.full(Flavour::World, URL, &all);
    let weak = Arc::downgrade(&payload);
    drop(payload);
    assert!(weak.upgrade().is_none());
    assert!(cache.runs.lock().entries.values().all(|run| run.strong_count() == 0));
}

#[test]
fn delta_is_split_below_the_usual_limit_and_state_of_the_world_is_not() {
    let cache = Cache::new();
    let all = Arc::new(ResourceSet::new(many(100, 100_000)));
    let delta = cache.full(Flavour::Delta, URL, &all);
    assert!(delta.parts.len() > 2);
    assert!(delta.parts.iter().all(|part| part.length < 4 * 1024 * 1024 - 1024));
    assert_eq!(delta.parts.iter().map(|part| part.resources).sum::<usize>(), 100);
    assert_eq!(cache.full(Flavour::World, URL, &all).parts.len(), 1);
}

#[test]
fn equal_lists_of_names_are_one() {
    let cache = Cache::new();
    let list = || vec![Arc::from("a"), Arc::from("b")];
    let (one, two) = (cache.share_names(list()), cache.share_names(list()));
    assert!(std::ptr::eq(one.as_slice(), two.as_slice()));
}

#[test]
fn a_list_is_found_by_what_was_said_in_any_order_and_no_other_is() {
    let cache = Cache::new();
    let said = cache.fingerprint(&["b", "a"]);
    let names = cache.share_said(said, vec!["a".into(), "b".into()]);
    let found = cache.said(cache.fingerprint(&["a", "b"])).unwrap();
    assert!(std::ptr::eq(found.as_slice(), names.as_slice()));
    for other in [&["a"][..], &["b", "b"], &["ab"], &["a", "b", "b"], &[]] {
        assert!(cache.said(cache.fingerprint(other)).is_none(), "{other:?}");
    }
    drop((names, found));
    assert!(cache.said(said).is_none(), "nobody asks for it any longer");
}

#[test]
fn streams_that_ask_for_the_same_names_share_a_payload_and_others_do_not() {
    let cache = Cache::new();
    let all = set(&[("a", "1"), ("b", "1")]);
    let list = |names: &[&str]| cache.share_names(names.iter().map(|name| Arc::from(*name)).collect());
    let (some, more) = (list(&["a", "x"]), list(&["a", "b"]));
    let of = |flavour, names| cache.subscribed(flavour, URL, &all, names);
    let (first, again) = (of(Flavour::Delta, &some), of(Flavour::Delta, &some));
    assert!(Arc::ptr_eq(&first, &again));
    assert_eq!(first.resources(), 1);
    let removed = removed_len("x");
    assert_eq!(first.parts[0].segments.last().unwrap().len(), removed, "what is not there is said in delta");
    assert_eq!(of(Flavour::World, &some).parts[0].segments.len(), 1);
    assert_eq!(of(Flavour::Delta, &more).resources(), 2);
    assert_eq!(cache.full(Flavour::Delta, URL, &all).resources(), 2);
}
