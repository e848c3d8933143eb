//! The protocol's rules, one test each.

use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::feed::{Change, Commit, Opening, Record, kinds};

fn world(store_id: &str, revision: u64) -> World {
    let commits = futures::stream::pending();
    World::open(&Opening { store_id: store_id.into(), revision, records: Vec::new(), commits: Box::pin(commits) })
}

fn put(world: &mut World, revision: u64, name: &str, size: usize) {
    let tree = json!({"kind": "Service", "metadata": {"namespace": "default", "name": name}, "spec": "x".repeat(size)});
    let json = serde_json::to_vec(&tree).expect("JSON").into();
    let object = Arc::new(serde_json::from_value(tree).expect("an object"));
    let record = Record { kind: kinds()[0], object, json, revision };
    let changes = vec![Change { record, removed: false }];
    world.apply(Commit { revision, committed_at: 77, changes });
}

fn hello(node: &str, revision: u64, store_id: &str) -> Input<'static> {
    let (node, store_id) = (node.to_owned(), store_id.to_owned());
    let hello = v1::Hello { node, version: "v0".into(), revision, store_id };
    Input::Message(v1::NodeMessage { body: Some(v1::node_message::Body::Hello(hello)) })
}

fn ack(revision: u64) -> Input<'static> {
    let ack = v1::Ack { revision, rejected: Vec::new() };
    Input::Message(v1::NodeMessage { body: Some(v1::node_message::Body::Ack(ack)) })
}

fn greeted(revision: u64, store_id: &str) -> Session {
    let mut session = Session::new("n1");
    assert_eq!(session.step(hello("n1", revision, store_id)).greeted, Some(("v0".to_owned(), revision)));
    session
}

#[test]
fn a_stream_begins_with_hello_from_the_node_of_the_certificate() {
    let mut session = Session::new("n1");
    assert!(session.step(Input::Room(&world("s", 5))).send.is_empty(), "nothing is sent before Hello");
    let why = |effects: Effects| effects.refuse.expect("refused");
    assert!(why(session.step(ack(1))).contains("must be Hello"));
    let other = why(Session::new("n1").step(hello("n2", 0, "")));
    assert!(other.contains("n2") && other.contains("n1"), "{other}");
    assert!(why(greeted(0, "").step(hello("n1", 0, ""))).contains("twice"));
}

#[test]
fn a_node_goes_on_where_it_was_if_the_world_can_tell() {
    let mut world = world("s", 10);
    put(&mut world, 12, "web", 1);
    let kind_of = |revision, store| {
        let sent = greeted(revision, store).step(Input::Room(&world)).send;
        (sent[0].snapshot, sent[0].put.len(), sent[0].revision, sent[0].committed_at)
    };
    assert_eq!(kind_of(0, ""), (true, 1, 12, 77));
    assert_eq!(kind_of(10, "s"), (false, 1, 12, 77));
    assert_eq!(kind_of(12, "s"), (false, 0, 12, 77), "it is told at once that nothing is new");
    assert_eq!(kind_of(9, "s"), (true, 1, 12, 77), "before what the world remembers");
    assert_eq!(kind_of(12, "another"), (true, 1, 12, 77));
    assert_eq!(kind_of(99, "s"), (true, 1, 12, 77), "from a future that was lost");
}

#[test]
fn a_slow_node_gets_the_latest_only() {
    let mut world = world("s", 1);
    let mut session = greeted(0, "");
    session.step(Input::Room(&world));
    for revision in 2..100 {
        put(&mut world, revision, "web", 1);
    }
    let sent = session.step(Input::Room(&world)).send;
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].put.len(), sent[0].revision, sent[0].complete), (1, 99, true));
    assert!(session.step(Input::Room(&world)).send.is_empty(), "nothing new, nothing said");
}

#[test]
fn large_batches_go_in_pieces_of_which_the_last_is_complete() {
    let mut world = world("s", 1);
    let mut session = greeted(1, "s");
    for (revision, name) in (2..).zip(["a", "b", "c"]) {
        put(&mut world, revision, name, 400 << 10);
    }
    put(&mut world, 5, "huge", 3 << 20);
    let sent = session.step(Input::Room(&world)).send;
    let shape: Vec<_> = sent.iter().map(|one| (one.put.len(), one.snapshot, one.complete, one.revision)).collect();
    assert_eq!(shape, [(2, false, false, 5), (1, false, false, 5), (1, false, true, 5)]);
    let snapshot = greeted(0, "").step(Input::Room(&world)).send;
    assert!(snapshot.iter().all(|one| one.snapshot && one.revision == 5));
    assert_eq!(snapshot.iter().filter(|one| one.complete).count(), 1);
    assert!(
        snapshot
            .iter()
            .all(|one| one.put.len() == 1 || one.put.iter().map(|put| put.json.len()).sum::<usize>() <= MOST_BYTES)
    );
}

#[test]
fn only_what_was_sent_can_be_acknowledged() {
    let mut world = world("s", 5);
    let mut session = greeted(3, "old");
    assert!(session.step(ack(3)).acknowledged.is_none(), "nothing was sent yet");
    session.step(Input::Room(&world));
    assert_eq!(session.step(ack(5)).acknowledged.map(|ack| ack.revision), Some(5));
    assert!(session.step(ack(6)).acknowledged.is_none());
    put(&mut world, 9, "web", 1);
    session.step(Input::Room(&world));
    assert_eq!(session.step(ack(9)).acknowledged.map(|ack| ack.revision), Some(9));
    assert!(session.step(ack(5)).acknowledged.is_none(), "it cannot fall back");
}
