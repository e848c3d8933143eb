use serde_json::json;

use super::*;
use crate::registry::{CONFIG_MAP, DEPLOYMENT, NODE, POD, SERVICE};

fn object(tree: Value) -> Object {
    serde_json::from_value(tree).expect("object")
}

fn strategic(kind: &Kind, have: Value, patch: Value) -> Result<Value, String> {
    apply(kind, &object(have), &Patch::Strategic(patch)).map_err(|status| status.message)
}

#[track_caller]
fn merges(kind: &Kind, have: Value, patch: Value, want: Value) {
    assert_eq!(strategic(kind, have, patch), Ok(want));
}

fn pod(spec: Value) -> Value {
    json!({"spec": spec})
}

#[test]
fn merge_patch() {
    let rows = [
        (json!({"a": 1}), json!({"a": 2}), json!({"a": 2})),
        (json!({"a": 1}), json!({"b": {"c": null, "d": 1}}), json!({"a": 1, "b": {"d": 1}})),
        (json!({"a": {"b": 1}}), json!({"a": null}), json!({})),
        (json!({"a": {"b": 1, "c": 2}}), json!({"a": {"b": null}}), json!({"a": {"c": 2}})),
        (json!({"a": [1, 2]}), json!({"a": [3]}), json!({"a": [3]})),
        (json!({"a": [1]}), json!({"a": {"b": 1}}), json!({"a": {"b": 1}})),
    ];
    for (have, patch, want) in rows {
        assert_eq!(apply(&CONFIG_MAP, &object(have), &Patch::Merge(patch)), Ok(want));
    }
    let status = apply(&CONFIG_MAP, &Object::default(), &Patch::Merge(json!([]))).expect_err("no object");
    assert_eq!(status.reason, Reason::BadRequest);
}

#[test]
fn json_patch() {
    let have = || object(json!({"data": {"a": "1"}}));
    let patch = json!([{"op": "test", "path": "/data/a", "value": "1"}, {"op": "replace", "path": "/data/a", "value": "2"},
        {"op": "add", "path": "/data/b~1c", "value": "3"}]);
    assert_eq!(apply(&CONFIG_MAP, &have(), &Patch::Json(patch)), Ok(json!({"data": {"a": "2", "b/c": "3"}})));
    let failed = json!([{"op": "test", "path": "/data/a", "value": "9"}]);
    assert_eq!(apply(&CONFIG_MAP, &have(), &Patch::Json(failed)).expect_err("test").reason, Reason::Invalid);
    let missing = json!([{"op": "remove", "path": "/data/x"}]);
    assert_eq!(apply(&CONFIG_MAP, &have(), &Patch::Json(missing)).expect_err("path").reason, Reason::Invalid);
    let nonsense = json!([{"op": "jump"}]);
    assert_eq!(apply(&CONFIG_MAP, &have(), &Patch::Json(nonsense)).expect_err("op").reason, Reason::BadRequest);
}

#[test]
fn json_patch_may_not_grow_an_object_without_bound() {
    let have = object(json!({"data": {"a": "x".repeat(1024)}}));
    let copy = |n: usize| json!({"op": "copy", "from": "/data", "path": format!("/data/{n}")});
    let few = Value::from((0..3).map(copy).collect::<Vec<_>>());
    assert!(apply(&CONFIG_MAP, &have, &Patch::Json(few)).is_ok());
    let many = Value::from((0..30).map(copy).collect::<Vec<_>>());
    let status = apply(&CONFIG_MAP, &have, &Patch::Json(many)).expect_err("too much");
    assert_eq!(status.reason, Reason::RequestEntityTooLarge);
}

