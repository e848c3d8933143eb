//! Defaults, validation and columns of the small kinds, as rows.

use serde_json::{Value, json};

use super::*;
use crate::object::Object;
use crate::{decode, table};

pub(super) fn object(tree: Value) -> Object {
    serde_json::from_value(tree).expect("object")
}

/// The object as it would be stored.
pub(super) fn stored(kind: &Kind, tree: Value) -> Object {
    let mut object = decode::decode_value(kind, tree).expect("decodes").object;
    (kind.default)(&mut object);
    object
}

/// What is wrong, as clients read it.
pub(super) fn errors(kind: &Kind, tree: Value, old: Option<Value>) -> Vec<String> {
    let old = old.map(|old| stored(kind, old));
    kind.validate_all(&stored(kind, tree), old.as_ref()).iter().map(ToString::to_string).collect()
}

/// The cells of a row at second `now`, and the headings.
pub(super) fn cells(kind: &Kind, tree: Value, now: i64) -> Vec<(String, Value)> {
    let table = table::table(kind, [&object(tree)], json!({}), table::IncludeObject::None, now, true);
    let headings = table["columnDefinitions"].as_array().expect("columns").clone();
    let row = table["rows"][0]["cells"].as_array().expect("cells").clone();
    headings.into_iter().map(|one| one["name"].as_str().expect("name").to_owned()).zip(row).collect()
}

pub(super) fn cell(kind: &Kind, tree: Value, name: &str) -> Value {
    let row = cells(kind, tree, 100);
    row.into_iter().find(|(heading, _)| heading == name).unwrap_or_else(|| panic!("no column {name}")).1
}

#[test]
fn a_kind_is_found_by_its_names() {
    assert_eq!(by_plural("apps", "v1", "deployments"), Some(&DEPLOYMENT));
    assert_eq!(by_plural("", "v1", "deployments"), None);
    assert_eq!(by_kind("discovery.k8s.io/v1", "EndpointSlice"), Some(&ENDPOINT_SLICE));
    let mut names: Vec<String> = all().iter().map(|kind| kind.qualified()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), all().len());
}

#[test]
fn every_kind_has_columns_and_survives_an_empty_object() {
    for kind in all() {
        assert!(kind.columns.iter().any(|column| column.format == "name"), "{kind:?}");
        let mut empty = Object::default();
        table::table(kind, [&empty], json!({}), table::IncludeObject::Object, 0, true);
        (kind.default)(&mut empty);
        assert!(!kind.validate_all(&empty, Some(&empty)).is_empty(), "{kind:?} has no name");
    }
}

/// ADMITTED: what is stored is defaulted, and defaulting it again changes nothing.
#[test]
fn defaults_settle() {
    let pod = json!({"containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 1}],
        "readinessProbe": {"httpGet": {"port": 1}}, "resources": {"limits": {"cpu": "1"}}}],
        "volumes": [{"name": "v"}, {"name": "c", "configMap": {"name": "c"}}]});
    for kind in all() {
        let spec = match kind.kind {
            "Pod" => pod.clone(),
            "Deployment" | "ReplicaSet" => json!({"template": {"spec": pod}}),
            "Service" => json!({"ports": [{"port": 1}], "type": "NodePort"}),
            _ => Value::Null,
        };
        let once = stored(kind, json!({"metadata": {"name": "x"}, "spec": spec}));
        let mut twice = once.clone();
        (kind.default)(&mut twice);
        assert_eq!(once, twice, "{kind:?}");
        let again = decode::decode_value(kind, Value::Object(once.0.clone())).expect("decodes");
        assert_eq!((again.object, again.problems), (once, Vec::new()), "{kind:?}");
    }
}

