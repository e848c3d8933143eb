//! Decisions by table, and the promise that no node takes more than it has.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::framework::decide;
use crate::request::Request;

fn node(name: &str, with: Value) -> Arc<Node> {
    let mut tree = json!({
        "metadata": {"name": name, "labels": {"name": name}}, "spec": {},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}},
    });
    merge(&mut tree, &with);
    Arc::new(serde_json::from_value(tree).unwrap())
}

fn pod(name: &str, with: Value) -> Arc<Pod> {
    let mut tree = json!({"metadata": {"name": name, "uid": name}, "spec": {"containers": [{"name": "c"}]}});
    merge(&mut tree, &with);
    Arc::new(serde_json::from_value(tree).unwrap())
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

fn asking(requests: Value) -> Value {
    json!({"spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]}})
}

fn cluster(nodes: &[Arc<Node>]) -> Cluster {
    let mut cluster = Cluster::default();
    for node in nodes {
        cluster.set_node(node);
    }
    cluster
}

fn choose(cluster: &Cluster, pod: Arc<Pod>) -> Result<String, String> {
    decide(cluster, &Request::new(pod), 0).map_err(|unfit| unfit.to_string())
}

#[test]
fn one_node_against_one_pod() {
    let tainted = json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}});
    let bearing = |toleration: Value| json!({"spec": {"tolerations": [toleration]}});
    let affinity = |operator: &str, values: Value| {
        json!({"spec": {"affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "name", "operator": operator, "values": values}]}]}}}}})
    };
    let named = json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]}}}}});
    let cordoned = json!({"spec": {"unschedulable": true}});
    let no_match = Some("node(s) didn't match Pod's node affinity/selector");
    let taint = Some("node(s) had untolerated taint(s)");
    let rows = [
        ("anything", json!({}), json!({}), None),
        ("cpu", json!({}), asking(json!({"cpu": "4001m"})), Some("Insufficient cpu")),
        ("all cpu", json!({}), asking(json!({"cpu": "4"})), None),
        ("memory", json!({}), asking(json!({"memory": "8193Mi"})), Some("Insufficient memory")),
        ("extended", json!({}), asking(json!({"example.com/gpu": "1"})), Some("Insufficient example.com/gpu")),
        ("no room for pods", json!({"status": {"allocatable": {"pods": "0"}}}), json!({}), Some("Too many pods")),
        ("selector", json!({}), json!({"spec": {"nodeSelector": {"name": "other"}}}), no_match),
        ("selected", json!({}), json!({"spec": {"nodeSelector": {"name": "n"}}}), None),
        ("affinity", json!({}), affinity("NotIn", json!(["n"])), no_match),
        ("affine", json!({}), affinity("In", json!(["m", "n"])), None),
        ("by name", json!({}), named, None),
        ("taint", tainted.clone(), json!({}), taint),
        ("borne", tainted.clone(), bearing(json!({"key": "k", "operator": "Equal", "value": "v"})), None),
        ("borne, any value", tainted.clone(), bearing(json!({"key": "k", "operator": "Exists"})), None),
        ("borne, all", tainted.clone(), bearing(json!({"operator": "Exists"})), None),
        ("other value", tainted.clone(), bearing(json!({"key": "k", "value": "w"})), taint),
        ("other effect", tainted, bearing(json!({"key": "k", "operator": "Exists", "effect": "NoExecute"})), taint),
        ("cordoned", cordoned.clone(), json!({}), Some("node(s) were unschedulable")),
        (
            "cordon borne",
            cordoned,
            bearing(json!({"key": "node.kubernetes.io/unschedulable", "operator": "Exists"})),
            None,
        ),
    ];
    for (what, node_with, pod_with, refusal) in rows {
        let found = choose(&cluster(&[node("n", node_with)]), pod("p", pod_with));
        match refusal {
            None => assert_eq!(found.as_deref(), Ok("n"), "{what}"),
            Some(reason) => {
                let message = found.expect_err(what);
                assert!(message.starts_with(&format!("0/1 nodes are available: 1 {reason}. ")), "{what}: {message}");
            }
        }
    }
}

