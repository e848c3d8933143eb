//! Services in any number.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use fairlead_datapath::tables::{Capacity, Tables};
use fairlead_datapath::{Site, wants};
use fairlead_source::{Endpoint, Port, Protocol, Service, ServiceName};

/// Room for as many services as benchmarks plan.
pub const CAPACITY: Capacity = Capacity { services: 131_072, backends: 524_288, slots: 4_194_304 };

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

/// Tables that hold as many of them, with two endpoints each.
pub fn filled(services: u32) -> Tables {
    let mut tables = Tables::new(CAPACITY);
    for number in 0..services {
        let service = service(number, 0, 2);
        tables.plan(&service.name, &wants(&service, &Site::default()), Instant::now());
    }
    tables
}
