//! The join's rules, one test each.

use serde_json::{Value, json};

use super::*;

fn service(spec: Value) -> core::Service {
    serde_json::from_value(json!({"metadata": {"namespace": "default", "name": "web"}, "spec": spec}))
        .expect("a Service")
}

fn endpoint_slice(kind: &str, ports: Value, endpoints: Value) -> EndpointSlice {
    serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": "web-1", "labels": {SERVICE_NAME: "web"}},
        "addressType": kind, "ports": ports, "endpoints": endpoints,
    }))
    .expect("an EndpointSlice")
}

fn joined(spec: Value, slices: &[EndpointSlice]) -> Service {
    let name = ServiceName { namespace: "default".into(), name: "web".into() };
    let front = front(&service(spec)).expect("valid").expect("ours");
    let slices: Vec<Slice> = slices.iter().map(|one| slice(one, "n1").expect("valid").expect("ours")).collect();
    join(&name, &front, slices.iter())
}

fn addresses(port: &Port) -> Vec<String> {
    port.endpoints.iter().map(|one| one.address.to_string()).collect()
}

#[test]
fn ports_meet_by_name_and_protocol_and_targets_come_from_the_slice() {
    let spec = json!({"clusterIPs": ["10.96.0.7"], "ports": [
        {"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
    ]});
    let ports = json!([
        {"name": "dns", "port": 1053, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 2053, "protocol": "TCP"},
        {"name": "dns-tcp", "port": 9, "protocol": "UDP"},
        {"name": "metrics", "port": 9153},
    ]);
    let slice = endpoint_slice("IPv4", ports, json!([{"addresses": ["10.244.0.3"]}, {"addresses": ["10.244.0.2"]}]));
    let service = joined(spec, &[slice]);
    assert_eq!(addresses(&service.ports[0]), ["10.244.0.2:1053", "10.244.0.3:1053"]);
    assert_eq!(service.ports[0].node_port, Some(30053));
    assert_eq!(addresses(&service.ports[1]), ["10.244.0.2:2053", "10.244.0.3:2053"]);
    assert_eq!(service.ports[1].node_port, None);
}

#[test]
fn both_families_stand_side_by_side() {
    let spec = json!({"clusterIPs": ["10.96.0.7", "fd00::7"], "ports": [{"port": 80}]});
    let v6 = endpoint_slice("IPv6", json!([{"port": 8080}]), json!([{"addresses": ["fd00:1::2"]}]));
    let v4 = endpoint_slice("IPv4", json!([{"port": 8080, "name": ""}]), json!([{"addresses": ["10.244.0.2"]}]));
    let service = joined(spec, &[v6, v4]);
    assert_eq!(addresses(&service.ports[0]), ["10.244.0.2:8080", "[fd00:1::2]:8080"]);
    assert_eq!(service.cluster_ips.len(), 2);
}

#[test]
fn conditions_not_given_mean_ready_and_local_means_this_node() {
    let endpoints = json!([
        {"addresses": ["10.244.0.2"], "nodeName": "n1"},
        {"addresses": ["10.244.0.3"], "nodeName": "n2", "conditions": {"ready": false, "serving": true, "terminating": true}},
    ]);
    let slice = endpoint_slice("IPv4", json!([{"port": 8080}]), endpoints);
    let service = joined(json!({"clusterIP": "10.96.0.7", "ports": [{"port": 80}]}), &[slice]);
    let flags: Vec<_> =
        service.ports[0].endpoints.iter().map(|e| (e.ready, e.serving, e.terminating, e.local)).collect();
    assert_eq!(flags, [(true, true, false, true), (false, true, true, false)]);
}

#[test]
fn an_endpoint_in_two_slices_counts_once_with_its_best_conditions() {
    let one = |ready: bool, node: &str| {
        let endpoint =
            json!({"addresses": ["10.244.0.2"], "nodeName": node, "conditions": {"ready": ready, "serving": ready}});
        endpoint_slice("IPv4", json!([{"port": 8080}]), json!([endpoint]))
    };
    let spec = json!({"clusterIP": "10.96.0.7", "ports": [{"port": 80}]});
    for slices in [[one(true, "n2"), one(false, "n1")], [one(false, "n1"), one(true, "n2")]] {
        let service = joined(spec.clone(), &slices);
        let [endpoint] = &service.ports[0].endpoints[..] else { panic!("one endpoint: {:?}", service.ports) };
        assert!(endpoint.ready && endpoint.serving && endpoint.local, "{endpoint:?}");
    }
}

#[test]
fn policies_affinity_and_outside_addresses_are_read() {
    let object = serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": "web"},
        "spec": {
            "clusterIP": "10.96.0.7", "ports": [{"port": 80}], "type": "LoadBalancer",
            "sessionAffinity": "ClientIP", "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local",
            "externalIPs": ["192.0.2.9"],
        },
        "status": {"loadBalancer": {"ingress": [
            {"ip": "192.0.2.1"}, {"ip": "192.0.2.2", "ipMode": "VIP"}, {"ip": "192.0.2.3", "ipMode": "Proxy"},
            {"hostname": "lb.example.com"},
        ]}},
    }))
    .expect("a Service");
    let front = front(&object).expect("valid").expect("ours");
    let outside: Vec<String> = front.external_ips.iter().map(ToString::to_string).collect();
    assert_eq!(outside, ["192.0.2.1", "192.0.2.2", "192.0.2.9"]);
    assert_eq!(front.affinity, Some(AFFINITY_DEFAULT));
    assert!(front.internal_local && front.external_local);
}

#[test]
fn what_is_no_business_of_ours_has_no_front() {
    for spec in [
        json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"port": 80}]}),
        json!({"type": "ExternalName", "externalName": "example.com"}),
        json!({"ports": [{"port": 80}]}),
    ] {
        assert_eq!(front(&service(spec.clone())), Ok(None), "{spec}");
    }
    let mut other = service(json!({"clusterIP": "10.96.0.7", "ports": [{"port": 80}]}));
    other.metadata.labels = Some([(PROXY_NAME.to_owned(), "mesh".to_owned())].into());
    assert_eq!(front(&other), Ok(None));
}

#[test]
fn last_good_refusals_name_the_field_and_the_value() {
    let check = |spec: Value, expected: &str| {
        let error = front(&service(spec)).expect_err("refused");
        assert!(error.contains(expected), "{error}");
    };
    check(json!({"clusterIP": "10.96.0.300", "ports": [{"port": 80}]}), "`10.96.0.300` is not an IP address");
    check(json!({"clusterIP": "10.96.0.3", "ports": [{"port": 70000}]}), "spec.ports[].port: 70000");
    check(json!({"clusterIP": "10.96.0.3", "ports": [{"port": 80, "protocol": "tcp"}]}), "`tcp` is none of");
    let bad = endpoint_slice("IPv4", json!([{"port": 80}]), json!([{"addresses": ["fd00::1"]}]));
    assert!(slice(&bad, "n1").expect_err("refused").contains("is not of addressType IPv4"));
    let names = endpoint_slice("FQDN", json!([{"port": 80}]), json!([{"addresses": ["a.example.com"]}]));
    assert_eq!(slice(&names, "n1"), Ok(None));
}