#[test]
fn metadata_is_checked() {
    let rows = [
        (json!({"namespace": "n"}), "metadata.name: Required value: name or generateName is required"),
        (json!({"name": "a"}), "metadata.namespace: Required value"),
        (
            json!({"name": "a", "namespace": "n", "labels": {"a b": "c"}}),
            "metadata.labels: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', \
             and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex \
             used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
        ),
        (
            json!({"name": "A", "namespace": "n"}),
            "metadata.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case \
             alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. \
             'example.com', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
        ),
        (
            json!({"name": "a", "namespace": "n", "finalizers": ["x"]}),
            "metadata.finalizers[0]: Invalid value: \"x\": name is neither a standard finalizer name nor is it fully \
             qualified",
        ),
        (
            json!({"name": "a", "namespace": "n", "annotations": {"a": "x".repeat(262_144)}}),
            "metadata.annotations: Too long: may not be more than 262144 bytes",
        ),
        (
            json!({"name": "a", "namespace": "n", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}]}),
            "metadata.ownerReferences[0].uid: Invalid value: \"\": must not be empty",
        ),
    ];
    for (metadata, message) in rows {
        assert_eq!(errors(&CONFIG_MAP, json!({"metadata": metadata}), None), [message]);
    }
    let fine = json!({"metadata": {"generateName": "a-", "name": "a-x", "namespace": "n", "annotations": {"A/b": "x y"},
        "finalizers": ["a.b/c", "orphan"]}});
    assert_eq!(errors(&CONFIG_MAP, fine, None), [""; 0]);
    let cluster = json!({"metadata": {"name": "a", "namespace": "n"}});
    assert_eq!(errors(&NAMESPACE, cluster, None), ["metadata.namespace: Forbidden: not allowed on this type"]);
    let before = json!({"metadata": {"name": "a", "namespace": "n", "uid": "1"}});
    let after = json!({"metadata": {"name": "a", "namespace": "n", "uid": "2"}});
    let message = "metadata.uid: Invalid value: \"2\": field is immutable";
    assert_eq!(errors(&CONFIG_MAP, after, Some(before.clone())), [message]);
    let absent = json!({"metadata": {"name": "a", "namespace": "n"}});
    assert_eq!(errors(&CONFIG_MAP, absent, Some(before)), [""; 0]);
}

#[test]
fn config_maps_and_secrets() {
    let named = |mut tree: Value| {
        tree["metadata"] = json!({"name": "a", "namespace": "n"});
        tree
    };
    let rows: [(&Kind, Value, Option<Value>, &str); 6] = [
        (
            &CONFIG_MAP,
            json!({"data": {"a/b": ""}}),
            None,
            "data[a/b]: Invalid value: \"a/b\": a valid config key must consist of alphanumeric characters, '-', '_' or \
             '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
        ),
        (
            &CONFIG_MAP,
            json!({"data": {"a": "2"}, "immutable": true}),
            Some(json!({"data": {"a": "1"}, "immutable": true})),
            "data: Forbidden: field is immutable when `immutable` is set",
        ),
        (
            &CONFIG_MAP,
            json!({"data": {"a": "x".repeat(1_048_577)}}),
            None,
            ": Too long: may not be more than 1048576 bytes",
        ),
        (&SECRET, json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}), None, "data[tls.key]: Required value"),
        (&SECRET, json!({"type": "b"}), Some(json!({"type": "a"})), "type: Invalid value: \"b\": field is immutable"),
        (
            &SECRET,
            json!({"data": {"a": "Yg=="}}),
            Some(json!({"data": {"a": "Yg=="}, "immutable": true})),
            "immutable: Forbidden: field is immutable when `immutable` is set",
        ),
    ];
    for (kind, new, old, message) in rows {
        assert_eq!(errors(kind, named(new), old.map(named)), [message]);
    }
    let secret = stored(&SECRET, named(json!({"stringData": {"a": "b"}, "data": {"a": "eA==", "c": "eA=="}})));
    assert_eq!(
        Value::Object(secret.0),
        named(json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "data": {"a": "Yg==", "c": "eA=="}}))
    );
}

