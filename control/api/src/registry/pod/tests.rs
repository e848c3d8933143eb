use serde_json::json;

use super::super::tests::{cell, errors, object, stored};
use super::*;

fn pod(change: impl FnOnce(&mut Value)) -> Value {
    let mut tree =
        json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    change(&mut tree["spec"]);
    tree
}

#[track_caller]
fn refused(change: impl FnOnce(&mut Value), messages: &[&str]) {
    assert_eq!(errors(&POD, pod(change), None), messages);
}

#[test]
fn defaults() {
    let tree = pod(|spec| {
        spec["serviceAccountName"] = "sa".into();
        spec["containers"][0] = json!({"name": "c", "image": "localhost:5000/i", "ports": [{"containerPort": 80}],
            "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "livenessProbe": {"httpGet": {"port": 80}}, "resources": {"limits": {"cpu": "1", "memory": "64Mi"}}});
        spec["volumes"] = json!([{"name": "e"}, {"name": "s", "secret": {"secretName": "s"}},
            {"name": "h", "hostPath": {"path": "/x"}},
            {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]);
    });
    let stored = stored(&POD, tree);
    assert_eq!(
        stored.at(&["spec"]).cloned(),
        Some(json!({
            "containers": [{"name": "c", "image": "localhost:5000/i", "imagePullPolicy": "Always",
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "env": [{"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}],
                "livenessProbe": {"httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}, "timeoutSeconds": 1,
                    "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                "resources": {"limits": {"cpu": "1", "memory": "64Mi"}, "requests": {"cpu": "1", "memory": "64Mi"}},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
            "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "restartPolicy": "Always",
            "schedulerName": "default-scheduler", "securityContext": {}, "serviceAccount": "sa",
            "serviceAccountName": "sa", "terminationGracePeriodSeconds": 30,
            "volumes": [{"name": "e", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "s", "defaultMode": 420}},
                {"name": "h", "hostPath": {"path": "/x", "type": ""}},
                {"name": "p", "projected": {"defaultMode": 420,
                    "sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}]}}],
        }))
    );
    assert_eq!(stored.at(&["status"]), Some(&json!({"phase": "Pending", "qosClass": "Guaranteed"})));
}

#[test]
fn pull_policy_follows_the_tag() {
    for (image, policy) in [
        ("a", "Always"),
        ("a:latest", "Always"),
        ("a:1", "IfNotPresent"),
        ("r:5000/a", "Always"),
        ("r:5000/a:1", "IfNotPresent"),
        ("a@sha256:00", "IfNotPresent"),
        ("a:latest@sha256:00", "IfNotPresent"),
    ] {
        assert_eq!(pod_template::default_pull_policy(image), policy, "{image}");
    }
}

#[test]
fn quality_of_service() {
    for (resources, class) in [
        (json!({}), "BestEffort"),
        (json!({"requests": {"cpu": "1"}}), "Burstable"),
        (json!({"limits": {"cpu": "1", "memory": "1Gi"}}), "Guaranteed"),
        (json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}}), "Burstable"),
        (json!({"limits": {"cpu": "1"}}), "Burstable"),
    ] {
        let one = stored(&POD, pod(|spec| spec["containers"][0]["resources"] = resources.clone()));
        assert_eq!(one.str_at(&["status", "qosClass"]), class, "{resources}");
    }
}

#[test]
fn containers_are_checked() {
    assert_eq!(errors(&POD, pod(|_| {}), None), [""; 0]);
    refused(|spec| spec["containers"] = json!([]), &["spec.containers: Required value"]);
    refused(
        |spec| spec["containers"] = json!([{"name": "a", "image": "i"}, {"name": "a"}]),
        &["spec.containers[1].name: Duplicate value: \"a\"", "spec.containers[1].image: Required value"],
    );
    refused(|spec| spec["containers"][0]["name"] = Value::Null, &["spec.containers[0].name: Required value"]);
    refused(
        |spec| spec["containers"][0]["ports"] = json!([{"containerPort": 70_000, "protocol": "X"}, {"hostPort": 1}]),
        &[
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            "spec.containers[0].ports[0].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            "spec.containers[0].ports[1].containerPort: Required value",
        ],
    );
    refused(
        |spec| {
            spec["containers"][0]["resources"] =
                json!({"limits": {"cpu": "1", "memory": "-1"}, "requests": {"cpu": "2"}})
        },
        &[
            "spec.containers[0].resources.limits[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
            "spec.containers[0].resources.requests[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ],
    );
    refused(
        |spec| {
            spec["containers"][0]["env"] = json!([{"name": "A=B"}, {"name": "X", "value": "1",
            "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}])
        },
        &[
            "spec.containers[0].env[0].name: Invalid value: \"A=B\": a valid environment variable name must consist \
             only of printable ASCII characters other than '='",
            "spec.containers[0].env[1].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
        ],
    );
    refused(
        |spec| spec["containers"][0]["imagePullPolicy"] = "Sometimes".into(),
        &["spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \
           \"IfNotPresent\", \"Never\""],
    );
    refused(
        |spec| {
            spec["initContainers"] =
                json!([{"name": "i", "image": "x", "readinessProbe": {"exec": {"command": ["a"]}}}])
        },
        &["spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without \
           restartPolicy=Always"],
    );
}

#[test]
fn volumes_probes_and_the_rest_are_checked() {
    refused(
        |spec| spec["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]),
        &["spec.containers[0].volumeMounts[0].name: Not found: \"v\""],
    );
    refused(
        |spec| spec["volumes"] = json!([{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}, {"name": "v"}]),
        &[
            "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
            "spec.volumes[1].name: Duplicate value: \"v\"",
        ],
    );
    refused(
        |spec| spec["containers"][0]["livenessProbe"] = json!({"successThreshold": 2}),
        &[
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ],
    );
    refused(
        |spec| spec["restartPolicy"] = "Sometimes".into(),
        &[
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ],
    );
    refused(
        |spec| spec["tolerations"] = json!([{"operator": "Equal"}]),
        &[
            "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which \
           means \"match all values and all keys\"",
        ],
    );
}

#[test]
fn updates() {
    let old = || pod(|spec| spec["tolerations"] = json!([{"operator": "Exists"}]));
    let update = |change: &dyn Fn(&mut Value)| {
        let mut new = old();
        change(&mut new["spec"]);
        errors(&POD, new, Some(old()))
    };
    assert_eq!(update(&|spec| spec["containers"][0]["image"] = "j:1".into()), [""; 0]);
    assert_eq!(update(&|spec| spec["activeDeadlineSeconds"] = 5.into()), [""; 0]);
    assert_eq!(
        update(&|spec| spec["tolerations"] = json!([{"operator": "Exists"}, {"key": "a", "operator": "Exists"}])),
        [""; 0]
    );
    assert_eq!(
        update(&|spec| spec["tolerations"] = Value::Null),
        ["spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"]
    );
    assert_eq!(
        update(&|spec| spec["nodeName"] = "x".into()),
        ["spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,\
          `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
          tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously \
          negative)\n+ \tnodeName: \"x\""]
    );
    assert_eq!(
        update(&|spec| spec["containers"] = json!([{"name": "c", "image": "i"}, {"name": "d", "image": "i"}])),
        ["spec: Forbidden: pod updates may not add or remove containers"]
    );
}

#[test]
fn status_column() {
    let running = json!({"ready": true, "name": "c", "restartCount": 0, "state": {"running": {}}});
    let rows = [
        (json!({"phase": "Pending"}), "Pending", "0/1"),
        (json!({"phase": "Running", "containerStatuses": [running]}), "Running", "1/1"),
        (
            json!({"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]}),
            "ContainerCreating",
            "0/1",
        ),
        (
            json!({"phase": "Running", "containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
            "CrashLoopBackOff",
            "0/1",
        ),
        (
            json!({"phase": "Succeeded", "containerStatuses": [{"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}),
            "Completed",
            "0/1",
        ),
        (
            json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 3}}}]}),
            "ExitCode:3",
            "0/1",
        ),
        (
            json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 137, "signal": 9}}}]}),
            "Signal:9",
            "0/1",
        ),
        (json!({"phase": "Failed", "reason": "Evicted"}), "Evicted", "0/1"),
        (json!({"phase": "Pending", "initContainerStatuses": [{"state": {"running": {}}}]}), "Init:0/2", "0/1"),
        (
            json!({"phase": "Pending", "initContainerStatuses": [{"state": {"terminated": {"exitCode": 0}}},
            {"state": {"waiting": {"reason": "PodInitializing"}}}]}),
            "Init:1/2",
            "0/1",
        ),
        (
            json!({"phase": "Pending", "initContainerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
            "Init:CrashLoopBackOff",
            "0/1",
        ),
        (
            json!({"phase": "Pending", "initContainerStatuses": [{"state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]}),
            "Init:Error",
            "0/1",
        ),
        (
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}], "containerStatuses": [
            {"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}, running]}),
            "NotReady",
            "1/1",
        ),
    ];
    for (status, word, ready) in rows {
        let tree = json!({"metadata": {"name": "p"}, "status": status, "spec": {"containers": [{"name": "c"}],
            "initContainers": [{"name": "i"}, {"name": "j"}]}});
        assert_eq!((cell(&POD, tree.clone(), "Status"), cell(&POD, tree, "Ready")), (word.into(), ready.into()));
    }
    let going = json!({"metadata": {"name": "p", "deletionTimestamp": "1970-01-01T00:00:00Z"},
        "status": {"phase": "Running", "containerStatuses": [running]}});
    assert_eq!(cell(&POD, going, "Status"), "Terminating");
    assert!(!object(json!({})).is_terminating());
}

#[test]
fn other_columns() {
    let tree = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c"}],
        "readinessGates": [{"conditionType": "x"}]},
        "status": {"podIPs": [{"ip": "10.244.0.5"}], "containerStatuses": [{"restartCount": 2,
            "lastState": {"terminated": {"finishedAt": "1970-01-01T00:01:30Z"}}}]}});
    assert_eq!(cell(&POD, tree.clone(), "Restarts"), "2 (10s ago)");
    assert_eq!(cell(&POD, tree.clone(), "IP"), "10.244.0.5");
    assert_eq!(cell(&POD, tree.clone(), "Node"), "n");
    assert_eq!(cell(&POD, tree.clone(), "Nominated Node"), "<none>");
    assert_eq!(cell(&POD, tree, "Readiness Gates"), "0/1");
    assert_eq!(cell(&POD, json!({}), "Restarts"), "0");
}
