use super::*;
use crate::record::tests::{export, gateway, owner};

fn imports() -> Imports {
    Imports::new("east".parse().unwrap(), owner("east"), Limits { records: 3, bytes: 1 << 20 })
}

fn service(name: &str, ready: u32) -> Record {
    record::service(&owner("east"), &export(name, ready))
}

#[test]
fn a_saved_table_comes_back_and_is_replayed() {
    let mut one = imports();
    one.upsert(service("a", 1)).unwrap();
    one.upsert(record::gateway(&owner("east"), &gateway("192.0.2.1"))).unwrap();
    one.begin(5, 9, &one.held.keys().cloned().collect());
    one.synced();
    one.heard(1234);
    assert!(one.is_dirty());
    let bytes = one.save();
    assert!(!one.is_dirty());
    let two = Imports::load("east".parse().unwrap(), owner("east"), Limits::default(), &bytes).unwrap();
    assert_eq!((two.position(), two.heard_ms(), two.is_synced()), ((5, 9), Some(1234), true));
    assert_eq!((two.len(), two.services()), (2, 1));
    assert_eq!(two.replay(), one.replay());
    assert_eq!(two.replay().last(), Some(&PeerChange::Synced));
}

#[test]
fn damaged_or_foreign_bytes_are_told_apart() {
    let load = |bytes: &[u8], of: &str| {
        Imports::load("east".parse().unwrap(), owner(of), Limits::default(), bytes).unwrap_err()
    };
    let mut saved = imports().save();
    assert!(matches!(load(&saved, "north"), LoadError::Foreign(..)));
    saved.push(0xff);
    assert!(matches!(load(&saved, "east"), LoadError::Damaged(..)));
}

#[test]
fn a_refused_change_leaves_the_last_good_record() {
    let mut imports = imports();
    imports.upsert(service("a", 1)).unwrap();
    let mut bad = service("a", 2);
    if let Some(isthmus_proto::federation::record::Body::Service(body)) = &mut bad.body {
        body.ports[0].number = 0;
    }
    assert!(imports.upsert(bad).is_err());
    assert_eq!(imports.replay(), [PeerChange::Service(export("a", 1))]);
    assert_eq!(imports.refusals().count(), 1);
    imports.upsert(service("a", 3)).unwrap();
    assert_eq!(imports.refusals().count(), 0);
}

#[test]
fn the_limit_holds_and_spares_what_is_there() {
    let mut imports = imports();
    for name in ["a", "b", "c"] {
        imports.upsert(service(name, 1)).unwrap();
    }
    assert_eq!(imports.upsert(service("d", 1)), Err(InvalidRecord::TooMany(3)));
    assert!(imports.upsert(service("a", 2)).unwrap().is_some());
    let mut small = Imports::new("east".parse().unwrap(), owner("east"), Limits { records: 9, bytes: 400 });
    small.upsert(service("a", 1)).unwrap();
    assert_eq!(small.upsert(service("b", 1)), Err(InvalidRecord::TooLarge(400)));
}

#[test]
fn digests_count_what_was_sent_though_it_was_refused() {
    let mut log = crate::log::Log::new(owner("east"), 1);
    log.state(&["a", "b", "c", "d"].map(|name| export(name, 1)), &[]);
    let mut imports = imports();
    let mut cursor = 0;
    while let Some(change) = log.after(cursor) {
        cursor = change.cursor;
        if let Some(isthmus_proto::federation::change::Change::Upsert(record)) = change.change {
            let _ = imports.upsert(record);
        }
    }
    assert_eq!(imports.len(), 3);
    assert_eq!(imports.digests().unwrap(), log.digests());
    // What another owner slips in does not count.
    let _ = imports.upsert(record::service(&owner("north"), &export("e", 1)));
    assert_eq!(imports.digests().unwrap(), log.digests());
}