#[test]
fn namespaces_keep_their_finalizer_until_they_go() {
    let fresh = stored(&NAMESPACE, json!({"metadata": {"name": "a"}}));
    assert_eq!(fresh.at(&["spec", "finalizers"]), Some(&json!(["kubernetes"])));
    assert_eq!(fresh.label("kubernetes.io/metadata.name"), Some("a"));
    assert_eq!(fresh.str_at(&["status", "phase"]), "Active");
    let going = json!({"metadata": {"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {}});
    assert_eq!(stored(&NAMESPACE, going).at(&["spec", "finalizers"]), None);
}

#[test]
fn nodes() {
    let node = json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/worker": "", "a": "b"},
        "creationTimestamp": "1970-01-01T00:00:00Z"}, "spec": {"unschedulable": true},
        "status": {"conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "1.2.3.4"}],
        "nodeInfo": {"kubeletVersion": "v1", "osImage": "Debian"}}});
    let row: Vec<Value> = cells(&NODE, node, 60).into_iter().map(|(_, cell)| cell).collect();
    assert_eq!(
        Value::from(row),
        json!([
            "n",
            "Ready,SchedulingDisabled",
            "worker",
            "60s",
            "v1",
            "1.2.3.4",
            "<none>",
            "Debian",
            "<unknown>",
            "<unknown>"
        ])
    );
    let tainted = json!({"metadata": {"name": "n"}, "spec": {"taints": [{"key": "a", "effect": "Never"}]}});
    assert_eq!(
        errors(&NODE, tainted, None),
        [
            "spec.taints[0].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \
          \"NoExecute\""
        ]
    );
}

#[test]
fn endpoints_and_slices() {
    let endpoints = json!({"metadata": {"name": "e"}, "subsets": [{"addresses": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.2"}],
        "ports": [{"port": 80}, {"port": 81}]}]});
    assert_eq!(cell(&ENDPOINTS, endpoints, "Endpoints"), "1.1.1.1:80,1.1.1.2:80,1.1.1.1:81 + 1 more...");
    assert_eq!(cell(&ENDPOINTS, json!({}), "Endpoints"), "<none>");
    let slice = json!({"metadata": {"name": "e", "namespace": "n"}, "addressType": "IPv4", "ports": [{"port": 80}, {}],
        "endpoints": [{"addresses": ["1.1.1.1"]}, {"addresses": ["1.1.1.2"]}]});
    assert_eq!(cell(&ENDPOINT_SLICE, slice.clone(), "Ports"), "80,*");
    assert_eq!(cell(&ENDPOINT_SLICE, slice, "Endpoints"), "1.1.1.1,1.1.1.2");
    assert_eq!(cell(&ENDPOINT_SLICE, json!({}), "Ports"), "<unset>");
    let wrong = json!({"metadata": {"name": "e", "namespace": "n"}, "addressType": "IPv4",
        "endpoints": [{"addresses": ["x"]}, {"addresses": []}]});
    assert_eq!(
        errors(&ENDPOINT_SLICE, wrong, None),
        [
            "endpoints[0].addresses[0]: Invalid value: \"x\": must be a valid IPv4 address",
            "endpoints[1].addresses: Required value: must contain at least 1 address",
        ]
    );
}

