//! Reports against the API itself over a memory store.

use std::sync::Arc;

use fairlead_apiserver::LocalClient;
use serde_json::{Value, json};

use super::*;

fn object(value: Value) -> Object {
    serde_json::from_value(value).expect("an object")
}

fn bytes(value: &Value) -> Bytes {
    serde_json::to_vec(value).expect("JSON").into()
}

async fn say(client: &LocalClient, node: &str, body: Body) -> v1::Outcome {
    take(client, node, v1::Report { body: Some(body) }).await
}

fn node(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {
            "capacity": {"cpu": "2", "memory": "4Gi", "pods": "110"},
            "allocatable": {"cpu": "2", "memory": "4Gi", "pods": "110"},
            "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        },
    })
}

async fn bound_pod(client: &LocalClient, name: &str, node: &str) -> Arc<Object> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "default", "name": name},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "echo"}]},
    });
    client.create(&registry::POD, object(pod)).await.expect("a pod")
}

fn status_of(pod: &Object, uid: &str, phase: &str) -> Body {
    let ready = if phase == "Running" { "True" } else { "False" };
    Body::PodStatus(bytes(&json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": pod.namespace(), "name": pod.name(), "uid": uid},
        "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]},
    })))
}

fn gone(pod: &Object, uid: &str) -> Body {
    Body::PodGone(v1::PodGone { namespace: pod.namespace().into(), name: pod.name().into(), uid: uid.into() })
}

#[tokio::test]
async fn a_node_registers_and_registers_again_without_undoing_others_work() {
    let client = LocalClient::memory().await;
    let outcome = say(&client, "n1", Body::RegisterNode(bytes(&node("n1")))).await;
    assert_eq!(outcome.code, 200, "{}", outcome.message);
    let stored: Object = serde_json::from_slice(&outcome.json).expect("the stored Node");
    assert!(!stored.uid().is_empty());
    assert_eq!(stored.str_at(&["status", "capacity", "cpu"]), "2");

    let mut changed = (*client.get(&registry::NODE, "", "n1").await.expect("a Node")).clone();
    changed.metadata_mut().insert("labels".into(), json!({"user": "mine", "kubernetes.io/hostname": "n1"}));
    changed.section_mut("spec").insert("unschedulable".into(), json!(true));
    client.update(&registry::NODE, changed, None).await.expect("labelled and cordoned");
    let mut again = node("n1");
    again["status"]["capacity"]["cpu"] = json!("4");
    again["metadata"]["labels"]["kubernetes.io/arch"] = json!("amd64");
    let outcome = say(&client, "n1", Body::RegisterNode(bytes(&again))).await;
    assert_eq!(outcome.code, 200, "{}", outcome.message);
    let stored = client.get(&registry::NODE, "", "n1").await.expect("a Node");
    assert_eq!(stored.str_at(&["status", "capacity", "cpu"]), "4");
    assert_eq!((stored.label("user"), stored.label("kubernetes.io/arch")), (Some("mine"), Some("amd64")));
    assert_eq!(stored.at(&["spec", "unschedulable"]), Some(&json!(true)));
}

#[tokio::test]
async fn a_status_that_says_nothing_new_writes_nothing() {
    let client = LocalClient::memory().await;
    say(&client, "n1", Body::RegisterNode(bytes(&node("n1")))).await;
    let before = client.get(&registry::NODE, "", "n1").await.expect("a Node");
    assert_eq!(say(&client, "n1", Body::NodeStatus(bytes(&node("n1")))).await.code, 200);
    let after = client.get(&registry::NODE, "", "n1").await.expect("a Node");
    assert_eq!(before.resource_version(), after.resource_version());
}

