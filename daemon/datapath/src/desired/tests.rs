//! Rules by example: a Service in, addresses and sets out.

use std::time::Duration;

use fairlead_source::{Protocol, ServiceName};

use super::*;

fn endpoint(last: u8, ready: bool, terminating: bool, local: bool) -> Endpoint {
    let address = SocketAddr::from(([10, 244, 0, last], 8080));
    Endpoint { ready, terminating, local, ..Endpoint::local(address) }
}

fn ready(last: u8, local: bool) -> Endpoint {
    endpoint(last, true, false, local)
}

fn service(endpoints: Vec<Endpoint>) -> Service {
    Service {
        name: ServiceName { namespace: "default".into(), name: "echo".into() },
        cluster_ips: vec!["10.96.0.7".parse().unwrap()],
        ports: vec![Port {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: Some(30_080),
            endpoints,
        }],
        ..Service::default()
    }
}

fn site() -> Site {
    let addresses: Vec<IpAddr> = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
    Site { addresses: addresses.clone(), node_port_addresses: addresses, ..Site::default() }
}

fn last(members: &[Member]) -> Vec<u8> {
    members
        .iter()
        .map(|(address, _)| match address.ip() {
            IpAddr::V4(addr) => addr.octets()[3],
            IpAddr::V6(addr) => addr.octets()[15],
        })
        .collect()
}

fn flags(want: &Want, addr: &str, port: u16) -> Option<u32> {
    let key = Key::new(addr.parse().unwrap(), port, want.label.proto);
    want.keys.iter().find(|(other, _)| *other == key).map(|(_, flags)| *flags)
}

#[test]
fn a_node_port_answers_on_the_nodes_addresses_of_the_services_families() {
    let found = wants(&service(vec![ready(2, true)]), &site());
    assert_eq!(found.len(), 1, "no family without a ClusterIP: {found:?}");
    let external = ServiceValue::EXTERNAL | ServiceValue::NODE_ADDRESS;
    assert_eq!(flags(&found[0], "10.96.0.7", 80), Some(0));
    assert_eq!(flags(&found[0], "192.0.2.1", 30_080), Some(external));
    assert_eq!(flags(&found[0], "127.0.0.1", 30_080), None);
    assert_eq!(last(&found[0].ring), [2]);
    let mut service = service(vec![ready(2, true)]);
    service.cluster_ips.push("fd00::7".parse().unwrap());
    let found = wants(&service, &Site { loopback: true, ..site() });
    assert_eq!(found.len(), 2);
    assert_eq!(flags(&found[0], "127.0.0.1", 30_080), Some(external | ServiceValue::SOCKETS_ONLY));
    assert_eq!(flags(&found[1], "2001:db8::1", 30_080), Some(external));
    assert_eq!(flags(&found[1], "::1", 30_080), Some(external | ServiceValue::SOCKETS_ONLY));
    assert!(found[1].internal.is_empty() && !found[1].has_endpoints, "its endpoints are of the other family");
}

#[test]
fn external_addresses_carry_policy_ranges_and_direct_return() {
    let mut service = service(vec![ready(2, true)]);
    service.load_balancer_ips = vec!["203.0.113.1".parse().unwrap(), "192.0.2.1".parse().unwrap()];
    service.external_ips = vec!["203.0.113.9".parse().unwrap()];
    service.source_ranges = vec!["198.51.100.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
    service.external_local = true;
    service.dsr = Some(Dsr::Ipip);
    let found = wants(&service, &site());
    let local = ServiceValue::EXTERNAL | ServiceValue::EXTERNAL_LOCAL;
    let ranges = ServiceValue::SOURCE_RANGES;
    assert_eq!(flags(&found[0], "203.0.113.1", 80), Some(local | ranges | ServiceValue::DSR_IPIP));
    let own = ServiceValue::NODE_ADDRESS | ServiceValue::DSR_IPIP;
    assert_eq!(flags(&found[0], "192.0.2.1", 80), Some(local | ranges | own));
    assert_eq!(flags(&found[0], "192.0.2.1", 30_080), Some(local | ranges | own));
    assert_eq!(flags(&found[0], "203.0.113.9", 80), None, "external IPs are off");
    assert_eq!(found[0].ranges, ["198.51.100.0/24".parse::<IpNet>().unwrap()]);
    assert!(found[0].decapsulate);
    let found = wants(&service, &Site { external_ips: true, ..site() });
    assert_eq!(flags(&found[0], "203.0.113.9", 80), Some(local | ServiceValue::DSR_IPIP));
}

#[test]
fn without_ready_endpoints_those_that_end_go_on_serving() {
    let found = wants(&service(vec![endpoint(2, false, true, true), endpoint(3, false, false, true)]), &site());
    assert_eq!(last(&found[0].internal), [2]);
    let found = wants(&service(vec![endpoint(2, false, true, true), ready(3, true)]), &site());
    assert_eq!(last(&found[0].internal), [3]);
    let found = wants(&service(vec![endpoint(3, false, false, true)]), &site());
    assert!(found[0].internal.is_empty() && !found[0].has_endpoints);
}

#[test]
fn a_local_policy_keeps_to_local_endpoints_and_looks_for_those_that_end_on_its_own() {
    let mut service = service(vec![endpoint(2, false, true, true), ready(3, false)]);
    service.external_local = true;
    let found = wants(&service, &site());
    assert_eq!(last(&found[0].internal), [3]);
    assert_eq!(last(&found[0].cluster), [3]);
    assert_eq!(last(&found[0].ring), [2]);
    service.internal_local = true;
    service.ports[0].endpoints.remove(0);
    let found = wants(&service, &site());
    assert!(found[0].internal.is_empty() && found[0].ring.is_empty() && found[0].has_endpoints);
    assert_eq!(flags(&found[0], "10.96.0.7", 80), Some(ServiceValue::INTERNAL_LOCAL));
    assert_eq!(last(&found[0].cluster), [3], "clients inside are not bound by the external policy");
}

#[test]
fn hints_bind_cluster_sets_alone() {
    let far = Endpoint { near: false, ..ready(2, true) };
    let mut service = service(vec![far, ready(3, false)]);
    service.external_local = true;
    let found = wants(&service, &site());
    assert_eq!((last(&found[0].internal), last(&found[0].ring)), (vec![3], vec![2]));
    service.external_local = false;
    service.dsr = Some(Dsr::L2);
    assert_eq!(last(&wants(&service, &site())[0].ring), [2, 3], "every node must come to one choice");
}

#[test]
fn weights_are_in_lowest_terms_and_zero_is_for_want_of_others() {
    let weigh = |weights: &[u16]| {
        let ends = weights.iter().zip(2..).map(|(weight, end)| Endpoint { weight: *weight, ..ready(end, true) });
        wants(&service(ends.collect()), &site())[0].internal.iter().map(|(_, weight)| *weight).collect::<Vec<_>>()
    };
    assert_eq!(weigh(&[1, 1, 1]), [1, 1, 1]);
    assert_eq!(weigh(&[4, 0, 6]), [2, 3]);
    assert_eq!(weigh(&[0, 0]), [1, 1]);
}

#[test]
fn affinity_and_sctp_come_through() {
    let mut service = service(vec![ready(2, true)]);
    service.affinity = Some(Duration::from_secs(10_800));
    service.ports[0].protocol = Protocol::Sctp;
    let found = wants(&service, &site());
    assert_eq!((found[0].affinity, found[0].label.proto), (10_800, 132));
}
