//! Who gets what, and that every way there leads to the same place.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::feed::{Record, kinds};
use crate::session::{Input, Session};
use fairlead_proto::push::v1;

fn change(kind: &str, name: &str, spec: Value, removed: bool, revision: u64) -> Change {
    let namespace = if kind == "Node" { "" } else { "default" };
    let tree = json!({"kind": kind, "metadata": {"namespace": namespace, "name": name,
        "resourceVersion": revision.to_string()}, "spec": spec});
    let json = serde_json::to_vec(&tree).expect("JSON").into();
    let object = Arc::new(serde_json::from_value(tree).expect("an object"));
    let kind = kinds().into_iter().find(|one| one.kind == kind).expect("a kind of ours");
    Change { record: Record { kind, object, json, revision }, removed }
}

fn pod_on(node: &str, maps: &[&str]) -> Value {
    let volumes: Vec<Value> = maps.iter().map(|name| json!({"configMap": {"name": name}})).collect();
    json!({"nodeName": node, "volumes": volumes})
}

fn commit(world: &mut World, revision: u64, changes: Vec<Change>) -> Touched {
    world.apply(Commit { revision, committed_at: revision * 1_000, changes })
}

fn names(latest: &[Latest]) -> Vec<String> {
    let mut names: Vec<String> = latest
        .iter()
        .map(|(key, json)| format!("{}{:?}/{}", if json.is_some() { "" } else { "-" }, key.kind, key.name))
        .collect();
    names.sort();
    names
}

#[test]
fn a_node_gets_services_and_what_is_its_own() {
    let mut world = World::new("s".into(), 0, GRAVES);
    let touched = commit(&mut world, 1, vec![change("Service", "web", json!({}), false, 1)]);
    assert_eq!(touched, Touched { shared: true, nodes: BTreeSet::new() });
    commit(&mut world, 2, vec![change("ConfigMap", "used", json!({}), false, 2)]);
    commit(&mut world, 3, vec![change("ConfigMap", "unused", json!({}), false, 3)]);
    commit(&mut world, 4, vec![change("Node", "n1", json!({}), false, 4), change("Node", "n2", json!({}), false, 4)]);
    let unbound = commit(&mut world, 5, vec![change("Pod", "p", pod_on("", &["used"]), false, 5)]);
    assert_eq!(unbound, Touched::default(), "a pod without a node is nobody's");
    let bound = commit(&mut world, 6, vec![change("Pod", "p", pod_on("n1", &["used", "absent"]), false, 6)]);
    assert_eq!(bound.nodes, BTreeSet::from(["n1".to_owned()]));
    assert_eq!(names(&world.snapshot("n1")), ["ConfigMap/used", "Node/n1", "Pod/p", "Service/web"]);
    assert_eq!(names(&world.snapshot("n2")), ["Node/n2", "Service/web"]);
    assert_eq!(names(&world.snapshot("unknown")), ["Service/web"]);
}

#[test]
fn references_are_followed_as_they_change() {
    let mut world = World::new("s".into(), 0, GRAVES);
    commit(
        &mut world,
        1,
        vec![change("ConfigMap", "a", json!({}), false, 1), change("ConfigMap", "b", json!({}), false, 1)],
    );
    commit(&mut world, 2, vec![change("Pod", "p", pod_on("n1", &["a"]), false, 2)]);
    commit(&mut world, 3, vec![change("Pod", "q", pod_on("n1", &["a"]), false, 3)]);
    let moved = commit(&mut world, 4, vec![change("Pod", "p", pod_on("n1", &["b"]), false, 4)]);
    assert_eq!(moved.nodes.len(), 1);
    assert_eq!(names(&world.since("n1", 3).expect("known")), ["ConfigMap/b", "Pod/p"], "q still uses a");
    commit(&mut world, 5, vec![change("Pod", "q", pod_on("n1", &[]), false, 5)]);
    assert_eq!(names(&world.since("n1", 4).expect("known")), ["-ConfigMap/a", "Pod/q"]);
    let unused = commit(&mut world, 6, vec![change("ConfigMap", "a", json!({"new": true}), false, 6)]);
    assert_eq!(unused, Touched::default());
    let used = commit(&mut world, 7, vec![change("ConfigMap", "b", json!({"new": true}), false, 7)]);
    assert_eq!(used.nodes.len(), 1);
    // A map that pods wait for comes late, goes, and comes again.
    commit(&mut world, 8, vec![change("Pod", "p", pod_on("n1", &["late"]), false, 8)]);
    commit(&mut world, 9, vec![change("ConfigMap", "late", json!({}), false, 9)]);
    assert_eq!(names(&world.since("n1", 8).expect("known")), ["ConfigMap/late"]);
    commit(&mut world, 10, vec![change("ConfigMap", "late", json!({}), true, 10)]);
    assert_eq!(names(&world.since("n1", 9).expect("known")), ["-ConfigMap/late"]);
}

#[test]
fn a_node_that_lost_everything_gets_a_snapshot_if_it_comes_back() {
    let mut world = World::new("s".into(), 0, GRAVES);
    commit(&mut world, 1, vec![change("Pod", "p", pod_on("n1", &[]), false, 1)]);
    commit(&mut world, 2, vec![change("Pod", "p", pod_on("n1", &[]), true, 2)]);
    assert!(world.nodes.is_empty(), "nothing is kept of the node");
    assert!(world.since("n1", 1).is_none(), "the removal can no longer be told");
    assert_eq!(world.since("n1", 2).map(|latest| latest.len()), Some(0));
    assert!(world.since("n1", 3).is_none(), "the future belongs to another store");
}