#[tokio::test]
async fn a_node_writes_nobody_elses_objects() {
    let client = LocalClient::memory().await;
    let code = |body| async { say(&client, "n1", body).await.code };
    assert_eq!(code(Body::RegisterNode(bytes(&node("n2")))).await, 403);
    assert_eq!(code(Body::NodeStatus(bytes(&node("n2")))).await, 403);
    let mut isolated = node("n1");
    isolated["metadata"]["labels"]["node-restriction.kubernetes.io/team"] = json!("a");
    assert_eq!(code(Body::RegisterNode(bytes(&isolated))).await, 403);
    let lease = |namespace: &str, name: &str| {
        Body::Lease(bytes(&json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"namespace": namespace, "name": name}, "spec": {"holderIdentity": name}})))
    };
    assert_eq!(code(lease("kube-node-lease", "n2")).await, 403);
    assert_eq!(code(lease("default", "n1")).await, 403);
    let pod = bound_pod(&client, "p", "n2").await;
    assert_eq!(code(status_of(&pod, pod.uid(), "Running")).await, 403);
    assert_eq!(code(gone(&pod, pod.uid())).await, 403);
    assert_eq!(code(Body::PodStatus(bytes(&json!({"kind": "Secret"})))).await, 400);
    assert_eq!(code(Body::PodStatus(Bytes::from_static(b"[]"))).await, 400);
}

#[tokio::test]
async fn a_pods_status_needs_the_pod_it_speaks_of() {
    let client = LocalClient::memory().await;
    let pod = bound_pod(&client, "p", "n1").await;
    assert_eq!(say(&client, "n1", status_of(&pod, pod.uid(), "Running")).await.code, 200);
    let stored = client.get(&registry::POD, "default", "p").await.expect("a pod");
    assert_eq!(stored.str_at(&["status", "phase"]), "Running");
    assert_eq!(say(&client, "n1", status_of(&pod, "another", "Failed")).await.code, 409);
    assert_eq!(say(&client, "n1", status_of(&pod, "", "Failed")).await.code, 400);
    let absent = object(json!({"metadata": {"namespace": "default", "name": "absent"}}));
    assert_eq!(say(&client, "n1", status_of(&absent, "u", "Failed")).await.code, 404);
}

#[tokio::test]
async fn a_pod_is_removed_once_its_deletion_was_asked_for_and_it_is_gone() {
    let client = LocalClient::memory().await;
    let pod = bound_pod(&client, "p", "n1").await;
    // A pod whose processes run is deleted with grace; one never started would go at once.
    assert_eq!(say(&client, "n1", status_of(&pod, pod.uid(), "Running")).await.code, 200);
    assert_eq!(say(&client, "n1", gone(&pod, pod.uid())).await.code, 409, "nobody asked for it");
    client.delete(&registry::POD, "default", "p", DeleteOptions::default()).await.expect("deletion begins");
    assert!(client.get(&registry::POD, "default", "p").await.expect("still there").is_terminating());
    assert_eq!(say(&client, "n1", gone(&pod, "another")).await.code, 409);
    let outcome = say(&client, "n1", gone(&pod, pod.uid())).await;
    assert_eq!(outcome.code, 200, "{}", outcome.message);
    assert_eq!(say(&client, "n1", gone(&pod, pod.uid())).await.code, 404);
}

#[tokio::test]
async fn leases_are_renewed_and_events_counted() {
    let client = LocalClient::memory().await;
    for second in 0..3 {
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"namespace": "kube-node-lease", "name": "n1"},
            "spec": {"holderIdentity": "n1", "leaseDurationSeconds": 40,
                "renewTime": format!("2026-01-01T00:00:0{second}.000000Z")}});
        let outcome = say(&client, "n1", Body::Lease(bytes(&lease))).await;
        assert_eq!(outcome.code, 200, "{}", outcome.message);
        let event = json!({"apiVersion": "v1", "kind": "Event",
            "metadata": {"namespace": "default", "name": "p.1"}, "reason": "BackOff", "type": "Warning",
            "message": "Back-off", "count": second + 1,
            "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"},
            "source": {"component": "kubelet", "host": "n1"}});
        let outcome = say(&client, "n1", Body::Event(bytes(&event))).await;
        assert_eq!(outcome.code, 200, "{}", outcome.message);
    }
    let lease = client.get(&registry::LEASE, "kube-node-lease", "n1").await.expect("a Lease");
    assert_eq!(lease.str_at(&["spec", "renewTime"]), "2026-01-01T00:00:02.000000Z");
    let event = client.get(&registry::EVENT, "default", "p.1").await.expect("an Event");
    assert_eq!(event.at(&["count"]), Some(&json!(3)));
}