#[test]
fn keyed_lists_merge_by_key() {
    merges(
        &POD,
        pod(json!({"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}]})),
        pod(json!({"containers": [{"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}]}, {"name": "c"}]})),
        pod(json!({"containers": [
            {"name": "a", "image": "2", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
            {"name": "b"}, {"name": "c"}]})),
    );
    merges(
        &SERVICE,
        pod(json!({"ports": [{"port": 80, "name": "a"}, {"port": 81}]})),
        pod(json!({"ports": [{"port": 80, "targetPort": 8080}]})),
        pod(json!({"ports": [{"port": 80, "name": "a", "targetPort": 8080}, {"port": 81}]})),
    );
    merges(
        &NODE,
        json!({"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "False"}]}}),
        json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}),
        json!({"status": {"conditions": [{"type": "Ready", "status": "False"}, {"type": "DiskPressure", "status": "False"}]}}),
    );
}

#[test]
fn other_lists_are_replaced() {
    merges(
        &POD,
        pod(json!({"tolerations": [{"key": "a"}], "containers": [{"name": "a", "command": ["x", "y"]}]})),
        pod(json!({"tolerations": [{"key": "b"}], "containers": [{"name": "a", "command": ["z"]}]})),
        pod(json!({"tolerations": [{"key": "b"}], "containers": [{"name": "a", "command": ["z"]}]})),
    );
}

#[test]
fn nulls_remove_and_do_not_stay() {
    merges(
        &DEPLOYMENT,
        json!({"metadata": {"annotations": {"a": "1", "b": "2"}}, "spec": {"replicas": 1}}),
        json!({"metadata": {"annotations": {"a": null, "c": null}}, "spec": {"paused": null, "replicas": 2},
            "status": {"x": null}}),
        json!({"metadata": {"annotations": {"b": "2"}}, "spec": {"replicas": 2}, "status": {}}),
    );
}

#[test]
fn directives() {
    merges(
        &POD,
        pod(json!({"containers": [{"name": "a"}, {"name": "b"}]})),
        pod(json!({"containers": [{"name": "a", "$patch": "delete"}, {"name": "c", "image": "x"}]})),
        pod(json!({"containers": [{"name": "b"}, {"name": "c", "image": "x"}]})),
    );
    merges(
        &POD,
        pod(json!({"containers": [{"name": "a"}, {"name": "b"}]})),
        pod(json!({"containers": [{"$patch": "replace"}, {"name": "c"}]})),
        pod(json!({"containers": [{"name": "c"}]})),
    );
    merges(
        &POD,
        pod(json!({"nodeSelector": {"a": "b"}, "securityContext": {"runAsUser": 1}})),
        pod(json!({"nodeSelector": {"$patch": "replace", "c": "d"}, "securityContext": {"$patch": "delete"}})),
        pod(json!({"nodeSelector": {"c": "d"}, "securityContext": {}})),
    );
    merges(
        &DEPLOYMENT,
        json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
        json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
        json!({"spec": {"strategy": {"type": "Recreate"}}}),
    );
    merges(
        &POD,
        json!({"metadata": {"finalizers": ["a", "b", "c"]}}),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"], "$setElementOrder/finalizers": ["c", "a"]}}),
        json!({"metadata": {"finalizers": ["c", "a"]}}),
    );
    merges(
        &POD,
        json!({"metadata": {"finalizers": ["a"]}}),
        json!({"metadata": {"finalizers": ["b", "a"]}}),
        json!({"metadata": {"finalizers": ["a", "b"]}}),
    );
}

#[test]
fn order_of_elements() {
    let names = |list: &[&str]| -> Vec<Value> { list.iter().map(|name| json!({"name": name})).collect() };
    type Names = &'static [&'static str];
    let rows: [(Names, Names, Names, Names); 5] = [
        // (have, changed, order, want)
        (&["a", "b"], &["c"], &["c", "a", "b"], &["c", "a", "b"]),
        (&["a", "b", "c"], &[], &["c", "a"], &["b", "c", "a"]),
        (&["a", "x", "b"], &["c"], &["a", "b", "c"], &["a", "x", "b", "c"]),
        (&["x", "a"], &["b"], &["b", "a"], &["x", "b", "a"]),
        (&[], &["b", "a"], &["a", "b"], &["a", "b"]),
    ];
    for (have, changed, order, want) in rows {
        let mut patch = json!({"$setElementOrder/containers": names(order)});
        if !changed.is_empty() {
            patch["containers"] = names(changed).into();
        }
        let have = if have.is_empty() { json!({}) } else { json!({"containers": names(have)}) };
        merges(&POD, pod(have), pod(patch), pod(json!({"containers": names(want)})));
    }
}

/// The patch that kubectl sends for an image change by `apply`.
#[test]
fn apply_from_kubectl() {
    merges(
        &DEPLOYMENT,
        json!({"spec": {"replicas": 3, "template": {"spec": {"containers": [
            {"name": "echo", "image": "old", "imagePullPolicy": "IfNotPresent",
             "ports": [{"containerPort": 8080, "protocol": "TCP"}, {"containerPort": 8080, "protocol": "UDP"}]}],
            "volumes": [{"name": "v", "emptyDir": {}}]}}}}),
        json!({"metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"}},
            "spec": {"template": {"spec": {
                "$setElementOrder/containers": [{"name": "echo"}],
                "containers": [{"image": "new", "name": "echo"}],
                "$setElementOrder/volumes": [{"name": "v"}],
                "volumes": [{"$retainKeys": ["configMap", "name"], "configMap": {"name": "c"}, "emptyDir": null, "name": "v"}]}}}}),
        json!({"metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"}},
            "spec": {"replicas": 3, "template": {"spec": {"containers": [
            {"name": "echo", "image": "new", "imagePullPolicy": "IfNotPresent",
             "ports": [{"containerPort": 8080, "protocol": "TCP"}, {"containerPort": 8080, "protocol": "UDP"}]}],
            "volumes": [{"name": "v", "configMap": {"name": "c"}}]}}}}),
    );
}

#[test]
fn bad_patches_are_refused() {
    let rows = [
        (
            pod(json!({"containers": [{"image": "x"}]})),
            "map: {\"image\":\"x\"} does not contain declared merge key: name",
        ),
        (pod(json!({"nodeSelector": {"$patch": "jump"}})), "Unknown patch type: \"jump\""),
        (pod(json!({"nodeSelector": {"$retainKeys": ["x"], "y": "1"}})), "invalid patch format of retainKeys"),
        (pod(json!({"$setElementOrder/containers": 1})), "invalid patch format of setElementOrder list"),
    ];
    for (patch, message) in rows {
        let have = pod(json!({"containers": [{"name": "a"}], "nodeSelector": {"a": "b"}}));
        assert_eq!(strategic(&POD, have, patch), Err(message.to_owned()));
    }
}
