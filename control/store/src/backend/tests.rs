//! The same promises on both logs.

use std::sync::Arc;

use futures::StreamExt;

use super::*;
use crate::{Event, Value};

fn on_each(check: impl AsyncFn(Embedded)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(check(memory()));
    let dir = tempfile::tempdir().unwrap();
    runtime.block_on(check(open(dir.path().join("store.redb")).unwrap()));
}

fn text(value: &str) -> Value {
    Value::plain(value.as_bytes().to_vec())
}

async fn put(store: &Embedded, key: &str, value: &str) -> Revision {
    match store.txn(Txn::default().put(key, text(value))).await.unwrap() {
        Outcome::Committed { revision, .. } => revision,
        conflict => panic!("{conflict:?}"),
    }
}

#[test]
fn compare_and_commit() {
    on_each(async |store| {
        let create = || Txn::create("/a", text("1"));
        let Outcome::Committed { revision, written } = store.txn(create()).await.unwrap() else { panic!() };
        assert_eq!((written[0].created, written[0].modified), (revision, revision));
        let Outcome::Conflict { key, current } = store.txn(create()).await.unwrap() else { panic!() };
        assert_eq!((key.as_str(), current.unwrap().modified), ("/a", revision));
        let two = Txn::default().expect("/a", Some(revision)).put("/a", text("2")).put("/b", text("3"));
        let Outcome::Committed { revision: second, written } = store.txn(two.clone()).await.unwrap() else { panic!() };
        assert_eq!(second, revision.next());
        assert_eq!(written[0].created, revision);
        assert!(matches!(store.txn(two).await.unwrap(), Outcome::Conflict { .. }));
        assert_eq!(store.revision().await.unwrap(), second);
    });
}

#[test]
fn pages_continue_after_a_key_and_at_a_revision() {
    on_each(async |store| {
        for number in 0..5 {
            put(&store, &format!("/p/{number}"), "x").await;
        }
        put(&store, "/q/0", "other").await;
        let at = store.revision().await.unwrap();
        let first = store.range(Range { prefix: "/p/".into(), limit: 2, ..Range::default() }).await.unwrap();
        assert_eq!((first.entries.len(), first.remaining), (2, 3));
        // What happens between two pages does not show in the second.
        store.txn(Txn::default().delete("/p/3").put("/p/25", text("new")).put("/p/4", text("y"))).await.unwrap();
        let after = first.entries.last().map(|entry| entry.key.to_string());
        let next = Range { prefix: "/p/".into(), after, at: Some(at), ..Range::default() };
        let page = store.range(next).await.unwrap();
        let seen: Vec<_> = page.entries.iter().map(|entry| (&*entry.key, &entry.value[..])).collect();
        assert_eq!(seen, [("/p/2", &b"x"[..]), ("/p/3", b"x"), ("/p/4", b"x")]);
    });
}

/// Invariant `MONOTONIC`.
#[test]
fn a_monotonic_watch_is_ordered_gapless_unique_and_resumable() {
    on_each(async |store| {
        let store = Arc::new(store);
        let start = store.revision().await.unwrap();
        let writers = (0..8).map(|writer| {
            let store = store.clone();
            async move {
                for number in 0..50 {
                    put(&store, &format!("/w/{writer}"), &number.to_string()).await;
                }
            }
        });
        let watcher = async {
            let mut seen: Vec<Event> = Vec::new();
            let mut position = start;
            // Comes back after every batch: resuming must neither lose nor repeat.
            while seen.len() < 400 {
                let mut stream = store.watch("/w/", position).await.unwrap();
                let batch = stream.next().await.unwrap().unwrap();
                position = batch.revision;
                seen.extend(batch.events);
            }
            seen
        };
        let (seen, _) = tokio::join!(watcher, futures::future::join_all(writers));
        let revisions: Vec<u64> = seen.iter().map(|event| event.revision.get() - start.get()).collect();
        assert_eq!(revisions, (1..=400).collect::<Vec<_>>());
    });
}

#[test]
fn deletes_carry_the_last_value() {
    on_each(async |store| {
        let at = put(&store, "/d", "last").await;
        store.txn(Txn::default().delete("/d").delete("/never")).await.unwrap();
        let batch = store.watch("/", at).await.unwrap().next().await.unwrap().unwrap();
        assert_eq!(batch.events.len(), 1);
        assert_eq!(&batch.events[0].before.as_ref().unwrap().value[..], b"last");
        assert!(batch.events[0].after.is_none());
    });
}

#[test]
fn compacted_history_is_expired() {
    on_each(async |store| {
        let old = put(&store, "/c", "1").await;
        let new = put(&store, "/c", "2").await;
        store.compact(new).await.unwrap();
        assert!(matches!(store.watch("/", old).await.err(), Some(StoreError::Expired { .. })));
        let past = Range { prefix: "/".into(), at: Some(old), ..Range::default() };
        assert!(matches!(store.range(past).await, Err(StoreError::Expired { .. })));
        assert!(store.watch("/", new).await.is_ok());
    });
}

#[tokio::test]
async fn history_is_bounded() {
    let store = Embedded::start(memory::MemoryLog, Keep { events: 10, bytes: 1 << 20 }).unwrap();
    for _ in 0..25 {
        put(&store, "/h", "x").await;
    }
    assert!(matches!(store.watch("/", Revision(14)).await.err(), Some(StoreError::Expired { .. })));
    let batch = store.watch("/", Revision(15)).await.unwrap().next().await.unwrap().unwrap();
    assert_eq!(batch.events.len(), 10);
}

#[tokio::test]
async fn revisions_and_identity_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let store = open(&path).unwrap();
    put(&store, "/a", "1").await;
    store.txn(Txn::default().delete("/a")).await.unwrap();
    let (id, revision) = (store.id().to_owned(), store.revision().await.unwrap());
    drop(store);
    let store = open(&path).unwrap();
    assert_eq!((store.id(), store.revision().await.unwrap()), (id.as_str(), revision));
    assert_eq!(store.get("/a").await.unwrap(), None);
    assert!(store.watch("/", revision).await.is_ok());
    assert!(matches!(store.watch("/", Revision(1)).await.err(), Some(StoreError::Expired { .. })));
}

#[tokio::test]
async fn bad_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let held = open(&path).unwrap();
    assert!(matches!(open(&path), Err(StoreError::Locked { .. })));
    drop(held);
    let garbage = dir.path().join("garbage");
    std::fs::write(&garbage, vec![7; 100_000]).unwrap();
    let error = open(&garbage).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("garbage"));
    let missing = open(dir.path().join("no/such/dir/store")).unwrap_err();
    assert!(matches!(missing, StoreError::Disk { .. }), "{missing}");
}
