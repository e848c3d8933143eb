//! Which slices are written for which pods.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::plan::{Action, plan};
use crate::meta;

fn service(spec: Value) -> Service {
    let mut tree = json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "s", "labels": {"team": "red"}},
        "spec": {"selector": {"app": "web"}, "clusterIP": "10.96.0.9", "ports": [{"name": "web", "port": 80, "targetPort": "http"}]},
    });
    for (field, value) in spec.as_object().unwrap() {
        tree["spec"][field] = value.clone();
    }
    serde_json::from_value(tree).unwrap()
}

fn pod(number: usize, port: i32, ready: bool, terminating: bool) -> (Arc<Pod>, Option<String>) {
    let mut tree = json!({
        "metadata": {"name": format!("p{number}"), "namespace": "ns", "uid": format!("u{number}")},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": port}]}]},
        "status": {
            "podIP": format!("10.244.{}.{}", number / 250, number % 250 + 1),
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
        },
    });
    if terminating {
        tree["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    }
    (Arc::new(serde_json::from_value(tree).unwrap()), Some("zone-a".to_owned()))
}

/// The slices after the actions. Fresh ones get names.
fn apply(slices: &[Arc<EndpointSlice>], actions: Vec<Action>) -> Vec<Arc<EndpointSlice>> {
    let mut slices = slices.to_vec();
    for action in actions {
        match action {
            Action::Create(mut slice) => {
                slice.metadata.name = Some(format!("web-{}", slices.len()));
                slices.push(Arc::new(*slice));
            }
            Action::Update(slice) => {
                let old = slices.iter_mut().find(|old| old.metadata.name == slice.metadata.name).unwrap();
                *old = Arc::new(*slice);
            }
            Action::Delete(slice) => slices.retain(|old| old.metadata.name != slice.metadata.name),
        }
    }
    slices
}

fn addresses(slices: &[Arc<EndpointSlice>]) -> BTreeSet<String> {
    slices.iter().flat_map(|slice| slice.endpoints.iter().flatten()).map(|end| end.addresses[0].clone()).collect()
}

fn sizes(slices: &[Arc<EndpointSlice>]) -> Vec<usize> {
    slices.iter().map(|slice| slice.endpoints.as_ref().map_or(0, Vec::len)).collect()
}

#[test]
fn a_slice_says_whose_it_is_and_what_its_endpoints_can() {
    let pods = [pod(1, 8080, true, false), pod(2, 8080, false, false), pod(3, 8080, true, true)];
    let slices = apply(&[], plan(&service(json!({})), &pods, &[]));
    assert_eq!(slices.len(), 1);
    let labels = slices[0].metadata.labels.as_ref().unwrap();
    let expected = [
        ("kubernetes.io/service-name", "web"),
        ("endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io"),
        ("team", "red"),
    ];
    for (label, value) in expected {
        assert_eq!(labels[label], value);
    }
    assert_eq!(slices[0].metadata.generate_name.as_deref(), Some("web-"));
    assert_eq!(slices[0].ports.as_ref().unwrap()[0].port, Some(8080));
    let conditions: Vec<_> = slices[0]
        .endpoints
        .iter()
        .flatten()
        .map(|end| {
            let conditions = end.conditions.as_ref().unwrap();
            (conditions.ready, conditions.serving, conditions.terminating)
        })
        .collect();
    let row = |ready, serving, terminating| (Some(ready), Some(serving), Some(terminating));
    assert_eq!(conditions, [row(true, true, false), row(false, false, false), row(false, true, true)]);
    let first = &slices[0].endpoints.as_ref().unwrap()[0];
    assert_eq!((first.node_name.as_deref(), first.zone.as_deref()), (Some("n"), Some("zone-a")));
    assert_eq!(first.target_ref.as_ref().unwrap().name.as_deref(), Some("p1"));
}

#[test]
fn unready_pods_are_published_where_the_service_says_so() {
    let pods = [pod(1, 8080, false, false)];
    let slices = apply(&[], plan(&service(json!({"publishNotReadyAddresses": true})), &pods, &[]));
    assert_eq!(slices[0].endpoints.as_ref().unwrap()[0].conditions.as_ref().unwrap().ready, Some(true));
}

#[test]
fn a_thousand_pods_are_ten_slices_and_one_change_rewrites_one() {
    let service = service(json!({}));
    let mut pods: Vec<_> = (0..1000).map(|number| pod(number, 8080, true, false)).collect();
    let slices = apply(&[], plan(&service, &pods, &[]));
    assert_eq!(sizes(&slices), [100; 10]);
    assert_eq!(addresses(&slices).len(), 1000);
    assert_eq!(plan(&service, &pods, &slices), [], "nothing changed");
    pods[423] = pod(423, 8080, false, false);
    let actions = plan(&service, &pods, &slices);
    assert!(matches!(&actions[..], [Action::Update(_)]), "{} writes", actions.len());
    let gone = pods.remove(17);
    let slices = apply(&slices, plan(&service, &pods, &slices));
    pods.push(pod(2000, 8080, true, false));
    let actions = plan(&service, &pods, &slices);
    assert!(matches!(&actions[..], [Action::Update(_)]), "the gap is filled");
    let slices = apply(&slices, actions);
    assert_eq!(sizes(&slices), [100; 10]);
    assert!(!addresses(&slices).contains(gone.0.status.as_ref().unwrap().pod_ip.as_ref().unwrap()));
}

#[test]
fn pods_with_other_ports_stand_in_other_slices() {
    let pods = [pod(1, 8080, true, false), pod(2, 9090, true, false), pod(3, 8080, true, false)];
    let slices = apply(&[], plan(&service(json!({})), &pods, &[]));
    let by_port: Vec<_> = slices
        .iter()
        .map(|slice| (slice.ports.as_ref().unwrap()[0].port.unwrap(), sizes(std::slice::from_ref(slice))[0]))
        .collect();
    assert_eq!(by_port, [(8080, 2), (9090, 1)]);
}

#[test]
fn a_service_without_pods_keeps_one_empty_slice() {
    let service = service(json!({}));
    let slices = apply(&[], plan(&service, &[], &[]));
    assert_eq!(sizes(&slices), [0]);
    assert_eq!(plan(&service, &[], &slices), []);
    let pods: Vec<_> = (0..150).map(|number| pod(number, 8080, true, false)).collect();
    let slices = apply(&slices, plan(&service, &pods, &slices));
    assert_eq!(sizes(&slices), [100, 50], "the empty one went");
    let slices = apply(&slices, plan(&service, &[], &slices));
    assert_eq!(sizes(&slices), [0]);
}

#[test]
fn slices_follow_the_labels_of_the_service() {
    let mut service = service(json!({"clusterIP": "None"}));
    let pods = [pod(1, 8080, true, false)];
    let slices = apply(&[], plan(&service, &pods, &[]));
    assert_eq!(slices[0].metadata.labels.as_ref().unwrap()["service.kubernetes.io/headless"], "");
    service.metadata.labels = Some(meta::Map::from([("team".to_owned(), "blue".to_owned())]));
    let slices = apply(&slices, plan(&service, &pods, &slices));
    assert_eq!(slices[0].metadata.labels.as_ref().unwrap()["team"], "blue");
}

#[test]
fn pods_without_an_address_are_left_out() {
    let (mut one, zone) = pod(1, 8080, true, false);
    Arc::make_mut(&mut one).status.as_mut().unwrap().pod_ip = None;
    let slices = apply(&[], plan(&service(json!({})), &[(one, zone)], &[]));
    assert_eq!(sizes(&slices), [0]);
}

#[test]
fn traffic_distribution_becomes_hints_of_ready_endpoints() {
    let check = |wanted: &str, expected: Value| {
        let service = service(json!({"trafficDistribution": wanted}));
        let pods = [pod(1, 8080, true, false), pod(2, 8080, false, false)];
        let slices = apply(&[], plan(&service, &pods, &[]));
        let hints: Vec<Value> =
            slices[0].endpoints.iter().flatten().map(|end| serde_json::to_value(&end.hints).unwrap()).collect();
        assert_eq!(hints, [expected, Value::Null], "{wanted}");
        assert_eq!(plan(&service, &pods, &slices), [], "{wanted}: hints once written are no reason to write");
    };
    check("PreferClose", json!({"forZones": [{"name": "zone-a"}]}));
    check("PreferSameZone", json!({"forZones": [{"name": "zone-a"}]}));
    check("PreferSameNode", json!({"forNodes": [{"name": "n"}], "forZones": [{"name": "zone-a"}]}));
    check("Elsewhere", Value::Null);
}
