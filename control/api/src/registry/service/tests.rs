use serde_json::json;

use super::super::tests::{cell, errors, stored};
use super::*;

fn service(spec: Value) -> Value {
    json!({"metadata": {"name": "s", "namespace": "n"}, "spec": spec})
}

#[test]
fn defaults() {
    let spec = |tree: Value| stored(&SERVICE, service(tree)).at(&["spec"]).cloned().expect("spec");
    assert_eq!(
        spec(json!({"ports": [{"port": 80}, {"port": 81, "targetPort": "http", "protocol": "UDP", "name": "u"}]})),
        json!({"internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "sessionAffinity": "None", "type": "ClusterIP", "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80},
            {"port": 81, "targetPort": "http", "protocol": "UDP", "name": "u"}]})
    );
    assert_eq!(spec(json!({"type": "NodePort"}))["externalTrafficPolicy"], "Cluster");
    assert_eq!(spec(json!({"type": "LoadBalancer"}))["allocateLoadBalancerNodePorts"], true);
    let external = spec(json!({"type": "ExternalName", "externalName": "a.b"}));
    assert_eq!(external, json!({"type": "ExternalName", "externalName": "a.b", "sessionAffinity": "None"}));
    let sticky = spec(json!({"sessionAffinity": "ClientIP"}));
    assert_eq!(sticky["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"], 10_800);
}

#[test]
fn checks() {
    let rows = [
        (json!({}), "spec.ports: Required value"),
        (
            json!({"ports": [{"port": 0, "targetPort": 1}]}),
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (
            json!({"ports": [{"port": 1, "name": "a"}, {"port": 2, "name": "a"}]}),
            "spec.ports[1].name: Duplicate value: \"a\"",
        ),
        (json!({"ports": [{"port": 1, "name": "a"}, {"port": 2}]}), "spec.ports[1].name: Required value"),
        (
            json!({"ports": [{"port": 1, "name": "a"}, {"port": 1, "name": "b"}]}),
            "spec.ports[1]: Duplicate value: {\"port\":1,\"protocol\":\"TCP\"}",
        ),
        (
            json!({"ports": [{"port": 1, "nodePort": 30000}]}),
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ),
        (
            json!({"ports": [{"port": 1}], "type": "Magic"}),
            "spec.type: Unsupported value: \"Magic\": supported values: \"ClusterIP\", \"ExternalName\", \
             \"LoadBalancer\", \"NodePort\"",
        ),
        (
            json!({"ports": [{"port": 1}], "clusterIP": "x"}),
            "spec.clusterIPs[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ),
        (
            json!({"ports": [{"port": 1}], "clusterIP": "None", "type": "NodePort"}),
            "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services",
        ),
        (
            json!({"ports": [{"port": 1}], "externalTrafficPolicy": "Local"}),
            "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
        ),
        (json!({"type": "ExternalName"}), "spec.externalName: Required value"),
    ];
    for (spec, message) in rows {
        assert_eq!(errors(&SERVICE, service(spec), None), [message]);
    }
    assert_eq!(errors(&SERVICE, service(json!({"clusterIP": "None"})), None), [""; 0]);
    let mut named = service(json!({"ports": [{"port": 1}]}));
    named["metadata"]["name"] = "1a".into();
    assert!(errors(&SERVICE, named, None)[0].starts_with("metadata.name: Invalid value: \"1a\": a DNS-1035 label"));
    let with = |ip: &str| service(json!({"ports": [{"port": 1}], "clusterIP": ip}));
    assert_eq!(
        errors(&SERVICE, with("10.96.0.2"), Some(with("10.96.0.3"))),
        ["spec.clusterIPs[0]: Invalid value: [\"10.96.0.2\"]: may not change once set"]
    );
}

#[test]
fn columns() {
    let tree = service(json!({"type": "NodePort", "clusterIP": "10.96.0.9", "selector": {"a": "b", "c": "d"},
        "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}));
    for (name, text) in [
        ("Type", "NodePort"),
        ("Cluster-IP", "10.96.0.9"),
        ("External-IP", "<none>"),
        ("Port(s)", "80:30080/TCP,53/UDP"),
        ("Selector", "a=b,c=d"),
        ("Age", "<unknown>"),
    ] {
        assert_eq!(cell(&SERVICE, tree.clone(), name), text);
    }
    let external = service(json!({"type": "ExternalName", "externalName": "a.b"}));
    assert_eq!(cell(&SERVICE, external.clone(), "External-IP"), "a.b");
    assert_eq!(cell(&SERVICE, external, "Cluster-IP"), "<none>");
    assert_eq!(cell(&SERVICE, service(json!({"type": "LoadBalancer"})), "External-IP"), "<pending>");
}
