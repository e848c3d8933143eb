//! Who has which address in the packet tests, per family; and services made of them.

use std::net::{IpAddr, SocketAddr};

use fairlead_source::{Endpoint, Port, Protocol, Service, ServiceName};

use super::proto;

/// The addresses of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// IPv4, not IPv6.
    pub v4: bool,
}

/// Port of every service on its own address.
pub const PORT: u16 = 80;
/// Port of every endpoint.
pub const TARGET: u16 = 8080;
/// Port of the service `n` on the node: this plus `n`.
pub const NODE_PORT: u16 = 30_000;

impl Plan {
    /// Both families.
    pub const BOTH: [Self; 2] = [Self { v4: true }, Self { v4: false }];

    fn ip(self, v4: &str, v6: &str, last: u16) -> IpAddr {
        let text = if self.v4 { format!("{v4}{last}") } else { format!("{v6}{last:x}") };
        text.parse().expect("the plan is made of addresses")
    }

    /// The node under test.
    pub fn node(self) -> IpAddr {
        self.ip("192.0.2.", "2001:db8::", 1)
    }

    /// Another node, on the link.
    pub fn peer(self) -> IpAddr {
        self.ip("192.0.2.", "2001:db8::", 2)
    }

    /// The router, on the link.
    pub fn gateway(self) -> IpAddr {
        self.ip("192.0.2.", "2001:db8::", 254)
    }

    /// A client beyond the router.
    pub fn client(self, n: u16) -> IpAddr {
        self.ip("198.51.100.", "2001:db8:c::", n)
    }

    /// A pod of this node. 11 and 12 have interfaces.
    pub fn pod(self, n: u16) -> IpAddr {
        self.ip("10.244.0.", "fd00:10:244::", n)
    }

    /// A pod of the other node.
    pub fn remote(self, n: u16) -> IpAddr {
        self.ip("10.244.1.", "fd00:10:244:1::", n)
    }

    /// The address of service `n` inside the cluster.
    pub fn vip(self, n: u16) -> IpAddr {
        self.ip("10.96.0.", "fd00:10:96::", n)
    }

    /// Its address at a load balancer.
    pub fn balancer(self, n: u16) -> IpAddr {
        self.ip("203.0.113.", "2001:db8:1b::", n)
    }

    /// Its external IP.
    pub fn external(self, n: u16) -> IpAddr {
        self.ip("192.88.99.", "2001:db8:e::", n)
    }

    /// What pods reach under their own address, though it is outside the cluster.
    pub fn near(self, n: u16) -> IpAddr {
        self.ip("10.99.0.", "fd00:10:99::", n)
    }

    /// Networks as the configuration has them: where pods live, and what is near.
    pub fn networks(self) -> (&'static str, &'static str) {
        if self.v4 { ("10.244.0.0/16", "10.99.0.0/16") } else { ("fd00:10:244::/48", "fd00:10:99::/48") }
    }

    /// The number of ICMP.
    pub fn icmp(self) -> u8 {
        if self.v4 { proto::ICMP } else { proto::ICMPV6 }
    }

    /// "Fragmentation needed" or "packet too big": type, code.
    pub fn too_big(self) -> (u8, u8) {
        if self.v4 { (3, 4) } else { (2, 0) }
    }

    /// "Port unreachable": type, code.
    pub fn port_unreachable(self) -> (u8, u8) {
        if self.v4 { (3, 3) } else { (1, 4) }
    }

    /// "Time exceeded": type, code.
    pub fn time_exceeded(self) -> (u8, u8) {
        if self.v4 { (11, 0) } else { (3, 0) }
    }

    /// Service `n` of this family on all its addresses: [`Plan::vip`] and [`Plan::balancer`] at [`PORT`],
    /// [`NODE_PORT`] plus `n`.
    pub fn service(self, n: u16, protocol: Protocol, endpoints: Vec<Endpoint>) -> Service {
        Service {
            name: ServiceName { namespace: "default".into(), name: format!("s{n}-{protocol:?}").to_lowercase() },
            cluster_ips: vec![self.vip(n)],
            load_balancer_ips: vec![self.balancer(n)],
            ports: vec![Port { name: String::new(), protocol, port: PORT, node_port: Some(NODE_PORT + n), endpoints }],
            ..Service::default()
        }
    }

    /// An endpoint on this node.
    pub fn here(self, n: u16) -> Endpoint {
        Endpoint::local(self.target(self.pod(n)))
    }

    /// An endpoint on the other node.
    pub fn there(self, n: u16) -> Endpoint {
        Endpoint::remote(self.target(self.remote(n)))
    }

    /// The endpoint's port at an address.
    pub fn target(self, address: IpAddr) -> SocketAddr {
        SocketAddr::new(address, TARGET)
    }

    /// Where service `n` is reached: ClusterIP, load balancer, NodePort.
    pub fn doors(self, n: u16) -> [SocketAddr; 3] {
        [
            SocketAddr::new(self.vip(n), PORT),
            SocketAddr::new(self.balancer(n), PORT),
            SocketAddr::new(self.node(), NODE_PORT + n),
        ]
    }
}

/// The IP protocol of a Service's.
pub fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => proto::TCP,
        Protocol::Udp => proto::UDP,
        Protocol::Sctp => proto::SCTP,
    }
}