#[test]
fn the_message_counts_reasons() {
    let tainted = json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
    let mut cluster = cluster(&[node("a", json!({})), node("b", tainted.clone()), node("c", tainted)]);
    assert_eq!(choose(&Cluster::default(), pod("p", json!({}))).unwrap_err(), "no nodes available to schedule pods");
    cluster.assume("a", Request::new(pod("big", asking(json!({"cpu": "3"})))));
    assert_eq!(
        choose(&cluster, pod("p", asking(json!({"cpu": "2"})))).unwrap_err(),
        "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint(s). preemption: 0/3 nodes are \
         available: 1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling."
    );
}

#[test]
fn host_ports_are_taken_once() {
    let port = |ip: &str, protocol: &str| {
        json!({"spec": {"containers": [{"name": "c", "ports": [
        {"containerPort": 80, "hostPort": 8080, "hostIP": ip, "protocol": protocol}]}]}})
    };
    let mut cluster = cluster(&[node("n", json!({}))]);
    cluster.assume("n", Request::new(pod("first", port("127.0.0.1", "TCP"))));
    let rows =
        [("127.0.0.1", "TCP", false), ("", "TCP", false), ("127.0.0.2", "TCP", true), ("127.0.0.1", "UDP", true)];
    for (ip, protocol, fits) in rows {
        assert_eq!(choose(&cluster, pod("p", port(ip, protocol))).is_ok(), fits, "{ip} {protocol}");
    }
    cluster.remove_pod("first");
    assert!(choose(&cluster, pod("p", port("127.0.0.1", "TCP"))).is_ok());
}

#[test]
fn init_containers_and_overhead_count() {
    let request = Request::new(pod(
        "p",
        json!({"spec": {
            "initContainers": [
                {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                {"name": "init", "resources": {"requests": {"cpu": "500m", "memory": "10Mi"}}},
            ],
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "200m"}}}, {"name": "b", "resources": {"requests": {"cpu": "50m"}}}],
            "overhead": {"cpu": "7m"},
        }}),
    ));
    assert_eq!(request.resources.get("cpu"), 607, "the sidecar beside the init container is the peak");
    assert_eq!(request.resources.get("memory"), 10 << 20);
}

#[test]
fn preferences() {
    let nodes = || [node("a", json!({})), node("b", json!({}))];
    let mut used = cluster(&nodes());
    used.assume("a", Request::new(pod("x", asking(json!({"cpu": "2", "memory": "4Gi"})))));
    assert_eq!(choose(&used, pod("p", json!({}))).unwrap(), "b", "the emptier node");
    let wish = json!({"spec": {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 10, "preference": {"matchExpressions": [{"key": "name", "operator": "In", "values": ["a"]}]}}]}}}});
    assert_eq!(choose(&used, pod("p", wish)).unwrap(), "a", "the wish weighs more");
    let shy = json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}});
    assert_eq!(choose(&cluster(&[node("a", shy), node("b", json!({}))]), pod("p", json!({}))).unwrap(), "b");
    let owned = |name: &str| {
        pod(
            name,
            json!({"metadata": {"ownerReferences": [
        {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]}}),
        )
    };
    let mut spread = cluster(&nodes());
    spread.assume("a", Request::new(owned("1")));
    spread.assume("b", Request::new(pod("x", asking(json!({"cpu": "1", "memory": "2Gi"})))));
    assert_eq!(choose(&spread, owned("2")).unwrap(), "b", "away from its sibling");
}