#[test]
fn events_and_leases() {
    let event = json!({"metadata": {"name": "e"}, "lastTimestamp": "1970-01-01T00:01:00Z", "type": "Normal",
        "reason": "Started", "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "f"}, "message": " text\n",
        "source": {"component": "kubelet", "host": "n"}, "firstTimestamp": "1970-01-01T00:00:00Z"});
    let row: Vec<Value> = cells(&EVENT, event, 100).into_iter().map(|(_, cell)| cell).collect();
    assert_eq!(
        Value::from(row),
        json!(["40s", "Normal", "Started", "pod/p", "f", "kubelet, n", "text", "100s", 1, "e"])
    );
    let lost = json!({"metadata": {"name": "e", "namespace": "a"}, "involvedObject": {"namespace": "b"}});
    assert_eq!(
        errors(&EVENT, lost, None),
        ["involvedObject.namespace: Invalid value: \"b\": does not match event.namespace"]
    );
    assert_eq!(cell(&LEASE, json!({"spec": {"holderIdentity": "n"}}), "Holder"), "n");
    let lease = json!({"metadata": {"name": "l", "namespace": "n"}, "spec": {"leaseDurationSeconds": 0}});
    assert_eq!(errors(&LEASE, lease, None), ["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"]);
}

fn deployment(change: impl FnOnce(&mut Value)) -> Value {
    let mut tree = json!({"metadata": {"name": "d", "namespace": "n"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}});
    change(&mut tree["spec"]);
    tree
}

#[test]
fn deployments_are_defaulted_as_upstream_does() {
    let stored = stored(&DEPLOYMENT, deployment(|_| {}));
    assert_eq!(
        Value::Object(stored.0),
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "n"}, "spec": {
            "replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "revisionHistoryLimit": 10,
            "progressDeadlineSeconds": 600,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {
                "containers": [{"name": "c", "image": "i:1", "imagePullPolicy": "IfNotPresent", "resources": {},
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
                "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler",
                "securityContext": {}, "terminationGracePeriodSeconds": 30}}}})
    );
}

#[test]
fn deployments_are_checked() {
    let rows: [(Value, &str); 8] = [
        (
            deployment(|spec| spec["replicas"] = (-1).into()),
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
        ),
        (deployment(|spec| spec["selector"] = Value::Null), "spec.selector: Required value"),
        (
            deployment(|spec| spec["selector"] = json!({})),
            "spec.selector: Invalid value: {}: empty selector is invalid for deployment",
        ),
        (
            deployment(|spec| spec["selector"]["matchLabels"]["a"] = "c".into()),
            "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
        ),
        (
            deployment(|spec| spec["template"]["spec"]["restartPolicy"] = "Never".into()),
            "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
        ),
        (
            deployment(|spec| spec["template"]["spec"]["containers"] = json!([])),
            "spec.template.spec.containers: Required value",
        ),
        (
            deployment(|spec| spec["strategy"] = json!({"type": "Recreate", "rollingUpdate": {"maxSurge": 1}})),
            "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
        ),
        (
            deployment(|spec| spec["strategy"] = json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}})),
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
        ),
    ];
    for (tree, message) in rows {
        assert_eq!(errors(&DEPLOYMENT, tree, None), [message]);
    }
    let moved = deployment(|spec| {
        spec["selector"] = json!({"matchLabels": {"x": "y"}});
        spec["template"]["metadata"]["labels"] = json!({"x": "y"});
    });
    assert_eq!(
        errors(&DEPLOYMENT, moved, Some(deployment(|_| {}))),
        ["spec.selector: Invalid value: {\"matchLabels\":{\"x\":\"y\"}}: field is immutable"]
    );
}

#[test]
fn workload_columns() {
    let mut tree = deployment(|spec| spec["replicas"] = 3.into());
    tree["status"] = json!({"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 1, "replicas": 4});
    tree["metadata"]["creationTimestamp"] = "1970-01-01T00:00:00Z".into();
    let row: Vec<Value> = cells(&DEPLOYMENT, tree.clone(), 10).into_iter().map(|(_, cell)| cell).collect();
    assert_eq!(Value::from(row), json!(["d", "2/3", 3, 1, "10s", "c", "i:1", "a=b"]));
    let row: Vec<Value> = cells(&REPLICA_SET, tree, 10).into_iter().map(|(_, cell)| cell).collect();
    assert_eq!(Value::from(row), json!(["d", 3, 4, 2, "10s", "c", "i:1", "a=b"]));
}
