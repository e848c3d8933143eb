//! The join's rules, one test each.

use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::front::{AFFINITY_DEFAULT, DSR};
use super::slice::{SERVICE_NAME, WEIGHTS};
use super::*;
use crate::service::Dsr;

/// The node of these tests.
const HERE: Place<'static> = Place { node: "n1", zone: Some("east") };

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
    joined_at(HERE, spec, slices)
}

fn joined_at(place: Place<'_>, spec: Value, slices: &[EndpointSlice]) -> Service {
    let name = ServiceName { namespace: "default".into(), name: "web".into() };
    let front = front(&service(spec)).expect("valid").expect("ours");
    let slices: Vec<Slice> = slices.iter().map(|one| slice(one, place.node).expect("valid").expect("ours").1).collect();
    join(&name, &front, slices.iter(), place)
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
        "metadata": {"namespace": "default", "name": "web", "annotations": {DSR: "ipip"}},
        "spec": {
            "clusterIP": "10.96.0.7", "ports": [{"port": 80}], "type": "LoadBalancer", "healthCheckNodePort": 30080,
            "sessionAffinity": "ClientIP", "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local",
            "externalIPs": ["192.0.2.9", "2001:db8::9"],
            "loadBalancerSourceRanges": ["198.51.100.7/24", " 203.0.113.0/25 ", "2001:db8::/32"],
        },
        "status": {"loadBalancer": {"ingress": [
            {"ip": "192.0.2.2", "ipMode": "VIP"}, {"ip": "192.0.2.1"}, {"ip": "192.0.2.3", "ipMode": "Proxy"},
            {"hostname": "lb.example.com"}, {"ip": "127.0.0.1"}, {"ip": "2001:db8::1"},
        ]}},
    }))
    .expect("a Service");
    let front = front(&object).expect("valid").expect("ours");
    let texts = |addresses: &[IpAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(texts(&front.load_balancer_ips), ["192.0.2.1", "192.0.2.2"], "only VIPs, of the families of clusterIPs");
    assert_eq!(texts(&front.external_ips), ["192.0.2.9"]);
    let ranges: Vec<String> = front.source_ranges.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["198.51.100.0/24", "203.0.113.0/25", "2001:db8::/32"]);
    assert_eq!(front.affinity, Some(AFFINITY_DEFAULT));
    assert!(front.internal_local && front.external_local);
    assert_eq!((front.health_check_node_port, front.dsr), (Some(30080), Some(Dsr::Ipip)));
}

#[test]
fn a_health_check_port_needs_a_balancer_and_a_local_policy() {
    let port = |kind: &str, policy: &str| {
        let spec = json!({"clusterIP": "10.96.0.7", "ports": [{"port": 80}], "type": kind,
            "externalTrafficPolicy": policy, "healthCheckNodePort": 30080});
        joined(spec, &[]).health_check_node_port
    };
    assert_eq!(port("LoadBalancer", "Local"), Some(30080));
    assert_eq!(port("LoadBalancer", "Cluster"), None);
    assert_eq!(port("NodePort", "Local"), None);
}

