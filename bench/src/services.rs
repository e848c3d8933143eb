//! Services in any number.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use fairlead_source::{Endpoint, Port, Protocol, Service, ServiceName};

/// The `number`-th service: a ClusterIP of its own, and endpoints `first..first + endpoints` of a network of its own.
pub fn service(number: u32, first: u32, endpoints: u32) -> Service {
    let endpoint =
        |end: u32| Endpoint::local(SocketAddr::from((Ipv4Addr::from(0x0af4_0000 + number * 64 + end), 8080)));
    Service {
        name: ServiceName { namespace: "bench".into(), name: format!("s{number}") },
        cluster_ips: vec![IpAddr::V4(Ipv4Addr::from(0x0a60_0001 + number))],
        ports: vec![Port {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
            endpoints: (first..first + endpoints).map(endpoint).collect(),
        }],
        ..Service::default()
    }
}
