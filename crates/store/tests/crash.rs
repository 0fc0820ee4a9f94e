//! What the file keeps over restarts, and what watches learn when they fall behind.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use isthmus_store::{EmbeddedStore, Expect, Range, Store, StoreError, WatchError, Write};

async fn put(store: &EmbeddedStore, key: &str) -> u64 {
    match store.put(key, Bytes::from_static(b"v"), Expect::Any, None).await.expect("a put") {
        Write::Done { revision, .. } => revision,
        Write::Conflict(current) => panic!("a conflict with {current:?}"),
    }
}

#[tokio::test]
async fn an_acknowledged_write_is_in_a_copy_of_the_file_taken_at_that_moment() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("store.redb");
    let store = EmbeddedStore::open(&path).expect("a new store");
    for name in ["a", "b", "c"] {
        let revision = put(&store, name).await;
        // What a kill -9 now would leave.
        let copy = dir.path().join("copy.redb");
        std::fs::copy(&path, &copy).expect("a copy");
        let after = EmbeddedStore::open(&copy).expect("the copy opens");
        assert_eq!(after.revision().await.expect("a revision"), revision);
        assert_eq!(after.get(name).await.expect("a get").map(|kv| kv.mod_revision), Some(revision));
    }
}

#[tokio::test]
async fn the_counter_goes_on_after_a_restart_and_the_file_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("store.redb");
    let store = EmbeddedStore::open(&path).expect("a new store");
    put(&store, "a").await;
    let last = put(&store, "a").await;
    assert!(EmbeddedStore::open(&path).is_err(), "a second process must not open it");
    drop(store);
    let store = EmbeddedStore::open(&path).expect("it opens again");
    assert_eq!(put(&store, "b").await, last + 1);
    assert_eq!(std::fs::metadata(&path).expect("the file").permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn what_the_history_has_forgotten_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = EmbeddedStore::open_with_history(&dir.path().join("s"), 10).expect("a new store");
    let first = put(&store, "a").await;
    let mut slow = store.watch("", first).await.expect("a watch");
    for _ in 0..20 {
        put(&store, "a").await;
    }
    let error = slow.next().await.expect("an answer").expect_err("the events are gone");
    assert!(matches!(error, WatchError::Compacted { oldest } if oldest == first + 11), "{error}");
    assert!(slow.next().await.is_none());
    let old = Range { revision: Some(first), ..Range::default() };
    assert!(matches!(store.range(old).await, Err(StoreError::Compacted { .. })));
}

#[tokio::test]
async fn a_thousand_writers_at_once_share_syncs() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = Arc::new(EmbeddedStore::open(&dir.path().join("s")).expect("a new store"));
    let keys: Vec<String> = (0..1000).map(|n| format!("k/{n}")).collect();
    let started = std::time::Instant::now();
    let writes = futures::future::join_all(keys.iter().map(|key| put(&store, key))).await;
    println!("1000 durable writes: {:?}", started.elapsed());
    let mut sorted = writes.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), 1000, "every write has its own revision");
}
