use serde_json::json;

use super::*;
use crate::registry::{DEPLOYMENT, LEASE, POD, SECRET, SERVICE};

fn problems(kind: &Kind, tree: Value) -> Vec<String> {
    decode_value(kind, tree).expect("decodes").problems
}

fn refusal(kind: &Kind, tree: Value) -> String {
    decode_value(kind, tree).expect_err("refused").message
}

#[test]
fn unknown_fields_have_paths() {
    let tree = json!({"spec": {"foo": 1, "containers": [{"name": "a", "imag": "b", "env": [{"nme": "X"}]}]}});
    assert_eq!(
        problems(&POD, tree),
        [
            r#"unknown field "spec.foo""#,
            r#"unknown field "spec.containers[0].imag""#,
            r#"unknown field "spec.containers[0].env[0].nme""#,
        ]
    );
    let known = json!({"metadata": {"labels": {"a.b/c": "d"}}, "spec": {"nodeSelector": {"x": "y"}}});
    assert_eq!(problems(&POD, known), [""; 0]);
}

#[test]
fn duplicate_fields_have_paths() {
    let body = br#"{"kind":"Pod","apiVersion":"v1","spec":{"a":1,"nodeName":"x","nodeName":"y","containers":[{"name":"a","name":"b"}]}}"#;
    let decoded = decode(&POD, body, Format::Json).expect("decodes");
    assert_eq!(
        decoded.problems,
        [
            r#"duplicate field "spec.nodeName""#,
            r#"duplicate field "spec.containers[0].name""#,
            r#"unknown field "spec.a""#,
        ]
    );
    assert_eq!(decoded.object.str_at(&["spec", "nodeName"]), "y");
    let status = decoded.strict(&POD).expect_err("strict");
    assert_eq!(
        status.message,
        r#"Pod in version "v1" cannot be handled as a Pod: strict decoding error: duplicate field "spec.nodeName", duplicate field "spec.containers[0].name", unknown field "spec.a""#
    );
}

#[test]
fn wrong_types_are_named_as_go_names_them() {
    let rows = [
        (
            &SERVICE,
            json!({"spec": {"ports": [{"port": "http"}]}}),
            r#"Service in version "v1" cannot be handled as a Service: json: cannot unmarshal string into Go struct field ServicePort.spec.ports.port of type int32"#,
        ),
        (
            &DEPLOYMENT,
            json!({"spec": {"replicas": "3"}}),
            r#"Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"#,
        ),
        (
            &DEPLOYMENT,
            json!({"metadata": {"labels": {"a": 1}}}),
            r#"Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string"#,
        ),
        (
            &POD,
            json!({"spec": {"containers": {"name": "x"}}}),
            r#"Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container"#,
        ),
        (
            &POD,
            json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "abc"}}}]}}),
            r#"Pod in version "v1" cannot be handled as a Pod: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"#,
        ),
        (
            &SECRET,
            json!({"data": {"a": "%%%"}}),
            r#"Secret in version "v1" cannot be handled as a Secret: illegal base64 data at input byte 0"#,
        ),
    ];
    for (kind, tree, message) in rows {
        assert_eq!(refusal(kind, tree), message);
    }
}

#[test]
fn the_result_is_normal() {
    let tree = json!({"spec": {"nodeName": null, "containers": [
        {"name": "a", "resources": {"limits": {"cpu": 1, "memory": "1024Mi"}, "requests": {"cpu": 0.5}}}]},
        "metadata": {"creationTimestamp": null, "deletionTimestamp": "2026-01-02T03:04:05.5+02:00"}});
    let object = decode_value(&POD, tree).expect("decodes").object;
    assert_eq!(
        Value::Object(object.0),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"deletionTimestamp": "2026-01-02T01:04:05Z"},
            "spec": {"containers": [
                {"name": "a", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}}]}})
    );
    let lease = json!({"spec": {"renewTime": "2026-01-02T03:04:05.123456Z"}});
    let lease = decode_value(&LEASE, lease).expect("decodes").object;
    assert_eq!(lease.str_at(&["spec", "renewTime"]), "2026-01-02T03:04:05.123456Z");
}

#[test]
fn another_type_is_refused() {
    let message = refusal(&POD, json!({"apiVersion": "apps/v1", "kind": "Deployment"}));
    assert_eq!(message, "the API version in the data (apps/v1) does not match the expected API version (v1)");
    assert!(decode(&POD, b"{", Format::Json).is_err());
    assert!(decode(&POD, b"[]", Format::Json).is_err());
    let yaml = decode(&POD, b"spec:\n  nodeName: x\n", Format::Yaml).expect("yaml");
    assert_eq!(yaml.object.str_at(&["spec", "nodeName"]), "x");
}

/// What we let through, the typed view must be able to read.
#[test]
fn what_is_normal_has_a_typed_view() {
    let tree = json!({"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 80}],
        "livenessProbe": {"httpGet": {"port": "http"}}}], "terminationGracePeriodSeconds": 5},
        "metadata": {"creationTimestamp": "2026-01-02T03:04:05Z"}});
    let object = decode_value(&POD, tree).expect("decodes").object;
    let pod: k8s_openapi::api::core::v1::Pod = object.typed().expect("typed");
    assert_eq!(pod.spec.expect("spec").containers[0].name, "a");
}
