//! The promises of [`Store`], each as a check on an empty one.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use isthmus_store::{Event, Expect, Range, Store, StoreError, WatchStream, Write};

type Check = fn(Arc<dyn Store>) -> Pin<Box<dyn Future<Output = ()>>>;

/// Every check with its name.
pub(crate) fn all() -> Vec<(&'static str, Check)> {
    vec![
        ("writes-are-conditional", |s| Box::pin(writes_are_conditional(s))),
        ("pages-show-one-revision", |s| Box::pin(pages_show_one_revision(s))),
        ("watches-tell-all", |s| Box::pin(watches_tell_all(s))),
        ("the-future-is-refused", |s| Box::pin(the_future_is_refused(s))),
        ("leases-end", |s| Box::pin(leases_end(s))),
        ("leases-live-and-are-revoked", |s| Box::pin(leases_live_and_are_revoked(s))),
        ("many-writers-lose-nothing", |s| Box::pin(many_writers_lose_nothing(s))),
    ]
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn done(write: Write) -> u64 {
    match write {
        Write::Done { revision, .. } => revision,
        Write::Conflict(current) => panic!("a conflict with {current:?}"),
    }
}

async fn put(store: &Arc<dyn Store>, key: &str, value: &str) -> u64 {
    done(store.put(key, bytes(value), Expect::Any, None).await.expect("a put"))
}

async fn events(watch: &mut WatchStream, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    let wait = async {
        while events.len() < count {
            events.extend(watch.next().await.expect("the watch runs").expect("no error").events);
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("the events arrive");
    events
}

async fn writes_are_conditional(store: Arc<dyn Store>) {
    let first = done(store.put("a/1", bytes("x"), Expect::Absent, None).await.expect("a put"));
    let again = store.put("a/1", bytes("y"), Expect::Absent, None).await.expect("an answer");
    assert!(matches!(again, Write::Conflict(Some(kv)) if kv.value == "x" && kv.mod_revision == first));
    let second = done(store.put("a/1", bytes("y"), Expect::Revision(first), None).await.expect("a put"));
    assert_eq!(second, first + 1, "one counter, one step for a write");
    assert_eq!(put(&store, "b/1", "z").await, second + 1, "one counter for all keys");
    let stale = store.put("a/1", bytes("z"), Expect::Revision(first), None).await.expect("an answer");
    assert!(matches!(stale, Write::Conflict(Some(kv)) if kv.value == "y"));
    let kv = store.get("a/1").await.expect("a get").expect("it exists");
    assert_eq!((kv.create_revision, kv.mod_revision, kv.value), (first, second, bytes("y")));
    let stale = store.delete("a/1", Expect::Revision(first)).await.expect("an answer");
    assert!(matches!(stale, Write::Conflict(Some(_))));
    let Write::Done { previous, .. } =
        store.delete("a/1", Expect::Revision(second)).await.expect("an answer")
    else {
        panic!("the delete was refused")
    };
    assert_eq!(previous.expect("what was there").value, "y");
    assert_eq!(store.delete("a/1", Expect::Any).await.expect("an answer"), Write::Conflict(None));
    assert_eq!(store.get("a/1").await.expect("a get"), None);
    let absent = store.put("a/1", bytes("z"), Expect::Revision(second), None).await.expect("an answer");
    assert_eq!(absent, Write::Conflict(None));
    assert_eq!(store.revision().await.expect("a revision"), second + 2);
}

async fn pages_show_one_revision(store: Arc<dyn Store>) {
    for name in ["b", "d", "a", "c", "e"] {
        put(&store, &format!("p/{name}"), name).await;
    }
    put(&store, "p0", "other").await;
    let page = |after: Option<&str>, revision| Range {
        prefix: "p/".to_string(),
        after: after.map(str::to_string),
        limit: 2,
        revision,
    };
    let names = |page: &isthmus_store::Page| {
        page.items.iter().map(|kv| String::from_utf8_lossy(&kv.value).to_string()).collect::<Vec<_>>()
    };
    let one = store.range(page(None, None)).await.expect("a page");
    assert_eq!((names(&one), one.more), (vec!["a".to_string(), "b".to_string()], true));
    store.delete("p/c", Expect::Any).await.expect("a delete");
    put(&store, "p/bb", "bb").await;
    put(&store, "p/d", "changed").await;
    put(&store, "p/d", "changed again").await;
    let two = store.range(page(Some("p/b"), Some(one.revision))).await.expect("a page");
    assert_eq!((names(&two), two.more), (vec!["c".to_string(), "d".to_string()], true));
    let three = store.range(page(Some("p/d"), Some(one.revision))).await.expect("a page");
    assert_eq!((names(&three), three.more), (vec!["e".to_string()], false));
    let now = store.range(Range { prefix: "p/".to_string(), ..Range::default() }).await.expect("a page");
    assert_eq!(names(&now), ["a", "b", "bb", "changed again", "e"]);
}

async fn watches_tell_all(store: Arc<dyn Store>) {
    let before = put(&store, "w/a", "1").await;
    put(&store, "w/a", "2").await;
    put(&store, "x/a", "unseen").await;
    let mut watch = store.watch("w/", before + 1).await.expect("a watch");
    store.delete("w/a", Expect::Any).await.expect("a delete");
    let last = put(&store, "w/b", "3").await;
    let seen = events(&mut watch, 3).await;
    let text = |kv: &Option<isthmus_store::KeyValue>| {
        kv.as_ref().map(|kv| String::from_utf8_lossy(&kv.value).to_string())
    };
    let told: Vec<_> = seen.iter().map(|e| (e.key.as_str(), text(&e.previous), text(&e.current))).collect();
    let some = |text: &str| Some(text.to_string());
    assert_eq!(told, [("w/a", some("1"), some("2")), ("w/a", some("2"), None), ("w/b", None, some("3"))]);
    assert!(seen.windows(2).all(|pair| pair[0].revision < pair[1].revision), "in order");
    assert_eq!(seen[2].revision, last);
    let elsewhere = put(&store, "x/b", "unseen").await;
    let progress = async {
        loop {
            let batch = watch.next().await.expect("the watch runs").expect("no error");
            assert!(batch.events.is_empty());
            if batch.revision >= elsewhere {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), progress).await.expect("the watch says how far it is");
}

async fn the_future_is_refused(store: Arc<dyn Store>) {
    let latest = put(&store, "f", "1").await;
    let range = Range { prefix: "f".to_string(), revision: Some(latest + 100), ..Range::default() };
    assert!(matches!(store.range(range).await, Err(StoreError::Future { .. })));
}

async fn leases_end(store: Arc<dyn Store>) {
    let lease = store.lease_grant(Duration::from_secs(1)).await.expect("a lease");
    let at = done(store.put("l/a", bytes("x"), Expect::Absent, Some(lease)).await.expect("a put"));
    assert_eq!(store.get("l/a").await.expect("a get").and_then(|kv| kv.lease), Some(lease));
    let mut watch = store.watch("l/", at + 1).await.expect("a watch");
    let seen = events(&mut watch, 1).await;
    assert_eq!((seen[0].key.as_str(), &seen[0].current), ("l/a", &None));
    assert!(!store.lease_keep_alive(lease).await.expect("an answer"));
    let late = store.put("l/b", bytes("x"), Expect::Any, Some(lease)).await;
    assert!(matches!(late, Err(StoreError::NoLease(id)) if id == lease));
}

async fn leases_live_and_are_revoked(store: Arc<dyn Store>) {
    let lease = store.lease_grant(Duration::from_secs(60)).await.expect("a lease");
    assert!(store.lease_keep_alive(lease).await.expect("an answer"));
    store.put("r/a", bytes("x"), Expect::Absent, Some(lease)).await.expect("a put");
    store.put("r/b", bytes("x"), Expect::Absent, Some(lease)).await.expect("a put");
    store.put("r/b", bytes("free"), Expect::Any, None).await.expect("a put");
    assert!(store.lease_revoke(lease).await.expect("an answer"));
    assert!(!store.lease_revoke(lease).await.expect("an answer"));
    assert_eq!(store.get("r/a").await.expect("a get"), None);
    assert!(store.get("r/b").await.expect("a get").is_some(), "a write without a lease detaches the key");
}

async fn many_writers_lose_nothing(store: Arc<dyn Store>) {
    put(&store, "n", "0").await;
    let adders = (0..8).map(|_| async {
        for _ in 0..5 {
            loop {
                let kv = store.get("n").await.expect("a get").expect("it exists");
                let sum: u32 = String::from_utf8_lossy(&kv.value).parse().expect("a number");
                let next = bytes(&(sum + 1).to_string());
                let write = store.put("n", next, Expect::Revision(kv.mod_revision), None).await;
                if matches!(write.expect("an answer"), Write::Done { .. }) {
                    break;
                }
            }
        }
    });
    futures::future::join_all(adders).await;
    assert_eq!(store.get("n").await.expect("a get").expect("it exists").value, "40");
}

/// What two stores over the same keys owe each other.
#[allow(dead_code, reason = "only a shared store has replicas")]
pub(crate) async fn replicas(one: Arc<dyn Store>, other: Arc<dyn Store>) {
    let at = put(&one, "k", "1").await;
    assert!(other.revision().await.expect("a revision") >= at);
    assert_eq!(other.get("k").await.expect("a get").expect("it exists").value, "1");
    let stale = other.put("k", bytes("2"), Expect::Absent, None).await.expect("an answer");
    assert!(matches!(stale, Write::Conflict(Some(_))));
    let mut watch = other.watch("", at).await.expect("a watch");
    done(one.delete("k", Expect::Revision(at)).await.expect("an answer"));
    let seen = events(&mut watch, 2).await;
    assert_eq!(seen[1].current, None);
}