/// A node's state as the contract has it applied.
#[derive(Debug, Default)]
struct Mirror {
    state: BTreeMap<(i32, String), Bytes>,
    held: Vec<v1::Object>,
    revision: u64,
    store_id: String,
}

impl Mirror {
    fn apply(&mut self, update: v1::Update) {
        let key = |object: v1::ObjectRef| (object.kind, object.name);
        if update.snapshot {
            self.held.extend(update.put);
            if update.complete {
                self.state.clear();
                let held = std::mem::take(&mut self.held);
                self.state.extend(held.into_iter().map(|one| (key(one.object.expect("a name")), one.json)));
            }
        } else {
            self.state.extend(update.put.into_iter().map(|one| (key(one.object.expect("a name")), one.json)));
            for gone in update.removed {
                self.state.remove(&key(gone));
            }
        }
        if update.complete {
            self.revision = update.revision;
            self.store_id = update.store_id;
        }
    }

    fn hello(&self) -> v1::NodeMessage {
        let (revision, store_id) = (self.revision, self.store_id.clone());
        let hello = v1::Hello { node: "n1".into(), version: String::new(), revision, store_id };
        v1::NodeMessage { body: Some(v1::node_message::Body::Hello(hello)) }
    }
}

/// What happens next in a history.
#[derive(Clone, Debug)]
enum Step {
    /// (kind, name, node or reference, removed)
    Commit(Vec<(u8, u8, u8, bool)>),
    /// The connection has room.
    Room,
    /// The stream breaks, after so many messages of the batch in flight.
    Break(usize),
    /// The control plane restarts and opens the feed anew.
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let one = (0..4_u8, 0..5_u8, 0..5_u8, any::<bool>());
    prop_oneof![
        6 => prop::collection::vec(one, 1..4).prop_map(Step::Commit),
        3 => Just(Step::Room),
        2 => (0..3_usize).prop_map(Step::Break),
        1 => Just(Step::Reopen),
    ]
}

fn random_change((kind, name, detail, removed): (u8, u8, u8, bool), revision: u64) -> Change {
    let (kind, spec) = match kind {
        0 => ("Service", json!({"detail": detail})),
        1 => ("ConfigMap", json!({"detail": detail})),
        2 => ("Node", json!({"detail": detail})),
        _ => {
            let node = ["n1", "n2", "", "n1", "n1"][usize::from(detail)];
            ("Pod", pod_on(node, &[&format!("n{detail}"), "n1"]))
        }
    };
    change(kind, &format!("n{name}"), spec, removed, revision)
}

proptest! {
    /// CONVERGE: however commits, room, broken streams and restarts fall, the node ends with a fresh snapshot's state.
    #[test]
    fn converge_snapshot_and_deltas_equal_a_fresh_snapshot(
        history in prop::collection::vec(step(), 1..60), graves in (0..4_usize, 0..3_usize),
    ) {
        let mut world = World::new("s".into(), 0, graves);
        let mut stored: BTreeMap<(String, String), Change> = BTreeMap::new();
        let mut mirror = Mirror::default();
        let mut session = Session::new("n1");
        session.step(Input::Message(mirror.hello()));
        for (revision, step) in (1_u64..).zip(history) {
            match step {
                Step::Commit(changes) => {
                    let changes: Vec<Change> = changes.into_iter().map(|one| random_change(one, revision)).collect();
                    for change in &changes {
                        let key = (change.record.kind.kind.to_owned(), change.record.object.name().to_owned());
                        if change.removed { stored.remove(&key); } else { stored.insert(key, change.clone()); }
                    }
                    commit(&mut world, revision, changes);
                }
                Step::Room => {
                    session.step(Input::Room(&world)).send.into_iter().for_each(|update| mirror.apply(update));
                }
                Step::Break(after) => {
                    let batch = session.step(Input::Room(&world)).send;
                    batch.into_iter().take(after).for_each(|update| mirror.apply(update));
                    mirror.held.clear();
                    session = Session::new("n1");
                    session.step(Input::Message(mirror.hello()));
                }
                Step::Reopen => {
                    world = World::new("s".into(), world.revision(), graves);
                    commit(&mut world, revision, stored.values().cloned().collect());
                    session = Session::new("n1");
                    session.step(Input::Message(mirror.hello()));
                }
            }
        }
        session.step(Input::Room(&world)).send.into_iter().for_each(|update| mirror.apply(update));
        let fresh = world.snapshot("n1").into_iter();
        let fresh: BTreeMap<(i32, String), Bytes> =
            fresh.map(|(key, json)| ((key.kind.into(), key.name.clone()), json.expect("live"))).collect();
        prop_assert_eq!(&mirror.state, &fresh);

        // And the snapshot is what the definition says, computed without ledgers.
        let on_node = |change: &&Change| change.record.object.str_at(&["spec", "nodeName"]) == "n1";
        let pods: Vec<&Change> = stored.values().filter(|one| one.record.kind.kind == "Pod").filter(on_node).collect();
        let used: BTreeSet<Key> = pods.iter().flat_map(|pod| references(&pod.record.object)).collect();
        let expected = stored.values().filter(|change| match change.record.kind.kind {
            "Service" => true,
            "Node" => change.record.object.name() == "n1",
            "ConfigMap" => used.iter().any(|key| key.name == change.record.object.name()),
            _ => on_node(change),
        });
        prop_assert_eq!(expected.count(), fresh.len());
    }
}