#[test]
fn an_affinity_has_the_timeout_it_asks_for() {
    let spec = json!({"clusterIP": "10.96.0.7", "ports": [{"port": 80}], "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 7}}});
    assert_eq!(joined(spec, &[]).affinity, Some(Duration::from_secs(7)));
}

/// The endpoints of a family that the Service does not have are nobody's, as in kube-proxy.
#[test]
fn a_family_without_a_cluster_ip_has_no_endpoints() {
    let v6 = endpoint_slice("IPv6", json!([{"port": 8080}]), json!([{"addresses": ["fd00:1::2"]}]));
    let v4 = endpoint_slice("IPv4", json!([{"port": 8080}]), json!([{"addresses": ["10.244.0.2"]}]));
    let service = joined(json!({"clusterIP": "fd00::7", "ports": [{"port": 80}]}), &[v6, v4]);
    assert_eq!(addresses(&service.ports[0]), ["[fd00:1::2]:8080"]);
}

#[test]
fn weights_are_the_annotations_and_one_otherwise() {
    let endpoints = json!([
        {"addresses": ["10.244.0.2"]}, {"addresses": ["10.244.0.3"]}, {"addresses": ["10.244.0.4"]},
    ]);
    let mut slice = endpoint_slice("IPv4", json!([{"port": 8080}]), endpoints);
    let weights = "10.244.0.3 = 256, 10.244.0.4=0,10.244.0.99=5,";
    slice.metadata.annotations = Some([(WEIGHTS.to_owned(), weights.to_owned())].into());
    let service = joined(json!({"clusterIP": "10.96.0.7", "ports": [{"port": 80}]}), &[slice]);
    let weights: Vec<u16> = service.ports[0].endpoints.iter().map(|one| one.weight).collect();
    assert_eq!(weights, [1, 256, 0]);
}

/// Each endpoint: ready, nodes and zones it is hinted for; then which are near from node n1 in zone east.
#[test]
fn hints_hold_all_or_nothing_as_in_kube_proxy() {
    type Row<'a> = (bool, &'a [&'a str], &'a [&'a str]);
    let check = |place: Place<'_>, rows: &[Row<'_>], expected: &[bool]| {
        let list = |names: &[&str]| names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>();
        let endpoints: Vec<Value> = rows
            .iter()
            .enumerate()
            .map(|(index, (ready, nodes, zones))| {
                json!({"addresses": [format!("10.244.0.{}", index + 1)], "conditions": {"ready": ready},
                    "hints": {"forNodes": list(nodes), "forZones": list(zones)}})
            })
            .collect();
        let slice = endpoint_slice("IPv4", json!([{"port": 8080}]), endpoints.into());
        let service = joined_at(place, json!({"clusterIP": "10.96.0.7", "ports": [{"port": 80}]}), &[slice]);
        let near: Vec<bool> = service.ports[0].endpoints.iter().map(|one| one.near).collect();
        assert_eq!(near, expected, "{rows:?} at {place:?}");
    };
    check(HERE, &[(true, &[], &["east"]), (true, &[], &["west"])], &[true, false]);
    check(HERE, &[(true, &[], &["west", "east"]), (true, &[], &["west"])], &[true, false]);
    // One that says nothing, or nobody for this zone: hints do not count.
    check(HERE, &[(true, &[], &["east"]), (true, &[], &[])], &[true, true]);
    check(HERE, &[(true, &[], &["west"]), (true, &[], &["north"])], &[true, true]);
    // Those not ready neither spoil it nor are kept away.
    check(HERE, &[(true, &[], &["east"]), (false, &[], &[]), (true, &[], &["west"])], &[true, true, false]);
    check(HERE, &[(false, &[], &["east"]), (true, &[], &["west"])], &[true, true]);
    // Nodes go before zones; without an endpoint for this node, zones count.
    check(HERE, &[(true, &["n1"], &["west"]), (true, &["n2"], &["east"])], &[true, false]);
    check(HERE, &[(true, &["n3"], &["east"]), (true, &["n2"], &["west"])], &[true, false]);
    check(HERE, &[(true, &["n1"], &["east"]), (true, &[], &["west"])], &[true, false]);
    let nowhere = Place { node: "n1", zone: None };
    check(nowhere, &[(true, &[], &["east"]), (true, &[], &["west"])], &[true, true]);
    check(nowhere, &[(true, &["n1"], &["east"]), (true, &["n2"], &["west"])], &[true, false]);
}

proptest! {
    /// Whatever hints say, a Service that has ready endpoints has near ones among them, in each family that has any.
    #[test]
    fn hints_never_leave_a_client_without_an_endpoint(
        rows in prop::collection::vec((any::<bool>(), any::<bool>(), prop::option::of(0..3_u8), prop::option::of(0..3_u8)), 0..8),
        zone in prop::option::of(0..3_u8),
    ) {
        let of_family = |wanted: bool| {
            let rows = rows.iter().enumerate().filter(|(_, row)| row.0 == wanted);
            let endpoints: Vec<Value> = rows
                .map(|(index, (ipv4, ready, node, zone))| {
                    let address = if *ipv4 { format!("10.244.0.{}", index + 1) } else { format!("fd00:1::{}", index + 1) };
                    let name = |kind: &str, number: &Option<u8>| {
                        number.iter().map(|number| json!({"name": format!("{kind}{number}")})).collect::<Vec<_>>()
                    };
                    json!({"addresses": [address], "conditions": {"ready": ready},
                        "hints": {"forNodes": name("n", node), "forZones": name("z", zone)}})
                })
                .collect();
            endpoint_slice(if wanted { "IPv4" } else { "IPv6" }, json!([{"port": 8080}]), endpoints.into())
        };
        let zone = zone.map(|number| format!("z{number}"));
        let place = Place { node: "n1", zone: zone.as_deref() };
        let spec = json!({"clusterIPs": ["10.96.0.7", "fd00::7"], "ports": [{"port": 80}]});
        let service = joined_at(place, spec, &[of_family(true), of_family(false)]);
        let endpoints = &service.ports[0].endpoints;
        prop_assert_eq!(endpoints.len(), rows.len());
        prop_assert!(endpoints.windows(2).all(|pair| pair[0].address < pair[1].address));
        for ipv4 in [true, false] {
            let ready: Vec<_> = endpoints.iter().filter(|one| one.address.is_ipv4() == ipv4 && one.ready).collect();
            prop_assert!(ready.is_empty() || ready.iter().any(|one| one.near), "{:?}", ready);
        }
    }
}

#[test]
fn each_family_has_its_own_hints() {
    let hinted = |kind: &str, address: &str, zone: Option<&str>| {
        let zones: Vec<Value> = zone.iter().map(|zone| json!({"name": zone})).collect();
        let one = json!({"addresses": [address], "hints": {"forZones": zones}});
        let mut slice = endpoint_slice(kind, json!([{"port": 8080}]), json!([one]));
        slice.metadata.name = Some(address.replace([':', '.'], "-"));
        slice
    };
    let slices = [
        hinted("IPv4", "10.244.0.1", Some("east")),
        hinted("IPv4", "10.244.0.2", Some("west")),
        hinted("IPv6", "fd00:1::1", Some("east")),
        hinted("IPv6", "fd00:1::2", None),
    ];
    let service = joined(json!({"clusterIPs": ["10.96.0.7", "fd00::7"], "ports": [{"port": 80}]}), &slices);
    let near: Vec<bool> = service.ports[0].endpoints.iter().map(|one| one.near).collect();
    assert_eq!(near, [true, false, true, true]);
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
fn slices_of_headless_services_and_of_other_proxies_are_no_business_of_ours() {
    for label in ["service.kubernetes.io/headless", PROXY_NAME] {
        let mut other = endpoint_slice("IPv4", json!([{"port": 80}]), json!([{"addresses": ["10.244.0.2"]}]));
        other.metadata.labels.get_or_insert_default().insert(label.to_owned(), String::new());
        assert_eq!(slice(&other, "n1"), Ok(None), "{label}");
    }
}

#[test]
fn last_good_refusals_name_the_field_and_the_value() {
    let check = |spec: Value, expected: &str| {
        let error = front(&service(spec)).expect_err(expected);
        assert!(error.contains(expected), "{error}");
    };
    let with = |field: &str, value: Value| {
        let mut spec = json!({"clusterIP": "10.96.0.3", "ports": [{"port": 80}]});
        spec[field] = value;
        spec
    };
    check(json!({"clusterIP": "10.96.0.300", "ports": [{"port": 80}]}), "`10.96.0.300` is not an IP address");
    check(json!({"clusterIP": "127.0.0.1", "ports": [{"port": 80}]}), "`127.0.0.1` is a loopback address");
    check(json!({"clusterIP": "0.0.0.0", "ports": [{"port": 80}]}), "the unspecified address");
    check(with("ports", json!([{"port": 70000}])), "spec.ports[].port: 70000 is not between 1 and 65535");
    check(with("ports", json!([{"port": 0}])), "spec.ports[].port: 0");
    check(with("ports", json!([{"port": 80, "nodePort": 70000}])), "spec.ports[].nodePort: 70000");
    check(with("ports", json!([{"port": 80, "protocol": "tcp"}])), "`tcp` is none of TCP, UDP, SCTP");
    check(with("ports", json!([{"port": 80}, {"port": 81}])), "several ports need a name each");
    check(with("ports", json!([{"name": "a", "port": 80}, {"name": "a", "port": 81}])), "`a` is there twice");
    check(with("ports", json!([{"name": "a", "port": 80}, {"name": "b", "port": 80}])), "80/TCP is there twice");
    let twice = json!([{"name": "a", "port": 80, "nodePort": 30080}, {"name": "b", "port": 81, "nodePort": 30080}]);
    check(with("ports", twice), "30080/TCP is there twice");
    check(with("ipFamilies", json!(["IPv5"])), "spec.ipFamilies: `IPv5` is none of IPv4, IPv6");
    check(with("ipFamilies", json!(["IPv6"])), "`10.96.0.3` is not of the family IPv6");
    check(with("clusterIPs", json!(["10.96.0.4"])), "`10.96.0.3` is not the first of clusterIPs");
    check(with("clusterIPs", json!(["10.96.0.3", "10.96.0.4"])), "are not one address per family");
    check(with("type", json!("Loadbalancer")), "spec.type: `Loadbalancer` is none of");
    check(with("externalIPs", json!(["224.0.0.1"])), "spec.externalIPs: `224.0.0.1` is a multicast address");
    check(with("loadBalancerSourceRanges", json!(["10.0.0.0/33"])), "`10.0.0.0/33` is not a CIDR");
    check(with("externalTrafficPolicy", json!("local")), "`local` is none of Cluster, Local");
    check(with("sessionAffinity", json!("Cookie")), "`Cookie` is none of None, ClientIP");
    let long = json!({"clientIP": {"timeoutSeconds": 86401}});
    let mut spec = with("sessionAffinity", json!("ClientIP"));
    spec["sessionAffinityConfig"] = long;
    check(spec, "86401 is not between 1 and 86400");
    let mut annotated = service(with("type", json!("NodePort")));
    annotated.metadata.annotations = Some([(DSR.to_owned(), "geneve".to_owned())].into());
    assert_eq!(
        front(&annotated),
        Err("metadata.annotations[fairlead.io/dsr]: `geneve` is none of off, ipip, l2".to_owned())
    );
}

#[test]
fn last_good_slices_are_refused_by_field_and_value() {
    let check = |kind: &str, ports: Value, address: &str, weights: &str, expected: &str| {
        let mut bad = endpoint_slice(kind, ports, json!([{"addresses": [address]}]));
        bad.metadata.annotations = Some([(WEIGHTS.to_owned(), weights.to_owned())].into());
        let error = slice(&bad, "n1").expect_err(expected);
        assert!(error.contains(expected), "{error}");
    };
    let good = || json!([{"port": 80}]);
    check("IPv4", good(), "fd00::1", "", "is not of addressType IPv4");
    check("IPv5", good(), "10.0.0.1", "", "addressType: `IPv5` is none of");
    check("IPv4", good(), "10.0.0.256", "", "`10.0.0.256` is not an IP address");
    check("IPv4", good(), "169.254.1.1", "", "is a link-local address");
    check("IPv6", good(), "::ffff:10.0.0.1", "", "is an IPv4-mapped address");
    check("IPv4", json!([{"port": 65536}]), "10.0.0.1", "", "ports[].port: 65536");
    check("IPv4", json!([{"port": 80, "protocol": "ICMP"}]), "10.0.0.1", "", "ports[].protocol: `ICMP`");
    check("IPv4", good(), "10.0.0.1", "10.0.0.1", "is not ADDRESS=WEIGHT");
    check("IPv4", good(), "10.0.0.1", "10.0.0.1=257", "is not between 0 and 256");
    check("IPv4", good(), "10.0.0.1", "web=1", "`web` is not an IP address");
    check("IPv4", good(), "10.0.0.1", "10.0.0.1=1,10.0.0.1=2", "10.0.0.1 is there twice");
    let names = endpoint_slice("FQDN", json!([{"port": 80}]), json!([{"addresses": ["a.example.com"]}]));
    assert_eq!(slice(&names, "n1"), Ok(None));
}