#[test]
fn equal_pods_spread_evenly() {
    let mut cluster = cluster(&["a", "b", "c"].map(|name| node(name, json!({}))));
    for number in 0..30 {
        let request = Request::new(pod(&number.to_string(), asking(json!({"cpu": "100m"}))));
        let node = decide(&cluster, &request, number).unwrap();
        cluster.assume(&node, request);
    }
    assert_eq!(cluster.nodes().map(|node| node.pods).collect::<Vec<_>>(), [10, 10, 10]);
}

/// What may happen to the picture of the cluster.
#[derive(Clone, Debug)]
enum Step {
    Schedule(i64),
    Confirm(usize),
    Refuse(usize),
    Finish(usize),
    Vanish(usize),
    NodeGoes(usize),
    NodeComes(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (1..2000_i64).prop_map(Step::Schedule),
        3 => (0..64_usize).prop_map(Step::Confirm),
        1 => (0..64_usize).prop_map(Step::Refuse),
        1 => (0..64_usize).prop_map(Step::Finish),
        1 => (0..64_usize).prop_map(Step::Vanish),
        1 => (0..4_usize).prop_map(Step::NodeGoes),
        1 => (0..4_usize).prop_map(Step::NodeComes),
    ];
    proptest::collection::vec(step, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// `ONCE`, and with it the promise: whatever the order of events, sums are exact and no node is over its means.
    #[test]
    fn no_node_takes_more_than_it_has(steps in steps()) {
        let names = ["a", "b", "c", "d"];
        let mut cluster = cluster(&names.map(|name| node(name, json!({}))));
        let mut placed: Vec<(Arc<Pod>, String, bool)> = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Schedule(milli) => {
                    let pod = pod(&number.to_string(), asking(json!({"cpu": format!("{milli}m")})));
                    let request = Request::new(pod.clone());
                    if let Ok(node) = decide(&cluster, &request, number) {
                        cluster.assume(&node, request);
                        placed.push((pod, node, true));
                    }
                }
                Step::Confirm(at) => if let Some((pod, node, assumed)) = placed.get_mut(at) {
                    *pod = with(pod, json!({"spec": {"nodeName": node}}));
                    *assumed = false;
                    cluster.set_pod(pod);
                },
                Step::Refuse(at) => if placed.get(at).is_some_and(|(_, _, assumed)| *assumed) {
                    let (pod, _, _) = placed.swap_remove(at);
                    prop_assert!(cluster.forget(pod.metadata.uid.as_deref().unwrap()));
                } else if let Some((pod, _, _)) = placed.get(at) {
                    prop_assert!(!cluster.forget(pod.metadata.uid.as_deref().unwrap()), "it was seen bound");
                },
                Step::Finish(at) => if at < placed.len() {
                    let (pod, node, _) = placed.swap_remove(at);
                    cluster.set_pod(&with(&pod, json!({"spec": {"nodeName": node}, "status": {"phase": "Succeeded"}})));
                },
                Step::Vanish(at) => if at < placed.len() {
                    let (pod, _, _) = placed.swap_remove(at);
                    cluster.remove_pod(pod.metadata.uid.as_deref().unwrap());
                },
                Step::NodeGoes(at) => cluster.remove_node(names[at]),
                Step::NodeComes(at) => drop(cluster.set_node(&node(names[at], json!({})))),
            }
            for info in cluster.nodes() {
                let mine = placed.iter().filter(|(_, node, _)| *node == info.name);
                let sum: i64 = mine.clone().map(|(pod, _, _)| Request::new(pod.clone()).resources.get("cpu")).sum();
                prop_assert_eq!(info.used.get("cpu"), sum);
                prop_assert_eq!(info.pods, i64::try_from(mine.count()).unwrap());
                prop_assert!(sum <= info.allocatable.get("cpu"), "{} has {sum}", info.name);
            }
        }
    }
}

fn with(pod: &Arc<Pod>, change: Value) -> Arc<Pod> {
    let mut tree = serde_json::to_value(&**pod).unwrap();
    merge(&mut tree, &change);
    Arc::new(serde_json::from_value(tree).unwrap())
}
