//! How many pods come and go, and which.

use std::sync::Arc;

use fairlead_api::status::{Reason, Status};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::status::{Failure, calculate};
use super::{Plan, fresh, plan, rank};
use crate::meta;

fn now() -> Timestamp {
    "2026-01-02T00:00:00Z".parse().unwrap()
}

fn set(replicas: i32) -> ReplicaSet {
    let tree = json!({
        "metadata": {"name": "web-x", "namespace": "ns", "uid": "s", "generation": 4},
        "spec": {
            "replicas": replicas, "minReadySeconds": 0, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}},
        },
    });
    serde_json::from_value(tree).unwrap()
}

/// A ready pod on node `a`, as old as a day, changed by a merge of `with`.
fn pod(name: &str, with: Value) -> Arc<Pod> {
    let mut tree = json!({
        "metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"app": "web"}},
        "spec": {"nodeName": "a", "containers": []},
        "status": {"phase": "Running", "conditions": ready("True", "2026-01-01T00:00:00Z")},
    });
    merge(&mut tree, &with);
    Arc::new(serde_json::from_value(tree).unwrap())
}

fn ready(status: &str, since: &str) -> Value {
    json!([{"type": "Ready", "status": status, "lastTransitionTime": since}])
}

fn merge(tree: &mut Value, with: &Value) {
    match (tree, with) {
        (Value::Object(tree), Value::Object(with)) => {
            for (field, value) in with {
                merge(tree.entry(field).or_insert(Value::Null), value);
            }
        }
        (tree, with) => *tree = with.clone(),
    }
}

#[test]
fn numbers() {
    let pods: Vec<_> = (0..3).map(|number| pod(&number.to_string(), json!({}))).collect();
    let mut dying = set(9);
    dying.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    let rows = [(set(3), 0, 0), (set(5), 2, 0), (set(1), 0, 2), (set(0), 0, 3), (set(2000), 500, 0), (dying, 0, 0)];
    for (set, create, delete) in rows {
        let Plan { create: made, delete: gone } = plan(&set, &pods, &pods, now());
        assert_eq!((made, gone.len()), (create, delete), "{:?}", set.spec.and_then(|spec| spec.replicas));
    }
}

#[test]
fn the_first_to_go() {
    let restarts = json!({"status": {"containerStatuses": [
        {"name": "c", "restartCount": 3, "image": "", "imageID": "", "ready": true}]}});
    let cost = |cost: &str| json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": cost}}});
    // In each row the second pod must go before the first, for one reason.
    let rows = [
        ("no node", json!({}), json!({"spec": {"nodeName": ""}})),
        ("pending", json!({}), json!({"status": {"phase": "Pending"}})),
        ("unknown", json!({}), json!({"status": {"phase": "Unknown"}})),
        ("not ready", json!({}), json!({"status": {"conditions": ready("False", "2025-01-01T00:00:00Z")}})),
        ("cheap", cost("10"), cost("-1")),
        ("crowded node", json!({"spec": {"nodeName": "b"}}), json!({})),
        ("ready for a short time", json!({}), json!({"status": {"conditions": ready("True", "2026-01-01T23:00:00Z")}})),
        ("restarts", json!({}), restarts),
        ("young", json!({}), json!({"metadata": {"creationTimestamp": "2026-01-01T23:59:00Z"}})),
    ];
    for (why, stays, goes) in rows {
        let (stays, goes) = (pod("1", stays), pod("2", goes));
        let neighbour = pod("3", json!({}));
        let active = [stays.clone(), goes.clone()];
        let related = if why == "crowded node" { vec![stays, goes, neighbour] } else { vec![] };
        let first = rank::first_to_go(&active, &related, 1, now());
        assert_eq!(meta::name(&first[0].metadata), "2", "{why}");
    }
}

#[test]
fn a_new_pod_carries_the_template_and_its_owner() {
    let pod = fresh(&set(1));
    assert_eq!(pod.metadata.generate_name.as_deref(), Some("web-x-"));
    assert_eq!(pod.metadata.labels.as_ref().unwrap()["app"], "web");
    let owner = meta::controller(&pod.metadata).unwrap();
    assert_eq!((owner.kind.as_str(), owner.uid.as_str(), owner.block_owner_deletion), ("ReplicaSet", "s", Some(true)));
}

#[test]
fn status_counts_and_remembers_failures() {
    let mut set = set(4);
    set.spec.as_mut().unwrap().min_ready_seconds = Some(30);
    let active = [
        pod("old", json!({})),
        pod("fresh", json!({"status": {"conditions": ready("True", "2026-01-01T23:59:50Z")}})),
        pod("waiting", json!({"status": {"conditions": ready("False", "2026-01-01T00:00:00Z")}})),
    ];
    let failure = Failure { reason: "FailedCreate", error: Status::new(Reason::Forbidden, "quota") };
    let (status, again) = calculate(&set, &active, 1, Some(&failure), now());
    assert_eq!((status.replicas, status.ready_replicas, status.available_replicas), (3, Some(2), Some(1)));
    assert_eq!((status.fully_labeled_replicas, status.terminating_replicas), (Some(3), Some(1)));
    assert_eq!(status.observed_generation, Some(4));
    assert_eq!(again.map(|left| left.as_secs()), Some(20));
    let condition = &status.conditions.as_ref().unwrap()[0];
    assert_eq!((condition.type_.as_str(), condition.reason.as_deref()), ("ReplicaFailure", Some("FailedCreate")));
    set.status = Some(status);
    let (status, _) = calculate(&set, &active, 0, None, now());
    assert_eq!(status.conditions, None, "the failure is over");
}

proptest! {
    /// The ranking is an order, whatever the pods: sorting never panics and does not depend on the order of the input.
    #[test]
    fn ranking_does_not_depend_on_the_order_seen(seeds in proptest::collection::vec((0..3_u8, 0..50_i64, 0..50_i64), 2..40)) {
        let pods: Vec<_> = seeds.iter().enumerate().map(|(number, (node, created, since))| {
            let at = |minutes: i64| (now() - jiff::SignedDuration::from_mins(minutes)).to_string();
            pod(&number.to_string(), json!({
                "metadata": {"creationTimestamp": at(*created)},
                "spec": {"nodeName": node.to_string()},
                "status": {"conditions": ready(if since % 3 == 0 { "False" } else { "True" }, &at(*since))},
            }))
        }).collect();
        let half = pods.len() / 2;
        let first = rank::first_to_go(&pods, &pods, half, now());
        let reversed: Vec<_> = pods.iter().rev().cloned().collect();
        prop_assert_eq!(first, rank::first_to_go(&reversed, &pods, half, now()));
    }
}
