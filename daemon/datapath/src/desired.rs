//! A joined Service to what the tables should hold for it: addresses to answer on, and endpoints behind them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use fairlead_abi::{ServiceKey, ServiceValue, proto};
use fairlead_source::{Endpoint, Port, Protocol, Service};

/// One port of a Service, as the tables see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// Where it answers, with the flags of each address.
    pub keys: Vec<(ServiceKey, u32)>,
    /// Endpoints for clients on this node and for pods; sorted.
    pub list: Vec<SocketAddrV4>,
    /// Endpoints for clients from outside; sorted; `None` where no outside client is expected.
    pub ring: Option<Vec<SocketAddrV4>>,
}

/// What a Service needs, one item per port that has an address of our family.
pub fn wants(service: &Service, node_addresses: &[Ipv4Addr]) -> Vec<Want> {
    service.ports.iter().filter_map(|port| want(service, port, node_addresses)).collect()
}

fn want(service: &Service, port: &Port, node_addresses: &[Ipv4Addr]) -> Option<Want> {
    let proto = match port.protocol {
        Protocol::Tcp => proto::TCP,
        Protocol::Udp => proto::UDP,
        Protocol::Sctp => return None,
    };
    let key = |addr: Ipv4Addr, port: u16| ServiceKey { addr: addr.octets(), port: port.to_be_bytes(), proto, pad: 0 };
    let mut keys: Vec<_> = v4(&service.cluster_ips).map(|addr| (key(addr, port.port), 0)).collect();
    let inside = keys.len();
    keys.extend(v4(&service.external_ips).map(|addr| (key(addr, port.port), 0)));
    if let Some(node_port) = port.node_port {
        keys.extend(node_addresses.iter().map(|addr| (key(*addr, node_port), ServiceValue::NODE_ADDRESS)));
    }
    if keys.is_empty() {
        return None;
    }
    let from_outside = keys.len() > inside;
    let list = usable(&port.endpoints, service.internal_local);
    let ring = from_outside.then(|| usable(&port.endpoints, service.external_local));
    Some(Want { keys, list, ring })
}

/// Ready endpoints; without any, those that still serve while they end (KEP-1669).
fn usable(endpoints: &[Endpoint], local_only: bool) -> Vec<SocketAddrV4> {
    let pick = |wanted: fn(&Endpoint) -> bool| {
        let mut found: Vec<SocketAddrV4> = endpoints
            .iter()
            .filter(|endpoint| wanted(endpoint) && (endpoint.local || !local_only))
            .filter_map(|endpoint| match endpoint.address {
                SocketAddr::V4(address) => Some(address),
                SocketAddr::V6(_) => None,
            })
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    };
    let ready = pick(|endpoint| endpoint.ready);
    if ready.is_empty() { pick(|endpoint| endpoint.serving && endpoint.terminating) } else { ready }
}

fn v4(addresses: &[IpAddr]) -> impl Iterator<Item = Ipv4Addr> + '_ {
    addresses.iter().filter_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairlead_source::ServiceName;

    fn endpoint(last: u8, ready: bool, terminating: bool, local: bool) -> Endpoint {
        let address = SocketAddr::from(([10, 244, 0, last], 8080));
        Endpoint { address, ready, serving: true, terminating, local }
    }

    fn service(endpoints: Vec<Endpoint>) -> Service {
        Service {
            name: ServiceName { namespace: "default".into(), name: "echo".into() },
            cluster_ips: vec!["10.96.0.7".parse().unwrap(), "fd00::7".parse().unwrap()],
            external_ips: Vec::new(),
            affinity: None,
            internal_local: false,
            external_local: false,
            ports: vec![Port {
                name: String::new(),
                protocol: Protocol::Tcp,
                port: 80,
                node_port: Some(30_080),
                endpoints,
            }],
        }
    }

    fn last(addresses: &[SocketAddrV4]) -> Vec<u8> {
        addresses.iter().map(|address| address.ip().octets()[3]).collect()
    }

    #[test]
    fn a_node_port_answers_on_every_address_of_the_node() {
        let nodes = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
        let wants = wants(&service(vec![endpoint(2, true, false, true)]), &nodes);
        assert_eq!(wants.len(), 1);
        assert_eq!(wants[0].keys.len(), 3);
        assert_eq!(wants[0].keys[2].0.addr, [192, 0, 2, 2]);
        assert_eq!(wants[0].keys[2].0.port, 30_080u16.to_be_bytes());
        assert_eq!(last(wants[0].ring.as_deref().unwrap()), [2]);
    }

    #[test]
    fn without_ready_endpoints_those_that_end_go_on_serving() {
        let found = wants(&service(vec![endpoint(2, false, true, true), endpoint(3, false, false, true)]), &[]);
        assert_eq!(last(&found[0].list), [2]);
        let found = wants(&service(vec![endpoint(2, false, true, true), endpoint(3, true, false, true)]), &[]);
        assert_eq!(last(&found[0].list), [3]);
    }

    #[test]
    fn a_local_policy_keeps_to_local_endpoints() {
        let mut service = service(vec![endpoint(2, true, false, true), endpoint(3, true, false, false)]);
        service.external_local = true;
        let found = wants(&service, &[Ipv4Addr::LOCALHOST]);
        assert_eq!(last(&found[0].list), [2, 3]);
        assert_eq!(last(found[0].ring.as_deref().unwrap()), [2]);
    }
}
